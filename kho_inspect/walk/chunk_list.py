"""Walking the kho-v1 memory map: a list of chunks, each an array of bitmaps of one order.

Source: ``kho_mem_deserialize()`` in ``kernel/kexec_handover.c`` [6.18].
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.layouts.v1 import (
    PRESERVE_SMALL,
    kho_mem_phys_bits,
    khoser_mem_bitmap_ptr,
    khoser_mem_chunk_hdr,
)
from kho_inspect.layouts.views import dtype_of, parse_record
from kho_inspect.limits import DEFAULT_LIMITS, Limits, exceeded
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.map import ChunkList, MapChunk
from kho_inspect.model.preserved import Preserved
from kho_inspect.units import PhysAddr
from kho_inspect.walk.bitmap import runs_of_bits
from kho_inspect.walk.pages import ListPage, PageList

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.geometry import PageGeometry
    from kho_inspect.intervals import I64, Intervals
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.walk.faults import FaultLog

_CHUNKS = ListPage(
    "kho-v1 {path}",
    FaultKind.NODE_OUTSIDE,
    FaultKind.NODE_NOT_STORED,
    cycle=(FaultKind.NODE_CYCLE, "kho-v1 {path} at {at:#x} stands earlier in the list"),
    misaligned=(FaultKind.NODE_MISALIGNED, "kho-v1 {path} at {at:#x} is not aligned to a page"),
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
        kept.append(replace(chunk, phys_start=chunk.phys_start[good], bitmap=chunk.bitmap[good]))
        orders.setdefault(chunk.order, []).append(walker.read_bitmaps(kept[-1], size))
    runs = {
        order: intervals.merge(
            np.concatenate([starts for starts, _ in found]),
            np.concatenate([ends for _, ends in found]),
        )
        for order, found in sorted(orders.items())
    }
    listed = ChunkList(first, tuple(kept), size, walker.pointers, walker.lost_pages())
    return listed, Preserved(
        geometry.shift, {order: run for order, run in runs.items() if len(run[0])}
    )


def bitmap_size(geometry: PageGeometry, chunks: list[MapChunk]) -> int:
    """Bytes of a bitmap: a page, or 512 where an address only fits those.

    A bitmap covers a naturally aligned stretch of memory, so what a page of bits could not start
    at, or a page could not lie at, is evidence for the small form of 6.16 and 6.17.
    """
    for chunk in chunks:
        span = np.uint64(min(geometry.page_size << (chunk.order + geometry.shift + 3), 1 << 63))
        if (chunk.bitmap % np.uint64(geometry.page_size)).any():
            return PRESERVE_SMALL
        if (chunk.phys_start % span).any():
            return PRESERVE_SMALL
    return geometry.page_size


class _Walker:
    def __init__(
        self, memory: PhysicalMemory, geometry: PageGeometry, faults: FaultLog, limits: Limits
    ) -> None:
        self.memory = memory
        self.geometry = geometry
        self.faults = faults
        self.limits = limits
        self.runs = 0
        """Runs of set bits found so far."""
        self.seen: set[int] = set()
        self.pointers = 0
        self.lost: list[tuple[int, int]] = []

    def read_chunks(self, first: PhysAddr) -> list[MapChunk]:
        """Every chunk up to the end of the list, or to the first that cannot be read."""
        pages = PageList(_CHUNKS, self.memory, self.geometry, self.faults)
        chunks: list[MapChunk] = []
        at = first
        while at:
            self.pointers += 1
            path = f"chunk {len(chunks)}"
            if self.pointers > self.limits.nodes:
                message = exceeded("bitmaps", "nodes", self.limits.nodes)
                self.faults.add(FaultKind.LIMIT, message, paddr=at, path=path)
                break
            data = pages.read(at, path)
            if data is None:
                break
            chunk, at = self.parse_chunk(at, data, path)
            if chunk is not None:
                chunks.append(chunk)
                self.pointers += len(chunk.bitmap)
        if at:
            self.lost.append((0, 1 << self.geometry.order0_bit))
        self.seen.update(pages.seen)
        return chunks

    def parse_chunk(
        self, paddr: PhysAddr, data: memoryview, path: str
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
            self.give_up(kind, f"kho-v1 {path} at {paddr:#x} has {what}", paddr, path)
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
        block = 1 << (chunk.order + self.geometry.shift)
        for index, (start, bitmap) in enumerate(
            zip(chunk.phys_start.tolist(), chunk.bitmap.tolist(), strict=True)
        ):
            path = f"chunk {number} → bitmap {index}"
            trouble = self.bitmap_trouble(bitmap, size, bool(stored[index]))
            if trouble is None and (start % block or start + block > 1 << 64):
                trouble = (
                    FaultKind.CHUNK_START,
                    f"covers memory from {start:#x}, not aligned to order {chunk.order}",
                )
            if trouble is None:
                good[index] = True
                self.seen.add(bitmap)
                continue
            first = start >> self.geometry.shift
            self.lost.append((first, first + (size << (3 + chunk.order))))
            self.faults.add(
                trouble[0], f"kho-v1 bitmap at {bitmap:#x} {trouble[1]}", paddr=bitmap, path=path
            )
        return good

    def bitmap_trouble(
        self, bitmap: PhysAddr, size: int, stored: bool
    ) -> tuple[FaultKind, str] | None:
        if bitmap % size:
            return FaultKind.NODE_MISALIGNED, f"is not aligned to its {size} bytes"
        if not stored:
            presence = self.memory.presence(bitmap, size)
            outside = presence.value == "outside"
            kind = FaultKind.NODE_OUTSIDE if outside else FaultKind.NODE_NOT_STORED
            return kind, f"is {presence.value} in the dump"
        if bitmap in self.seen:
            return FaultKind.NODE_ALIASED, "is another element's bitmap, or a chunk"
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
            self.give_up(FaultKind.LIMIT, message, chunk.paddr, "chunk list")
        # Beyond the address space there is no page, whatever the bitmap says.
        limit = 1 << (self.geometry.order0_bit - chunk.order)
        ends = np.minimum(ends, limit)
        inside = starts < ends
        return starts[inside] << chunk.order, ends[inside] << chunk.order

    def give_up(self, kind: FaultKind, message: str, paddr: PhysAddr, path: str) -> None:
        """A fault that hides the rest of the list, which may have recorded any page."""
        self.lost.append((0, 1 << self.geometry.order0_bit))
        self.faults.add(kind, message, paddr=paddr, path=path)

    def lost_pages(self) -> Intervals:
        limit = 1 << self.geometry.order0_bit
        return intervals.merge(
            *intervals.from_pairs((low, min(high, limit)) for low, high in self.lost)
        )
