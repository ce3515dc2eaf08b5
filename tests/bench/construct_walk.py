#!/usr/bin/env python3
"""The obvious Construct program: nodes as ``Array``, every bit by itself. Seconds go to stderr.

python tests/bench/construct_walk.py DUMP ROOT LEVELS ORDER0_BIT
"""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from construct import Array, Int64ul, Struct

NODE = Struct("table" / Array(512, Int64ul))
LEAF = Struct("bitmap" / Array(512, Int64ul))


def keys(memory: mmap.mmap, paddr: int, level: int, key: int) -> Iterator[int]:
    """Every key whose bit is set, in order."""
    data = memory[paddr : paddr + 4096]
    if level:
        for index, child in enumerate(NODE.parse(data).table):
            if child:
                yield from keys(memory, child, level - 1, key | index << ((level - 1) * 9 + 15))
        return
    for index, word in enumerate(LEAF.parse(data).bitmap):
        for bit in range(64):
            if word >> bit & 1:
                yield key | index << 6 | bit


def main(dump: str, root: int, levels: int, order0_bit: int) -> None:
    """Print the number of blocks and merged ranges."""
    with Path(dump).open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    began = time.perf_counter()
    blocks = ranges = 0
    end = -1
    for key in keys(memory, root, levels - 1, 0):
        high = key.bit_length() - 1
        order = order0_bit - high
        paddr = (key ^ 1 << high) << (12 + order)
        blocks += 1
        ranges += paddr != end
        end = paddr + (4096 << order)
    sys.stderr.write(f"{time.perf_counter() - began:.6f}\n")
    print(blocks, ranges)


if __name__ == "__main__":
    main(sys.argv[1], *(int(text, 0) for text in sys.argv[2:5]))
