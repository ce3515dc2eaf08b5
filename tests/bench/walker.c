/*
 * The floor: a C walk of a kho radix tree in a raw dump of 4K pages, word by word.
 *
 *	cc -O3 -march=native -o walker walker.c
 *	./walker DUMP ROOT LEVELS ORDER0_BIT [ranges | luo BLOB]
 *
 * Trusts the dump: counts blocks, merged ranges and bytes, or prints the ranges. With the blob of
 * a luo-v5 it reads all sessions, files and folios, and holds each folio to the blocks of the tree
 * and to the one before it. Run by run: it takes the runs to hold them against RAM and owners, as
 * check does.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE 4096
#define BITS (PAGE * 8)

static const char *memory;
static int order0_bit, print;
static uint64_t blocks, ranges, bytes, from, reach = 1;
static uint8_t *heads; /* of each page frame: order + 1 of the block that starts there */
static uint64_t sessions, files, folios, content, odd;

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
		if (heads)
			heads[start / PAGE] = order0_bit - high + 1;
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
		for (uint64_t rest = heads ? word : 0; rest; rest &= rest - 1)
			heads[(first + __builtin_ctzll(rest) * unit) / PAGE] =
				order0_bit - high + 1;
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

/* struct memfd_luo_ser: pos, size, seals and flags, nr_folios; first, total_pages, flags, order */
static int memfd(const uint64_t *fields)
{
	uint64_t left = fields[3], size = PAGE << (fields[5] >> 48), next = 0, bad = 0;

	for (const uint64_t *chunk = (const void *)(memory + fields[4]); left;
	     chunk = (const void *)(memory + chunk[0])) {
		for (int at = 1; at < PAGE / 8 && chunk[at]; at++) {
			const uint64_t *entry = (const void *)(memory + chunk[at]);

			for (uint64_t n = size / 16; n && left; n--, left--, entry += 2) {
				uint64_t pfn = entry[0] << 12 >> 12, order = heads[pfn];

				bad |= ((entry[0] >> 52) ^ 3) | (entry[1] ^ next) | !order;
				next += 1ULL << (order - 1);
				folios++;
			}
		}
		if (!chunk[0])
			break;
	}
	content += next * PAGE;
	return bad || left || next * PAGE < fields[1];
}

/* Chains of kho_blocks: struct luo_session_ser and struct luo_file_ser. */
static void luo(uint64_t session_block)
{
	for (uint64_t at = session_block; at; at = *(const uint64_t *)(memory + at)) {
		const uint64_t *block = (const void *)(memory + at);

		for (uint64_t n = 0; n < block[1]; n++, sessions++) {
			const uint64_t *session = block + 2 + n * 10;

			for (uint64_t list = session[8]; list;) {
				const uint64_t *held = (const void *)(memory + list);

				for (uint64_t m = 0; m < held[1]; m++, files++) {
					const uint64_t *file = held + 2 + m * 8;

					odd += strcmp((const char *)file, "memfd-v2") ||
					       memfd((const void *)(memory + file[6]));
				}
				list = held[0];
			}
		}
	}
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
	print = argc == 6;
	if (argc > 6)
		heads = calloc(st.st_size / PAGE + 1, 1);
	walk(strtoull(argv[2], NULL, 0), atoi(argv[3]) - 1, 0);
	if (print) {
		run(reach + 1, 0);
		return 0;
	}
	if (heads) {
		luo(((const uint64_t *)(memory + strtoull(argv[6], NULL, 0)))[2]);
		printf("%llu sessions, %llu files, %llu folios, %llu bytes, %llu odd\n",
		       (unsigned long long)sessions, (unsigned long long)files,
		       (unsigned long long)folios, (unsigned long long)content,
		       (unsigned long long)odd);
		return 0;
	}
	printf("%llu blocks, %llu ranges, %llu bytes\n", (unsigned long long)blocks,
	       (unsigned long long)ranges, (unsigned long long)bytes);
	return 0;
}
