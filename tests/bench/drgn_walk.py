#!/usr/bin/env python3
"""What one would write in drgn with numpy: walk the tree of a raw dump, print the merged ranges.

    python tests/bench/drgn_walk.py DUMP ROOT LEVELS ORDER0_BIT [ranges]

4K pages. drgn knows no KHO types, so that the nodes are read as arrays of u64. No leaf of blocks
of several orders: none is smaller than 512 TiB. Without ``ranges`` it prints their number.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import drgn
import numpy as np
from numpy.typing import NDArray

PAGE = 4096


def open_dump(path: str) -> drgn.Program:
    """A program whose physical memory is a raw file."""
    fd = os.open(path, os.O_RDONLY)
    prog = drgn.Program(drgn.host_platform)
    prog.add_memory_segment(
        0, os.fstat(fd).st_size, lambda address, count, offset, _: os.pread(fd, count, offset), True
    )
    return prog


def leaves(
    prog: drgn.Program, paddr: int, level: int, key: int
) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """The first key and the words of every leaf, in order."""
    words = np.frombuffer(prog.read(paddr, PAGE, True), "<u8")
    if not level:
        yield key, words
        return
    for at in np.flatnonzero(words).tolist():
        yield from leaves(prog, int(words[at]), level - 1, key | at << ((level - 1) * 9 + 15))


def main(dump: str, root: int, levels: int, order0_bit: int, ranges: bool) -> None:
    """Print the number of blocks and merged ranges, or the ranges."""
    blocks, parts = 0, []
    for key, words in leaves(open_dump(dump), root, levels - 1, 0):
        high = key.bit_length() - 1
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        runs = np.flatnonzero(np.diff(bits, prepend=0, append=0)).reshape(-1, 2)
        blocks += int((runs[:, 1] - runs[:, 0]).sum())
        parts.append((key ^ 1 << high) + runs << (12 + order0_bit - high))
    runs = np.concatenate(parts)
    gap = runs[1:, 0] != runs[:-1, 1]
    starts, ends = runs[np.append(True, gap), 0], runs[np.append(gap, True), 1]
    if ranges:
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        sys.stdout.writelines(f"0x{start:x}-0x{end:x}\n" for start, end in pairs)
    else:
        print(blocks, len(starts))


if __name__ == "__main__":
    root, levels, order0_bit = (int(text, 0) for text in sys.argv[2:5])
    main(sys.argv[1], root, levels, order0_bit, len(sys.argv) > 5)
