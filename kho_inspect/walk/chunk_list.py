"""Walking the kho-v1 memory map: a list of chunks, each an array of bitmaps of one order.

Source: ``kho_mem_deserialize()`` in ``kernel/kexec_handover.c`` [6.18].
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kho_inspect import intervals
from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64, Intervals
from kho_inspect.layouts.v1 import (
    PRESERVE_SMALL,
    kho_mem_phys_bits,
    khoser_mem_bitmap_ptr,
    khoser_mem_chunk_hdr,
)
from kho_inspect.layouts.views import dtype_of, parse_record
from kho_inspect.limits import DEFAULT_LIMITS, Limits, exceeded
from kho_inspect.memory import PhysicalMemory, Presence
from kho_inspect.model.chunk_list import ChunkList, MapChunk, bitmap_path, chunk_path
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.identity import Step, StepKind
from kho_inspect.model.preserved import Preserved
from kho_inspect.units import PhysAddr
from kho_inspect.walk.bitmap import runs_of_bits
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.pages import ListPage, MapWalker, PageList

_CHUNKS = ListPage(
    "kho-v1 chunk {number}",
    FaultKind.NODE_OUTSIDE,
    FaultKind.NODE_NOT_STORED,
    link="kho-v1 chunk {number} at {at:#x}",
    cycle=(FaultKind.NODE_CYCLE, "kho-v1 chunk {number} at {at:#x} stands earlier in the list"),
    misaligned=FaultKind.NODE_MISALIGNED,
)


def walk_chunks(
    memory: PhysicalMemory,
    geometry: PageGeometry,
    first: PhysAddr,
    faults: FaultLog,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[ChunkList, Preserved]:
    """The chunk list at ``first`` and the blocks of all bitmaps that could be read.

    No chunk and no bitmap is read twice, so the work is bounded by the dump's own size, and by
    ``limits``.
    """
    walker = _Walker(memory, geometry, faults, limits)
    chunks = walker.read_chunks(first)
    size = bitmap_size(geometry, chunks)
    orders: dict[int, list[Intervals]] = {}
    kept = []
    for number, chunk in enumerate(chunks):
        good = walker.check_bitmaps(chunk, number, size)
        kept.append(chunk._replace(phys_start=chunk.phys_start[good], bitmap=chunk.bitmap[good]))
        orders.setdefault(chunk.order, []).append(walker.read_bitmaps(kept[-1], size))
    runs = [
        (order, intervals.merge(*map(np.concatenate, zip(*found, strict=True))))
        for order, found in sorted(orders.items())
    ]
    listed = ChunkList(
        root=first,
        depth=2,
        pointers=walker.pointers,
        lost=intervals.merge(*intervals.from_pairs(walker.lost)),
        chunks=tuple(kept),
        bitmap_size=size,
    )
    return listed, Preserved(geometry.shift, {order: run for order, run in runs if len(run[0])})


def bitmap_size(geometry: PageGeometry, chunks: list[MapChunk]) -> int:
    """Bytes of a bitmap: a page, or 512 where an address only fits those.

    A bitmap covers a naturally aligned stretch of memory, so what a page of bits could not start
    at, or a page could not lie at, is evidence for the small form of 6.16 and 6.17.
    """
    for chunk in chunks:
        span = np.uint64(min(geometry.page_size << (chunk.order + geometry.shift + 3), 1 << 63))
        unaligned = (chunk.bitmap % np.uint64(geometry.page_size)).any()
        if unaligned or (chunk.phys_start % span).any():
            return PRESERVE_SMALL
    return geometry.page_size


@dataclass(eq=False)
class _Walker(MapWalker):
    runs: int = 0
    """Runs of set bits found so far."""

    def read_chunks(self, first: PhysAddr) -> list[MapChunk]:
        """Every chunk up to the end of the list, or to the first that cannot be read."""
        pages = PageList(_CHUNKS, self.memory, self.geometry, self.faults)
        chunks: list[MapChunk] = []
        at = first
        while at:
            self.pointers += 1
            path = chunk_path(len(chunks))
            if self.pointers > self.limits.nodes:
                message = exceeded("bitmaps", "nodes", self.limits.nodes)
                self.faults.add(FaultKind.LIMIT, message, paddr=at, path=path)
                break
            data = pages.read(at, path)
            if data is None:
                break
            chunk, at = self.parse_chunk(at, data, len(chunks))
            if chunk is not None:
                chunks.append(chunk)
                self.pointers += len(chunk.bitmap)
        if at:
            self.lose_all()
        self.read_before.update(pages.addresses)
        return chunks

    def parse_chunk(
        self, paddr: PhysAddr, data: memoryview, number: int
    ) -> tuple[MapChunk | None, PhysAddr]:
        """The chunk, None when its header is impossible; and the address of the next one."""
        header, element = parse_record(khoser_mem_chunk_hdr, data), dtype_of(khoser_mem_bitmap_ptr)
        start = khoser_mem_chunk_hdr.sizeof()
        count, capacity = header.num_elms, (len(data) - start) // element.itemsize
        kind = None
        if count > capacity:
            kind = FaultKind.CHUNK_COUNT
            what = f"{count:,} elements, its page has room for {capacity}"
        elif header.order > self.geometry.order0_bit:
            kind = FaultKind.CHUNK_ORDER
            what = f"order {header.order}, more than any address has room for"
        if kind:
            words = f"kho-v1 chunk {number} at {paddr:#x} has {what}"
            self.faults.add(kind, words, paddr=paddr, path=chunk_path(number))
            self.lose_all()
            return None, header.next
        elements = np.frombuffer(data, element, count, start)
        chunk = MapChunk(
            paddr, header.order, count, elements["phys_start"].copy(), elements["bitmap"].copy()
        )
        return chunk, header.next

    def check_bitmaps(self, chunk: MapChunk, number: int, size: int) -> NDArray[np.bool_]:
        """Which elements can be read; the others become faults."""
        good = np.zeros(len(chunk.bitmap), dtype=bool)
        stored = self.memory.stored_mask(chunk.bitmap, size)
        pages = size << (3 + chunk.order)
        top = 1 << self.geometry.order0_bit
        for index, (start, bitmap) in enumerate(chunk.elements):
            trouble = self.bitmap_trouble(chunk.order, start, bitmap, size, bool(stored[index]))
            if trouble is None:
                good[index] = True
                self.read_before.add(bitmap)
                continue
            kind, what = trouble
            first = start >> self.geometry.shift
            self.lost.append((first, min(first + pages, top)))
            words, path = f"kho-v1 bitmap at {bitmap:#x} {what}", bitmap_path(number, index)
            self.faults.add(kind, words, paddr=bitmap, path=path)
        return good

    def bitmap_trouble(
        self, order: int, start: PhysAddr, bitmap: PhysAddr, size: int, stored: bool
    ) -> tuple[FaultKind, str] | None:
        """What is wrong with an element of a chunk; None for one that can be read."""
        if bitmap % size:
            return FaultKind.NODE_MISALIGNED, f"is not aligned to its {size} bytes"
        if not stored:
            presence = self.memory.presence(bitmap, size)
            outside = presence is Presence.OUTSIDE
            kind = FaultKind.NODE_OUTSIDE if outside else FaultKind.NODE_NOT_STORED
            return kind, f"is {presence.value} in the dump"
        if bitmap in self.read_before:
            return FaultKind.NODE_ALIASED, "is another element's bitmap, or a chunk"
        block = 1 << (order + self.geometry.shift)
        if start % block or start + block > 1 << 64:
            what = f"covers memory from {start:#x}, not aligned to order {order}"
            return FaultKind.CHUNK_START, what
        return None

    def read_bitmaps(self, chunk: MapChunk, size: int) -> Intervals:
        """The set bits of a chunk's bitmaps as page frames."""
        if not len(chunk.bitmap) or self.runs > self.limits.runs:
            return intervals.empty()
        items = self.memory.gather(chunk.bitmap, dtype_of(kho_mem_phys_bits(size)))
        shift = np.uint64(chunk.order + self.geometry.shift)
        first: I64 = (chunk.phys_start >> shift).astype(np.int64)
        (starts, ends), _ = runs_of_bits(items["preserve"], first)
        self.runs += len(starts)
        if self.runs > self.limits.runs:
            message = exceeded("runs of preserved pages", "runs", self.limits.runs)
            path = (Step(StepKind.CHUNK_LIST),)
            self.faults.add(FaultKind.LIMIT, message, paddr=chunk.paddr, path=path)
            self.lose_all()
        # Bits of the bitmap beyond the address space stand for no page.
        limit = 1 << (self.geometry.order0_bit - chunk.order)
        ends = np.minimum(ends, limit)
        inside = starts < ends
        return starts[inside] << chunk.order, ends[inside] << chunk.order

    def lose_all(self) -> None:
        """Any page may be recorded in the rest of the list, which is not read."""
        self.lost.append((0, 1 << self.geometry.order0_bit))
