"""An independent writer of handovers: the second opinion that the tests hold kho_inspect to.

Standard library only; it must never import kho_inspect. Everything is written from
``shared/ABI.md``: keys and tree (§2), chunk lists (§3), vmalloc areas (§4), root FDT (§1, §10).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.dump_files import Segment, write_elf


class Tree(NamedTuple):
    """A device tree node; names and values are raw bytes, duplicates are allowed."""

    name: bytes = b""
    props: Sequence[tuple[bytes, bytes]] = ()
    children: Sequence[Tree] = ()


def u32s(*values: int) -> bytes:
    """Big-endian cells, as the FDT container wants them."""
    return struct.pack(f">{len(values)}I", *values)


def fdt_container(
    structure: bytes,
    strings: bytes = b"",
    *,
    version: int = 17,
    last_compatible: int = 16,
    reservations: bytes = bytes(16),
) -> bytes:
    """Header, reservation map, structure and strings block, none of them looked at."""
    at_struct = 40 + len(reservations)
    at_strings = at_struct + len(structure)
    total = at_strings + len(strings)
    header = (0xD00DFEED, total, at_struct, at_strings, 40, version, last_compatible, 0)
    return u32s(*header, len(strings), len(structure)) + reservations + structure + bytes(strings)


def fdt_blob(tree: Tree) -> bytes:
    """A flattened device tree of version 17."""
    strings = bytearray()
    offsets: dict[bytes, int] = {}

    def pad(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    def emit(node: Tree) -> Iterator[bytes]:
        yield u32s(1) + pad(node.name + b"\0")
        for name, value in node.props:
            if name not in offsets:
                offsets[name] = len(strings)
                strings.extend(name + b"\0")
            yield u32s(3, len(value), offsets[name]) + pad(value)
        for child in node.children:
            yield from emit(child)
        yield u32s(2)

    structure = b"".join(emit(tree)) + u32s(9)
    return fdt_container(structure, bytes(strings))


def natural_blocks(paddr: int, pages: int, page_shift: int) -> Iterator[tuple[int, int]]:
    """(paddr, order) of the naturally aligned power-of-two blocks of a run, as the kernel cuts."""
    pfn, end = paddr >> page_shift, (paddr >> page_shift) + pages
    while pfn < end:
        order = (end - pfn).bit_length() - 1
        while pfn & ((1 << order) - 1):
            order -= 1
        yield pfn << page_shift, order
        pfn += 1 << order


class Image:
    """One handover in the making: sparse RAM, preserved blocks, sub-nodes."""

    def __init__(
        self, page_shift: int = 12, abi: str = "kho-v4", ram: tuple[int, int] = (1 << 20, 64 << 20)
    ) -> None:
        self.page_shift = page_shift
        self.page_size = 1 << page_shift
        self.abi = abi
        self.ram_start, self.ram_end = ram[0], ram[0] + ram[1]
        self.pages: dict[int, bytearray] = {}
        self.preserved: set[tuple[int, int]] = set()
        """(paddr, order) of every preserved block."""
        self.subnodes: list[Tree] = []
        self.root = 0
        """Address of the tree's root node, once built."""
        self.nodes: list[int] = []
        """Addresses of all tree nodes, once built: the root first."""
        self.fdt_paddr = 0
        # The kernel's constants, by ABI.md.
        self.table_bits = page_shift - 3
        self.bitmap_bits = page_shift + 3
        self.base = abi.split(";")[0]
        """Of a composite string, the root's own part."""
        width = 64 - page_shift + (0 if self.base == "kho-v2" else 1)
        self.levels = -((self.bitmap_bits - width) // self.table_bits) + 1
        self._next = max(self.ram_start, self.page_size)

    # -- memory

    def alloc(self, pages: int = 1, align: int | None = None) -> int:
        """Zeroed, stored pages; ``align`` in bytes, a page by default."""
        align = align or self.page_size
        paddr = -(-self._next // align) * align
        self._next = paddr + pages * self.page_size
        if self._next > self.ram_end:
            raise MemoryError(f"{self._next:#x} is past the end of RAM")
        for at in range(paddr, self._next, self.page_size):
            self.pages[at] = bytearray(self.page_size)
        return paddr

    def _spans(self, paddr: int, size: int) -> Iterator[tuple[int, int, int]]:
        """(page address, offset in it, length) of the pages under a range."""
        end = paddr + size
        while paddr < end:
            offset = paddr % self.page_size
            length = min(self.page_size - offset, end - paddr)
            yield paddr - offset, offset, length
            paddr += length

    def write(self, paddr: int, data: bytes) -> None:
        """Store bytes; pages come into being as needed."""
        done = 0
        for page, offset, length in self._spans(paddr, len(data)):
            store = self.pages.setdefault(page, bytearray(self.page_size))
            store[offset : offset + length] = data[done : done + length]
            done += length

    def read(self, paddr: int, size: int) -> bytes:
        """Bytes of stored pages; KeyError where nothing is stored."""
        spans = self._spans(paddr, size)
        return b"".join(bytes(self.pages[page][at : at + length]) for page, at, length in spans)

    def write_u64(self, paddr: int, *values: int) -> None:
        """Little-endian words."""
        self.write(paddr, struct.pack(f"<{len(values)}Q", *values))

    def read_u64(self, paddr: int) -> int:
        """One little-endian word."""
        return int.from_bytes(self.read(paddr, 8), "little")

    def drop(self, paddr: int) -> None:
        """Forget a stored page, so that no format but raw holds it."""
        del self.pages[paddr]

    # -- preserving

    def preserve(self, paddr: int, order: int) -> None:
        """One key: ``kho_preserve_folio()``."""
        if paddr % (self.page_size << order):
            raise ValueError(f"{paddr:#x} is not aligned to order {order}")
        self.preserved.add((paddr, order))

    def preserve_pages(self, paddr: int, pages: int) -> None:
        """A key for each naturally aligned block: ``kho_preserve_pages()``."""
        for block, order in natural_blocks(paddr, pages, self.page_shift):
            self.preserve(block, order)

    def blob(self, data: bytes) -> int:
        """Put ``data`` in preserved pages of its own."""
        pages = max(1, -(-len(data) // self.page_size))
        paddr = self.alloc(pages)
        self.write(paddr, data)
        self.preserve_pages(paddr, pages)
        return paddr

    def vmalloc(
        self,
        content: bytes | Sequence[int],
        order: int = 0,
        flags: int = 0,
        total_pages: int | None = None,
    ) -> bytes:
        """Preserve a vmalloc area of data, or of pieces that stand already: its descriptor.

        ``total_pages`` is for lying about the count.
        """
        piece = self.page_size << order
        if isinstance(content, bytes):
            pieces = []
            for at in range(0, len(content), piece):
                pieces.append(self.alloc(1 << order, piece))
                self.write(pieces[-1], content[at : at + piece])
        else:
            pieces = list(content)
        for paddr in pieces:
            self.preserve_pages(paddr, 1 << order)
        slots = self.page_size // 8 - 1
        first = chunk = self._chunk()
        for index, paddr in enumerate(pieces):
            self.write_u64(chunk + 8 + 8 * (index % slots), paddr)
            if index % slots == slots - 1:
                following = self._chunk()
                self.write_u64(chunk, following)
                chunk = following
        count = len(pieces) << order if total_pages is None else total_pages
        return struct.pack("<QIHH", first, count, flags, order)

    def _chunk(self) -> int:
        paddr = self.alloc()
        self.preserve(paddr, 0)
        return paddr

    # -- the tree

    def key(self, paddr: int, order: int) -> int:
        """The radix key of one block."""
        return 1 << (64 - self.page_shift - order) | paddr >> (self.page_shift + order)

    def insert(self, key: int) -> None:
        """Set one key's bit, adding nodes on the way. Bits above the levels are lost."""
        node = self.root
        for level in range(self.levels - 1, 0, -1):
            shift = (level - 1) * self.table_bits + self.bitmap_bits
            slot = node + 8 * (key >> shift & ((1 << self.table_bits) - 1))
            node = self.read_u64(slot)
            if not node:
                node = self.alloc()
                self.nodes.append(node)
                self.write_u64(slot, node)
        bit = key & ((1 << self.bitmap_bits) - 1)
        self.pages[node][bit // 8] |= 1 << bit % 8

    def node(self, key: int, level: int) -> int:
        """Address of the node of ``level`` on the way to ``key``."""
        paddr = self.root
        for above in range(self.levels - 1, level, -1):
            shift = (above - 1) * self.table_bits + self.bitmap_bits
            paddr = self.read_u64(paddr + 8 * (key >> shift & ((1 << self.table_bits) - 1)))
        return paddr

    def build_tree(self) -> int:
        """Write the map of everything preserved so far; returns its root."""
        if self.base == "kho-v1":
            return self._build_chunks()
        self.root = self.alloc()
        self.nodes = [self.root]
        for paddr, order in sorted(self.preserved):
            self.insert(self.key(paddr, order))
        return self.root

    def _build_chunks(self) -> int:
        """kho-v1: chunks of one order each, with a bitmap of a page for each stretch of blocks."""
        bits, room = 8 * self.page_size, (self.page_size - 16) // 16
        self.nodes, self.root = [], 0
        for order in sorted({order for _, order in self.preserved}):
            shift = self.page_shift + order
            blocks = {paddr >> shift for paddr, of in self.preserved if of == order}
            stretches = sorted({block // bits for block in blocks})
            for first in range(0, len(stretches), room):
                held = stretches[first : first + room]
                chunk = self.alloc()
                if self.nodes:
                    self.write_u64(self.nodes[-1], chunk)
                self.nodes.append(chunk)
                self.write(chunk, struct.pack("<QII", 0, order, len(held)))
                for number, stretch in enumerate(held):
                    bitmap = self.alloc()
                    self.write_u64(chunk + 16 + 16 * number, stretch * bits << shift, bitmap)
                    for bit in (block % bits for block in blocks if block // bits == stretch):
                        self.pages[bitmap][bit // 8] |= 1 << bit % 8
        self.root = self.nodes[0] if self.nodes else 0
        return self.root

    # -- the root FDT

    def subnode(self, name: str, paddr: int, size: int) -> None:
        """Announce a blob; its size is written from kho-v3 on."""
        address = b"fdt" if self.base == "kho-v1" else b"preserved-data"
        props = [(address, struct.pack("<Q", paddr))]
        if self.base not in ("kho-v1", "kho-v2"):
            props.append((b"blob-size", struct.pack("<Q", size)))
        self.subnodes.append(Tree(name.encode(), props))

    def root_fdt(self) -> bytes:
        """The root FDT for the tree as it stands."""
        props = [
            (b"compatible", self.abi.encode() + b"\0"),
            (b"preserved-memory-map", struct.pack("<Q", self.root)),
        ]
        return fdt_blob(Tree(b"", props, self.subnodes))

    def finish(self, fdt_order: int | None = 0) -> bytes:
        """Build the tree, put the root FDT in memory, return it.

        Its page is preserved at ``fdt_order`` (None: not at all, so that exactly the caller's
        blocks are).
        """
        self.fdt_paddr = self.alloc(1 << (fdt_order or 0), self.page_size << (fdt_order or 0))
        if fdt_order is not None:
            self.preserve(self.fdt_paddr, fdt_order)
        self.build_tree()
        dtb = self.root_fdt()
        self.write(self.fdt_paddr, dtb)
        return dtb

    # -- files

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """Stored memory as (paddr, bytes) of touching pages."""
        start, data = 0, bytearray()
        for page in sorted(self.pages):
            if data and page != start + len(data):
                yield start, bytes(data)
                data = bytearray()
            if not data:
                start = page
            data += self.pages[page]
        if data:
            yield start, bytes(data)

    def write_raw(self, path: Path, base: int = 0) -> None:
        """A sparse file of all RAM: file offset = physical address - base."""
        with path.open("wb") as file:
            for page, data in self.pages.items():
                file.seek(page - base)
                file.write(data)
            file.truncate(self.ram_end - base)

    def write_elf(
        self, path: Path, *, note: bool = False, declare_ram: bool = False, xnum: bool = False
    ) -> None:
        """An ELF64 core with one PT_LOAD per run of stored pages.

        ``declare_ram``: memsz goes on to the next run or the end of RAM.
        """
        runs = list(self.runs())
        segments = [Segment(*run) for run in runs]
        if declare_ram:
            ends = [paddr for paddr, _ in runs[1:]] + [self.ram_end]
            segments = [
                Segment(paddr, data, end - paddr)
                for (paddr, data), end in zip(runs, ends, strict=True)
            ]
            if runs[0][0] > self.ram_start:
                segments.insert(0, Segment(self.ram_start, b"", runs[0][0] - self.ram_start))
        write_elf(path, segments, note=note, xnum=xnum)

    def write_blocks(
        self, path: Path, blocks: Iterable[tuple[int, int]]
    ) -> list[tuple[int, int, int]]:
        """RAM blocks (paddr, size), one behind the other; returns (PADDR, OFFSET, SIZE)."""
        placed: list[tuple[int, int, int]] = []
        offset = 0
        with path.open("wb") as file:
            for paddr, size in blocks:
                for page, data in self.pages.items():
                    low, high = max(page, paddr), min(page + self.page_size, paddr + size)
                    if low < high:
                        file.seek(offset + low - paddr)
                        file.write(data[low - page : high - page])
                placed.append((paddr, offset, size))
                offset += size
            file.truncate(offset)
        return placed


def boot_dtb(fdt: int, table: int, size: int, cells: int = 2) -> bytes:
    """An arm64 boot DTB whose /chosen names a root FDT of one page and a scratch table."""

    def region(start: int, length: int) -> bytes:
        return b"".join(value.to_bytes(4 * cells, "big") for value in (start, length))

    chosen = [(b"linux,kho-fdt", region(fdt, 4096)), (b"linux,kho-scratch", region(table, size))]
    props = [(b"#address-cells", u32s(cells)), (b"#size-cells", u32s(cells))]
    return fdt_blob(Tree(b"", props, [Tree(b"chosen", chosen)]))
