#!/usr/bin/env python3
"""Synthetic handovers of any size, as sparse raw dumps with a DTB: for benchmarks and for looks.

    python tests/bench/generate.py OUT_DIR --leaves 8192 --pattern mixed
    python tests/bench/generate.py OUT_DIR --leaves 64 --abi kho-v1 --page-size 16K --order 9
    python tests/bench/generate.py OUT_DIR --memfds 1000 --folios 100

An image of a tebibyte of preserved memory takes a second and some MiB of disk. The dump is
declared as large as the memory that the map records (8 TiB at the most), so that every block lies
in it; nothing else is preserved where the structures themselves stand.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.bench.luo_image import fill, luo_image  # these need the path above
from tests.bench.maker import LARGEST, Maker

PATTERNS = ("full", "runs", "sparse", "random", "alternating")
ABIS = ("kho-v1", "kho-v2", "kho-v3", "kho-v4")
PAGE_SHIFTS = {"4K": 12, "16K": 14, "64K": 16}


def bitmap(pattern: str, size: int, rng: random.Random) -> bytes:
    """One page of bits."""
    if pattern == "full":
        return b"\xff" * size
    if pattern == "random":
        return rng.randbytes(size)
    if pattern == "alternating":
        return b"\x55" * size
    data = bytearray(size)
    length = 64 if pattern == "runs" else 1
    for _ in range(20 if pattern == "runs" else 3):
        at = rng.randrange(size - length)
        data[at : at + length] = b"\xff" * length
    return bytes(data)


def clip(data: bytes, low: int, high: int) -> bytes:
    """A bitmap without the bits below ``low`` and from ``high`` on."""
    bits = 8 * len(data)
    low, high = min(max(low, 0), bits), min(max(high, 0), bits)
    if (low, high) == (0, bits):
        return data
    value = int.from_bytes(data, "little") & ((1 << high) - 1)
    return (value >> low << low).to_bytes(len(data), "little")


def generate(
    folder: Path,
    leaves: int,
    pattern: str = "mixed",
    *,
    order: int = 0,
    shift: int = 12,
    compatible: str = "kho-v4",
    damage: int = 0,
) -> tuple[Path, Path]:
    """Write dump.raw and kho.dtb; returns their paths.

    ``mixed`` cycles through full, runs and sparse. ``damage``: tree entries that are overwritten.
    """
    rng = random.Random(leaves)
    maker = Maker(folder, shift, compatible)
    kinds = PATTERNS[:3] if pattern == "mixed" else (pattern,)
    block = shift + order
    size = min(leaves << (block + maker.bitmap_bits), LARGEST)
    # The structures: bitmaps, and no more than as many tables.
    low = -(-(2 * leaves + 64 << shift) >> block)
    for number in range(leaves):
        at = number << maker.bitmap_bits
        data = bitmap(kinds[number % len(kinds)], maker.page, rng)
        data = clip(data, low - at, (size >> block) - at)
        if not (order or number):
            data = bytes([data[0] | 2]) + data[1:]  # the root FDT's page
        maker.bitmap(order, number, data)
    paths = maker.finish(size)
    if damage:
        maker.damage(damage, rng)
    maker.file.close()
    return paths


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--leaves", type=int, default=64, help="bitmaps of preserved blocks")
    parser.add_argument("--pattern", choices=(*PATTERNS, "mixed"), default="mixed")
    parser.add_argument("--order", type=int, default=0, help="of the blocks: 0, 9, 18 …")
    parser.add_argument("--abi", choices=ABIS, default="kho-v4")
    parser.add_argument("--page-size", choices=PAGE_SHIFTS, default="4K")
    parser.add_argument("--damage", type=int, default=0, help="tree entries to overwrite")
    parser.add_argument("--memfds", type=int, default=0, help="a LUO with so many instead")
    parser.add_argument("--folios", type=int, default=100, help="of each memfd")
    parser.add_argument("--filled", action="store_true", help="memfds have content, not holes")
    given = parser.parse_args()
    if given.memfds:
        dump, dtb = luo_image(given.folder, given.memfds, given.folios)
        if given.filled:
            fill(dump)
        print(dump, dtb)
        return
    print(
        *generate(
            given.folder,
            given.leaves,
            given.pattern,
            order=given.order,
            shift=PAGE_SHIFTS[given.page_size],
            compatible=given.abi,
            damage=given.damage if given.abi != "kho-v1" else 0,
        )
    )


if __name__ == "__main__":
    main()
