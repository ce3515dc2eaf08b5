"""Writes one sparse raw dump: pages, bitmaps of preserved blocks, and the map that leads to them.

Plain struct, like ``tests/builder.py``, but straight to a file: nothing is held but the tables.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

from tests.support.builder import Tree, fdt_blob

LARGEST = 8 << 40
"""Bytes that a dump has at the most: file systems hold no more."""


class Maker:
    """One handover in the making."""

    def __init__(self, folder: Path, shift: int = 12, compatible: str = "kho-v4") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.dump, self.dtb = folder / "dump.raw", folder / "kho.dtb"
        self.file = self.dump.open("wb+")
        self.shift, self.page = shift, 1 << shift
        self.compatible = compatible
        self.table_bits, self.bitmap_bits = shift - 3, shift + 3
        width = 64 - shift + (compatible != "kho-v2")
        self.levels = -(-(width - self.bitmap_bits) // self.table_bits) + 1
        self.bitmaps: dict[tuple[int, int], int] = {}
        """(order, number of the bitmap) → its page."""
        self.tables: dict[tuple[int, int], int] = {}
        """(level, index among all of that level) → its page; of a tree only."""
        self.slots: list[int] = []
        """Addresses of the used entries of all tables, once written."""
        self.subnodes: list[Tree] = []
        self.next_page = 16

    def take(self, pages: int = 1) -> int:
        """The address of pages that are in use from now on."""
        self.next_page += pages
        return (self.next_page - pages) << self.shift

    def put(self, paddr: int, data: bytes) -> None:
        """Bytes of memory."""
        self.file.seek(paddr)
        self.file.write(data)

    def words(self, paddr: int, *values: int) -> None:
        """Little-endian u64 values."""
        self.put(paddr, struct.pack(f"<{len(values)}Q", *values))

    def bitmap(self, order: int, number: int, data: bytes) -> None:
        """The preserved blocks of ``order`` from block ``number << bitmap_bits`` on, a page."""
        place = (order, number)
        if place not in self.bitmaps:
            self.bitmaps[place] = self.take()
        self.put(self.bitmaps[place], data)

    def finish(self, size: int) -> tuple[Path, Path]:
        """Write the map and the root FDT, make the dump ``size`` bytes: dump and DTB."""
        root = self._chunks() if self.compatible == "kho-v1" else self._tree()
        props = [
            (b"compatible", self.compatible.encode() + b"\0"),
            (b"preserved-memory-map", struct.pack("<Q", root)),
        ]
        fdt = fdt_blob(Tree(b"", props, self.subnodes))
        self.put(self.page, fdt)
        self.file.truncate(min(size, LARGEST))
        self.file.flush()
        self.dtb.write_bytes(fdt)
        return self.dump, self.dtb

    def _tree(self) -> int:
        mask = (1 << self.table_bits) - 1
        top = self.levels - 1
        self.tables[top, 0] = self.take()
        entries: dict[int, dict[int, int]] = {}
        for (order, number), page in self.bitmaps.items():
            above = (1 << (64 - self.shift - order)) + (number << self.bitmap_bits)
            above >>= self.bitmap_bits
            below = page
            for level in range(1, self.levels):
                index, above = above & mask, above >> self.table_bits
                known = (level, above) in self.tables
                table = self.tables[level, above] if known else self.take()
                self.tables[level, above] = table
                entries.setdefault(table, {})[index] = below
                below = table
        for table, used in entries.items():
            data = bytearray(self.page)
            for index, value in used.items():
                struct.pack_into("<Q", data, 8 * index, value)
                self.slots.append(table + 8 * index)
            self.put(table, bytes(data))
        return self.tables[top, 0]

    def _chunks(self) -> int:
        """The kho-v1 list, an order after the other."""
        room = (self.page - 16) // 16
        pieces = []
        for order in sorted({order for order, _ in self.bitmaps}):
            span = order + self.shift + self.bitmap_bits
            mine = [
                (number << span, page)
                for (one, number), page in sorted(self.bitmaps.items())
                if one == order
            ]
            pieces += [(order, mine[at : at + room]) for at in range(0, len(mine), room)]
        pages = [self.take() for _ in pieces]
        for page, following, (order, elements) in zip(pages, [*pages[1:], 0], pieces, strict=True):
            self.words(page, following, len(elements) << 32 | order)
            self.put(page + 16, b"".join(struct.pack("<QQ", *one) for one in elements))
        return pages[0] if pages else 0

    def damage(self, count: int, rng: random.Random) -> None:
        """Overwrite that many entries of the tables of a finished tree, at every level."""
        for number, slot in enumerate(rng.sample(self.slots, min(count, len(self.slots)))):
            wrong = (
                rng.choice(self.slots) & -self.page,  # a node: aliased, or on the way, a cycle
                1 << 60,  # outside
                slot | 8,  # misaligned
                self.page * 2,  # a page of zeros
                rng.getrandbits(64),
            )[number % 5]
            self.words(slot, wrong)
