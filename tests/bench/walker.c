/*
 * The floor: a plain C walk of a kho radix tree in a raw dump of 4K pages.
 *
 *	cc -O2 -o walker walker.c && ./walker DUMP ROOT LEVELS ORDER0_BIT
 *
 * Trusts the dump, checks nothing: counts blocks, merged ranges and bytes.
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
static int order0_bit;
static uint64_t blocks, ranges, bytes, reach;

static void block(uint64_t key)
{
	int high = 63 - __builtin_clzll(key);
	int order = order0_bit - high;
	uint64_t start = (key ^ (1ULL << high)) << (12 + order);

	blocks++;
	bytes += (uint64_t)PAGE << order;
	ranges += start != reach;
	reach = start + ((uint64_t)PAGE << order);
}

static void walk(uint64_t paddr, int level, uint64_t key)
{
	const uint64_t *node = (const void *)(memory + paddr);

	for (int at = 0; at < PAGE / 8; at++) {
		uint64_t value = node[at];

		if (level) {
			if (value)
				walk(value, level - 1,
				     key | (uint64_t)at << ((level - 1) * 9 + 15));
			continue;
		}
		for (; value; value &= value - 1)
			block(key | (at * 64 + __builtin_ctzll(value)));
	}
}

int main(int argc, char **argv)
{
	struct stat st;
	int fd;

	if (argc != 5)
		return 2;
	fd = open(argv[1], O_RDONLY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return 1;
	memory = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return 1;
	order0_bit = atoi(argv[4]);
	reach = 1;
	walk(strtoull(argv[2], NULL, 0), atoi(argv[3]) - 1, 0);
	printf("%llu blocks, %llu ranges, %llu bytes\n", (unsigned long long)blocks,
	       (unsigned long long)ranges, (unsigned long long)bytes);
	return 0;
}
