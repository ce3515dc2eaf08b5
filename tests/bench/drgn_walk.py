#!/usr/bin/env python3
"""What one would write in drgn today: walk the tree of a raw dump, print the ranges as JSON.

    python tests/bench/drgn_walk.py DUMP ROOT LEVELS ORDER0_BIT

4K pages. drgn knows no KHO types, so that the nodes are read as arrays of u64.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Iterator

import drgn

PAGE = 4096


def open_dump(path: str) -> drgn.Program:
    """A program whose physical memory is a raw file."""
    fd = os.open(path, os.O_RDONLY)
    prog = drgn.Program(drgn.host_platform)
    prog.add_memory_segment(
        0, os.fstat(fd).st_size, lambda address, count, offset, _: os.pread(fd, count, offset), True
    )
    return prog


def keys(prog: drgn.Program, paddr: int, level: int, key: int) -> Iterator[int]:
    """Every key whose bit is set, in order."""
    words = struct.unpack("<512Q", prog.read(paddr, PAGE, True))
    if level:
        for index, child in enumerate(words):
            if child:
                yield from keys(prog, child, level - 1, key | index << ((level - 1) * 9 + 15))
        return
    for index, word in enumerate(words):
        if word:
            for bit in range(64):
                if word >> bit & 1:
                    yield key | index << 6 | bit


def main(dump: str, root: int, levels: int, order0_bit: int) -> None:
    """Print blocks and merged ranges; seconds of the walk go to stderr."""
    prog = open_dump(dump)
    began = time.perf_counter()
    blocks, ranges = 0, []
    start = end = -1
    for key in keys(prog, root, levels - 1, 0):
        high = key.bit_length() - 1
        order = order0_bit - high
        paddr = (key ^ 1 << high) << (12 + order)
        blocks += 1
        if paddr != end:
            if end >= 0:
                ranges.append((start, end))
            start = paddr
        end = paddr + (PAGE << order)
    if end >= 0:
        ranges.append((start, end))
    sys.stderr.write(f"{time.perf_counter() - began:.6f}\n")
    listed = [{"start": hex(first), "end": hex(last)} for first, last in ranges]
    print(json.dumps({"blocks": blocks, "ranges": listed}))


if __name__ == "__main__":
    main(sys.argv[1], *(int(text, 0) for text in sys.argv[2:5]))
