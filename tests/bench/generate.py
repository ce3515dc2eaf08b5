#!/usr/bin/env python3
"""Synthetic handovers of any size, as sparse raw dumps with a DTB: for benchmarks.

    python tests/bench/generate.py OUT_DIR --leaves 8192 --pattern mixed

Leaves are filled by pattern, not page by page, and written with plain struct: an image of a
tebibyte of preserved memory takes a second and some MiB of disk. The dump is declared as large as
the memory that the tree records, so that every block lies in it.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.builder import Tree, fdt_blob  # needs the path above

PATTERNS = ("full", "runs", "random", "alternating", "sparse")


def leaf(pattern: str, size: int, rng: random.Random) -> bytes:
    """One bitmap page."""
    if pattern == "full":
        return b"\xff" * size
    if pattern == "random":
        return rng.randbytes(size)
    if pattern == "alternating":
        return b"\x55" * size
    data = bytearray(size)
    for _ in range(20 if pattern == "runs" else 3):
        at = rng.randrange(size)
        data[at : at + (64 if pattern == "runs" else 1)] = b"\xff" * min(64, size - at)
    return bytes(data[:size])


def generate(
    folder: Path,
    leaves: int,
    pattern: str = "mixed",
    *,
    order: int = 0,
    shift: int = 12,
    compatible: str = "kho-v4",
) -> tuple[Path, Path]:
    """Write dump.raw and kho.dtb; returns their paths.

    ``mixed`` cycles through all patterns but ``random`` and ``alternating``. Node pages stand in
    the first memory, where the first leaf (kept sparse) preserves nothing.
    """
    page, rng = 1 << shift, random.Random(leaves)
    table_bits, bitmap_bits = shift - 3, shift + 3
    width = 64 - shift + (compatible != "kho-v2")
    levels = -(-(width - bitmap_bits) // table_bits) + 1
    cycle = ("full", "runs", "sparse") if pattern == "mixed" else (pattern,)
    tables: dict[tuple[int, int], int] = {}
    entries: dict[int, dict[int, int]] = {}
    next_page = 16

    def take() -> int:
        nonlocal next_page
        next_page += 1
        return (next_page - 1) * page

    root = tables[(levels - 1, 0)] = take()
    first_key = 1 << (64 - shift - order)
    folder.mkdir(parents=True, exist_ok=True)
    dump, dtb = folder / "dump.raw", folder / "kho.dtb"
    with dump.open("wb") as file:

        def put(at: int, data: bytes) -> None:
            file.seek(at)
            file.write(data)

        # Key space of the first leaves is where the nodes stand: start above it.
        skip = (leaves // (8 * page) + 2) if not order else 0
        for number in range(leaves):
            key = first_key + ((number + skip) << bitmap_bits)
            above = root
            for level in range(levels - 1, 0, -1):
                index = key >> ((level - 1) * table_bits + bitmap_bits) & ((1 << table_bits) - 1)
                place = (level - 1, key >> ((level - 1) * table_bits + bitmap_bits))
                if place not in tables:
                    tables[place] = take()
                entries.setdefault(above, {})[index] = tables[place]
                above = tables[place]
            put(above, leaf(cycle[number % len(cycle)], page, rng))
        for paddr, table in entries.items():
            data = bytearray(page)
            for index, value in table.items():
                struct.pack_into("<Q", data, 8 * index, value)
            put(paddr, bytes(data))
        fdt = fdt_blob(
            Tree(
                b"",
                [
                    (b"compatible", compatible.encode() + b"\0"),
                    (b"preserved-memory-map", struct.pack("<Q", root)),
                ],
            )
        )
        put(page, fdt)
        file.truncate((leaves + skip) << (bitmap_bits + shift + order))
    dtb.write_bytes(fdt)
    return dump, dtb


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--leaves", type=int, default=64)
    parser.add_argument("--pattern", choices=(*PATTERNS, "mixed"), default="mixed")
    parser.add_argument("--order", type=int, default=0)
    given = parser.parse_args()
    print(*generate(given.folder, given.leaves, given.pattern, order=given.order))
