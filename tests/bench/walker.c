/*
 * The floor: a C walk of a kho radix tree in a raw dump of 4K pages, word by word.
 *
 *	cc -O3 -march=native -o walker walker.c && ./walker DUMP ROOT LEVELS ORDER0_BIT [ranges]
 *
 * Trusts the dump, checks nothing: counts blocks, merged ranges and bytes, or prints the ranges.
 * Either way run by run: it takes the runs to hold them against RAM and owners, as check does.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE 4096
#define BITS (PAGE * 8)

static const char *memory;
static int order0_bit, print;
static uint64_t blocks, ranges, bytes, from, reach = 1;

static void run(uint64_t start, uint64_t end)
{
	if (start != reach) {
		if (print && ranges)
			printf("0x%llx-0x%llx\n", (unsigned long long)from,
			       (unsigned long long)reach);
		ranges++;
		from = start;
	}
	reach = end;
}

/* The leaf of the lowest keys: its blocks are of several orders. */
static void mixed_leaf(const uint64_t *words)
{
	for (uint64_t key = 1; key < BITS; key++) {
		int high = 63 - __builtin_clzll(key);
		uint64_t unit = (uint64_t)PAGE << (order0_bit - high);
		uint64_t start = (key ^ (1ULL << high)) * unit;

		if (!(words[key / 64] >> key % 64 & 1))
			continue;
		blocks++;
		bytes += unit;
		run(start, start + unit);
	}
}

static void leaf(const uint64_t *words, uint64_t key)
{
	int high = 63 - __builtin_clzll(key);
	uint64_t unit = (uint64_t)PAGE << (order0_bit - high);
	uint64_t base = (key ^ (1ULL << high)) * unit, count = 0;

	for (int at = 0; at < PAGE / 8; at++) {
		uint64_t word = words[at], first = base + (uint64_t)at * 64 * unit;

		count += __builtin_popcountll(word);
		while (word) {
			int low = __builtin_ctzll(word);
			uint64_t rest = ~(word >> low);
			int size = rest ? __builtin_ctzll(rest) : 64;

			run(first + low * unit, first + (low + size) * unit);
			word = low + size < 64 ? word & ~0ULL << (low + size) : 0;
		}
	}
	blocks += count;
	bytes += count * unit;
}

static void walk(uint64_t paddr, int level, uint64_t key)
{
	const uint64_t *node = (const void *)(memory + paddr);

	if (!level) {
		if (key)
			leaf(node, key);
		else
			mixed_leaf(node);
		return;
	}
	for (uint64_t at = 0; at < PAGE / 8; at++)
		if (node[at])
			walk(node[at], level - 1, key | at << ((level - 1) * 9 + 15));
}

int main(int argc, char **argv)
{
	struct stat st;
	int fd;

	if (argc < 5)
		return 2;
	fd = open(argv[1], O_RDONLY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return 1;
	memory = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return 1;
	order0_bit = atoi(argv[4]);
	print = argc > 5;
	walk(strtoull(argv[2], NULL, 0), atoi(argv[3]) - 1, 0);
	if (print) {
		run(reach + 1, 0);
		return 0;
	}
	printf("%llu blocks, %llu ranges, %llu bytes\n", (unsigned long long)blocks,
	       (unsigned long long)ranges, (unsigned long long)bytes);
	return 0;
}
