"""Whether a memfd that was found by its contents is one, and how long its folios are.

A map records the order of each folio; without one it follows from the neighbours. The page cache
keeps a folio naturally aligned in memory and in the file, and ``memfd_pin_folios()`` leaves no
hole, so that a folio reaches to where the next one begins (``mm/memfd_luo.c``, 7.0 to 7.3).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kho_inspect.carve.scan import MAX_SIZE, table_pages
from kho_inspect.decoders.memfd import Folios, Memfd
from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64
from kho_inspect.layouts.memfd import FOLIO_FLAGS, memfd_luo_folio_ser
from kho_inspect.layouts.views import dtype_of
from kho_inspect.layouts.vmalloc import KHO_VMALLOC_FLAGS, kho_vmalloc_chunk
from kho_inspect.memory import PhysicalMemory, Presence
from kho_inspect.model.provenance import Doubt, DoubtKind
from kho_inspect.units import plural

DAMAGED = 8
"""One entry in so many of a folio table may be damaged: else nothing shows that it is one."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A memfd whose descriptor, chunks, table and folios agree."""

    memfd: Memfd
    """With the orders of its folios."""
    doubts: tuple[Doubt, ...]
    starts: I64
    """Page frames of all that belongs to it, not merged."""
    ends: I64


def verify(memory: PhysicalMemory, geometry: PageGeometry, memfd: Memfd) -> Verified | str:
    """The memfd with the orders of its folios; in words why it is none, where it cannot be one."""
    page, table, area = geometry.page_size, memfd.table, memfd.folios
    pages = -(-memfd.size // page)
    if memfd.size >= MAX_SIZE or memfd.nr_folios > pages:
        return "size and nr_folios do not fit"
    if memfd.nr_folios == 0:
        if area.first or area.total_pages or memfd.size:
            return "a size or a table without folios"
        empty = Doubt(DoubtKind.EMPTY, "an empty file, whose descriptor is all zero")
        start = np.array([memfd.paddr // page])
        return Verified(memfd, () if memfd.pos else (empty,), start, start + 1)
    slots = slots_of(geometry)
    chunks = (area.total_pages >> area.order) // slots + 1
    if (
        area.flags & ~sum(KHO_VMALLOC_FLAGS)
        or area.total_pages != table_pages(memfd.nr_folios, geometry.shift, area.order)
        or not area.whole
        or (area.phys & np.uint64(page - 1)).any()
        or len(area.chunks) != chunks
        or len(table) != memfd.nr_folios
    ):
        return "table and nr_folios do not fit"
    if not _ends(memory, geometry, memfd):
        return "table or chunk list goes on behind its end"
    sound = _sound(memory, geometry, table, pages)
    damaged = len(table) - len(sound)
    if damaged * DAMAGED > len(table):
        return "folios outside memory, with unknown flags, or indexes that do not rise in the file"
    table = Folios(table.pfn[sound], table.flags[sound], table.index[sound], table.order[sound])
    paddrs = table.pfn.astype(np.uint64) << np.uint64(geometry.shift)
    # Of a folio before a damaged entry nothing says how long it is.
    short = np.diff(sound, append=memfd.nr_folios) > 1
    order, doubts = _orders(table.pfn, table.index.astype(np.int64), pages, short)
    if damaged:
        words = f"{damaged:,} of the {memfd.nr_folios:,} entries of its folio table are damaged"
        doubts.append(Doubt(DoubtKind.FAULT, words))
    by_place = np.argsort(table.pfn, kind="stable")
    reach = (table.pfn + (np.int64(1) << order))[by_place]
    if (reach[:-1] > table.pfn[by_place][1:]).any():
        return "one page for two folios"
    lacking = int((~memory.stored_mask(paddrs, page)).sum())
    if lacking:
        doubts.append(Doubt(DoubtKind.NOT_STORED, f"{plural(lacking, 'folio')} not in the dump"))
    found = replace(memfd, table=replace(table, order=order.astype(np.int8)))
    single = [at // page for at in (memfd.paddr, *area.chunks)]
    many = (area.phys >> np.uint64(geometry.shift)).astype(np.int64)
    starts = np.concatenate([np.array(single, dtype=np.int64), many, table.pfn])
    pages_of_table = np.full(len(many), 1 << area.order)
    lengths = np.concatenate([np.ones(len(single), np.int64), pages_of_table, np.int64(1) << order])
    return Verified(found, tuple(doubts), starts, starts + lengths)


def _sound(memory: PhysicalMemory, geometry: PageGeometry, table: Folios, pages: int) -> I64:
    """Which entries of a table can be; ``pages``: those of the file."""
    sound = (table.index < pages) & ((table.flags & ~np.int16(sum(FOLIO_FLAGS))) == 0)
    sound &= (table.pfn > 0) & (table.pfn < 1 << 64 - geometry.shift)
    sound[sound] = _declared(
        memory,
        table.pfn[sound].astype(np.uint64) << np.uint64(geometry.shift),
        geometry.page_size,
        len(table) // DAMAGED,
    )
    found = np.flatnonzero(sound)
    index = table.index[found].astype(np.int64)
    # One index too high stands out against those behind it, one too low against those before it.
    highest = np.maximum.accumulate(np.append(np.int64(-1), index))[:-1]
    lowest = np.minimum.accumulate(np.append(np.int64(pages), index[::-1]))[:-1][::-1]
    rising: I64 = found[max(index > highest, index < lowest, key=np.count_nonzero)]
    return rising


def _ends(memory: PhysicalMemory, geometry: PageGeometry, memfd: Memfd) -> bool:
    """Whether there is nothing behind the last entries: the kernel zeroes both pages first."""
    area, piece = memfd.folios, geometry.page_size << memfd.folios.order
    used = memfd.nr_folios * dtype_of(memfd_luo_folio_ser).itemsize - piece * (len(area.phys) - 1)
    free = slots_of(geometry) * len(area.chunks) - len(area.phys)
    size = free * area.phys.itemsize
    tails = [
        (int(area.phys[-1]) + used, piece - used),
        (area.chunks[-1] + geometry.page_size - size, size),
    ]
    return not any(any(memory.read(paddr, size)) for paddr, size in tails if size)


def slots_of(geometry: PageGeometry) -> int:
    """Entries that one chunk of a vmalloc area has room for."""
    return int(dtype_of(kho_vmalloc_chunk(geometry))["phys"].shape[0])


def _declared(
    memory: PhysicalMemory, paddrs: NDArray[np.uint64], size: int, most: int
) -> NDArray[np.bool_]:
    """Which pages the machine has; none behind the first that it lacks beyond ``most``."""
    found = memory.stored_mask(paddrs, size)
    for at in np.flatnonzero(~found).tolist():
        found[at] = memory.presence(int(paddrs[at]), size) is not Presence.OUTSIDE
        most -= not found[at]
        if most < 0:
            break
    return found


def _orders(pfn: I64, index: I64, pages: int, short: NDArray[np.bool_]) -> tuple[I64, list[Doubt]]:
    """Order of each folio by its neighbours in the file and in memory, and what is doubtful.

    ``pages``: those of the file. The last folio may go on behind the file's end. Those that are
    ``short`` count as one page.
    """
    room = np.diff(index, append=pages)
    order = _log2(room)
    order[-1] = _log2(2 * room[-1:] - 1)[0]
    by_place = np.argsort(pfn, kind="stable")
    apart = np.full(len(pfn), np.iinfo(np.int64).max)
    apart[by_place[:-1]] = np.diff(pfn[by_place])
    order = np.minimum(order, _log2(np.maximum(apart, 1)))
    # The lowest bit set of both: the largest order that both are aligned to.
    both = pfn | index
    order = np.where(short, 0, np.minimum(order, _log2(both & -both)))
    held = np.int64(1) << order
    doubts = []
    larger = int((order > 0).sum())
    if larger:
        words = f"the length of {plural(larger, 'folio')} follows from where the next one begins"
        doubts.append(Doubt(DoubtKind.FOLIO_LENGTH, words))
    missing = int(np.maximum(room - held, 0).sum()) + int(index[0])
    if missing:
        words = f"no folio for {plural(missing, 'page')}, where the kernel leaves no hole"
        doubts.append(Doubt(DoubtKind.HOLE, words))
    return order, doubts


def _log2(values: I64) -> I64:
    """The highest bit of each positive value."""
    found: I64 = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    # A value just below a power of two may have been rounded up to it.
    return found - ((np.int64(1) << np.minimum(found, 62)) > values)
