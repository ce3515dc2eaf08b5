"""Walking a preserved vmalloc area: ``kho_restore_vmalloc()`` in ``kernel/liveupdate/``."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kho_inspect.errors import MissingMemoryError
from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64
from kho_inspect.layouts.views import dtype_of, parse_record
from kho_inspect.layouts.vmalloc import KHO_VMALLOC_FLAGS, kho_vmalloc
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import VmallocArea, VmallocAreas
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.identity import Path, Step, StepKind
from kho_inspect.units import plural
from kho_inspect.walk.faults import FaultLog, FaultLogs
from kho_inspect.walk.pages import ListPage, PageLists, Trouble, by_number, joined_bounds

_CHUNKS = ListPage(
    "vmalloc chunk",
    FaultKind.VMALLOC_CHUNK_OUTSIDE,
    FaultKind.VMALLOC_CHUNK_NOT_STORED,
    link="vmalloc chunk {at:#x}",
    cycle=(FaultKind.VMALLOC_CYCLE, "vmalloc chunk {last:#x} links back to chunk {at:#x}"),
    misaligned=FaultKind.VMALLOC_CHUNK_MISALIGNED,
)
_DESCRIPTOR = dtype_of(kho_vmalloc)
_NONE = np.empty(0, dtype=np.uint64)
TOGETHER = 1 << 17
"""Entries of areas that are read together, where no single area has more."""


def parse_vmalloc(data: bytes | memoryview) -> SimpleNamespace:
    """A ``struct kho_vmalloc`` from (at least) 16 bytes."""
    return parse_record(kho_vmalloc, data)


def pages_of(memory: PhysicalMemory, geometry: PageGeometry) -> int:
    """Pages that the machine has."""
    return sum(extent.size for extent in memory.declared) >> geometry.shift


def walk_vmalloc(
    memory: PhysicalMemory,
    geometry: PageGeometry,
    descriptor: SimpleNamespace,
    path: Path,
    faults: FaultLog,
    limit: int | None = None,
) -> VmallocArea:
    """Follow the chunk list of one parsed ``struct kho_vmalloc``; see :func:`walk_areas`."""
    fields = [tuple(getattr(descriptor, name) for name in _DESCRIPTOR.names or ())]
    logs = FaultLogs()
    one = np.array(fields, dtype=_DESCRIPTOR)
    areas = walk_areas(memory, geometry, one, lambda number: path, logs, limit)
    logs.pass_on(faults)
    return areas[0]


def walk_areas(
    memory: PhysicalMemory,
    geometry: PageGeometry,
    descriptors: NDArray[Any],
    path: Callable[[int], Path],
    logs: FaultLogs,
    limit: int | None = None,
) -> VmallocAreas:
    """Follow the chunk lists of some ``struct kho_vmalloc``, all of them together.

    As the kernel does, a zero entry ends its chunk but not the list. A list is given up once
    it has more chunks than any writer would use for ``total_pages``, or with all lists before it
    names more than ``limit`` pages, their own included: those of the machine.
    """
    if limit is None:
        limit = pages_of(memory, geometry)
    found = FaultLogs()
    areas = _Walker(memory, geometry, descriptors, path, found, limit).follow()
    if areas is not None:
        logs.update(found)
        return areas
    # Some of them name too many: which ones, their order decides.
    half, parts = len(descriptors) // 2, []
    for low, high in ((0, half), (half, len(descriptors))):
        at, found = partial(_shifted, path, low), FaultLogs()
        parts.append(walk_areas(memory, geometry, descriptors[low:high], at, found, limit))
        limit -= len(parts[-1].chunks) + len(parts[-1].phys)
        logs.update(found, low)
    return joined(parts, path)


def _shifted(path: Callable[[int], Path], by: int, number: int) -> Path:
    return path(number + by)


def joined(parts: Sequence[VmallocAreas], path: Callable[[int], Path]) -> VmallocAreas:
    """Areas behind each other."""
    return VmallocAreas(
        np.concatenate([part.descriptors for part in parts]),
        np.concatenate([part.chunks for part in parts]),
        joined_bounds([part.chunk_bounds for part in parts]),
        np.concatenate([part.phys for part in parts]),
        joined_bounds([part.bounds for part in parts]),
        path,
    )


@dataclass(eq=False)
class _Walker:
    """The areas of one attempt, which ends where the limit is reached."""

    memory: PhysicalMemory
    geometry: PageGeometry
    descriptors: NDArray[Any]
    path: Callable[[int], Path]
    logs: FaultLogs
    limit: int

    def follow(self) -> VmallocAreas | None:
        """The areas; None where the limit is for one of several to keep."""
        count, slots = len(self.descriptors), self.geometry.page_size // 8 - 1
        good = self.check_descriptors()
        self.total = self.descriptors["total_pages"].astype(np.int64)
        self.order = np.minimum(self.descriptors["order"], 63).astype(np.int64)
        # The writer appends a chunk whenever one is filled to the last slot, so one may be empty.
        self.most = (self.total >> self.order) // slots + 1
        first = np.where(good, self.descriptors["first"], np.uint64(0))
        lists = PageLists(_CHUNKS, self.memory, self.geometry, first, self.logs, self.chunk_path)
        self.lists = lists
        self.entries = np.zeros(count, dtype=np.int64)
        owners: list[I64] = []
        pieces: list[NDArray[np.uint64]] = [_NONE]
        used = 0
        while lists.at.any():
            long = (lists.depth >= self.most) | (self.entries + lists.depth >= self.limit)
            numbers, chunks = lists.read(self.too_long, long)
            phys, counts = _used(self.memory, chunks, slots)
            owners.append(np.repeat(numbers, counts))
            pieces.append(phys)
            self.check_alignment(phys, owners[-1])
            self.entries[numbers] += counts
            used += len(numbers) + len(phys)
            if count > 1 and used >= self.limit > 0:
                return None
        phys, bounds = by_number(count, owners, pieces)
        phys, bounds = self.named_once(phys, bounds)
        chunks, chunk_bounds = lists.pages()
        areas = VmallocAreas(self.descriptors, chunks, chunk_bounds, phys, bounds, self.path)
        pages_named = (bounds[1:] - bounds[:-1]).astype(float) * 2.0**self.order
        whole = good & ~lists.broken & (np.diff(bounds) == self.entries)
        for number in np.flatnonzero(whole & (pages_named != self.total)).tolist():
            area = areas[number]
            self.logs.of(number).add(
                FaultKind.VMALLOC_COUNT,
                f"vmalloc chunks name {plural(area.pages, 'page')}, "
                f"total_pages is {area.total_pages:,}",
                paddr=area.first or None,
                path=area.path,
            )
        return areas

    def chunk_path(self, number: int, depth: int) -> Path:
        return (*self.path(number), Step(StepKind.CHUNK, depth))

    def too_long(self, number: int) -> Trouble | None:
        """Why a list goes on for too long; None where it does not."""
        depth, pages = self.lists.depth, int(self.total[number])
        if depth >= self.most[number]:
            enough = f"{depth} chunks, enough for its {plural(pages, 'page')}"
            words = f"vmalloc chunk list goes on at {{at:#x}} after {enough}"
        elif self.entries[number] + depth >= self.limit:
            words = (
                "vmalloc chunk list is not followed to {at:#x}: with all lists before it, it "
                "names more pages than the machine has"
            )
        else:
            return None
        return FaultKind.VMALLOC_TOO_LONG, words

    def check_descriptors(self) -> NDArray[np.bool_]:
        """Which descriptors make sense enough to be followed."""
        flags, order = self.descriptors["flags"], self.descriptors["order"]
        known = sum(KHO_VMALLOC_FLAGS)
        good: NDArray[np.bool_] = order <= self.geometry.order0_bit
        for number in np.flatnonzero((flags & ~np.uint16(known) != 0) | ~good).tolist():
            log, path = self.logs.of(number), self.path(number)
            bits, exponent = int(flags[number]), int(order[number])
            if bits & ~known:
                words = f"vmalloc flags {bits:#x} have unknown bits {bits & ~known:#x}"
                log.add(FaultKind.VMALLOC_FLAGS, f"{words}: the kernel ignores them", path=path)
            if not good[number]:
                words = f"vmalloc order is {exponent}, more than any address has room for"
                log.add(FaultKind.VMALLOC_ORDER, words, path=path)
        return good

    def check_alignment(self, phys: NDArray[np.uint64], owners: I64) -> None:
        """One fault for each chunk just read with entries that are not aligned to their order."""
        unit = np.uint64(1) << np.minimum(self.order + self.geometry.shift, 63).astype(np.uint64)
        bad = np.flatnonzero(phys & (unit - np.uint64(1))[owners])
        whose, first, count = np.unique(owners[bad], return_index=True, return_counts=True)
        for number, at, many in zip(
            whose.tolist(), bad[first].tolist(), count.tolist(), strict=True
        ):
            entry, order = at - int(np.searchsorted(owners, number)), int(self.order[number])
            self.logs.of(number).add(
                FaultKind.VMALLOC_MISALIGNED,
                f"vmalloc entry {entry} is {int(phys[at]):#x}, not aligned to order {order}",
                paddr=int(phys[at]),
                path=self.chunk_path(number, self.lists.depth - 1),
                count=many,
            )

    def named_once(self, phys: NDArray[np.uint64], bounds: I64) -> tuple[NDArray[np.uint64], I64]:
        """The entries of each area up to the first that stands in it a second time.

        No area has a page twice, and what names one a million times would be read as often.
        """
        counts = np.diff(bounds)
        if not (counts > 1).any():
            return phys, bounds
        owners = np.repeat(np.arange(len(counts)), counts)
        order = np.lexsort((phys, owners))
        same = (phys[order[1:]] == phys[order[:-1]]) & (owners[order[1:]] == owners[order[:-1]])
        again = np.sort(order[1:][same])
        if not len(again):
            return phys, bounds
        whose, first, count = np.unique(owners[again], return_index=True, return_counts=True)
        for number, at, many in zip(
            whose.tolist(), again[first].tolist(), count.tolist(), strict=True
        ):
            entry = at - int(bounds[number])
            self.logs.of(number).add(
                FaultKind.VMALLOC_DUPLICATE,
                f"vmalloc entry {entry} is {int(phys[at]):#x}, which stands there before",
                paddr=int(phys[at]),
                path=self.path(number),
                count=many,
            )
            counts[number] = entry
        kept = np.arange(len(phys)) - np.repeat(bounds[:-1], np.diff(bounds)) < counts[owners]
        return phys[kept], np.append(0, np.cumsum(counts))


def _used(
    memory: PhysicalMemory, chunks: NDArray[np.uint64], slots: int
) -> tuple[NDArray[np.uint64], I64]:
    """The entries of each chunk before its terminating zero, chunk by chunk, and their number."""
    counts: I64 = np.zeros(len(chunks), dtype=np.int64)
    for some in (7, slots):  # most have few
        phys = memory.gather(chunks + np.uint64(8), np.dtype((np.void, 8 * some))).view("<u8")
        phys = phys.reshape(len(chunks), some)
        zero = phys == 0
        counts = np.where(zero.any(axis=1), zero.argmax(axis=1), some)
        if (counts < some).all():
            break
    return phys[np.arange(some) < counts[:, None]], counts


def read_areas(
    memory: PhysicalMemory,
    geometry: PageGeometry,
    areas: VmallocAreas,
    dtype: np.dtype[Any],
    counts: I64,
    budget: int,
) -> Iterator[tuple[NDArray[Any], I64]]:
    """The first ``counts`` entries of each area, of some areas at a time, and how many each gives.

    None behind a missing piece, nor once ``budget`` bytes are read. A page holds whole entries.
    """
    unit, page = dtype.itemsize, geometry.page_size
    order = np.minimum(areas.descriptors["order"], 63).astype(np.int64)
    room = np.diff(areas.bounds) * 2.0 ** (order + geometry.shift) / unit
    counts = np.minimum(counts, np.minimum(room, budget // unit).astype(np.int64))
    reach, low = np.cumsum(counts, dtype=float), 0
    while low < len(counts):
        before = reach[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(reach, before + TOGETHER, side="right")))
        some = counts[low:high]
        found = None
        if reach[high - 1] - before <= budget // unit:
            pages = -(-some * unit // page)
            whose = np.repeat(np.arange(low, high), pages)
            nth = np.arange(len(whose)) - np.repeat(np.cumsum(pages) - pages, pages)
            piece, within = nth >> order[whose], nth & (1 << order[whose]) - 1
            starts = areas.phys[areas.bounds[whose] + piece]
            paddrs = starts + (within * page).astype(np.uint64)
            held = np.minimum(counts[whose] - nth * (page // unit), page // unit)
            if (paddrs >= starts).all():
                found = _entries(memory, paddrs, page, dtype, held)
        if found is None:
            parts, left = [], budget // unit
            for number in range(low, high):
                size = min(int(counts[number]), left) * unit
                parts.append(read_area(memory, geometry, areas[number], size))
                left -= len(parts[-1]) // unit
            found = np.frombuffer(b"".join(parts), dtype)
            some = np.array([len(part) // unit for part in parts])
        budget -= found.nbytes
        yield found, some
        low = high


def _entries(
    memory: PhysicalMemory, paddrs: NDArray[np.uint64], page: int, dtype: np.dtype[Any], held: I64
) -> NDArray[Any] | None:
    """The first ``held`` entries of each page; None where any page is not stored whole."""
    if not memory.stored_mask(paddrs, page).all():
        return None
    width = int(held.max(initial=1))
    rows = memory.gather(paddrs, np.dtype((np.void, width * dtype.itemsize)))
    found = rows.view(f"V{dtype.itemsize}").reshape(len(rows), width)
    if len(held) and held.min() < width:
        found = found[np.arange(width) < held[:, None]]
    return found.ravel().view(dtype)


def read_area(
    memory: PhysicalMemory, geometry: PageGeometry, area: VmallocArea, size: int
) -> bytes:
    """The first ``size`` bytes of an area, or as many as stand before the first missing piece.

    Never more than the pages that the chunks name hold, however large ``size`` is.
    """
    piece, parts = geometry.page_size << area.order, []
    for paddr in area.phys[: -(-size // piece)].tolist():
        try:
            parts.append(memory.read(paddr, min(piece, size)))
        except MissingMemoryError:
            break
        size -= len(parts[-1])
    return b"".join(parts)
