"""Walking a preserved vmalloc area: ``kho_restore_vmalloc()`` in ``kernel/liveupdate/``."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from kho_inspect.errors import MissingMemoryError
from kho_inspect.geometry import PageGeometry
from kho_inspect.layouts.views import dtype_of, parse_record
from kho_inspect.layouts.vmalloc import KHO_VMALLOC_FLAGS, kho_vmalloc, kho_vmalloc_chunk
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import VmallocArea
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.identity import Path, Step, StepKind
from kho_inspect.units import plural
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.pages import ListPage, PageList

_CHUNKS = ListPage(
    "vmalloc chunk",
    FaultKind.VMALLOC_CHUNK_OUTSIDE,
    FaultKind.VMALLOC_CHUNK_NOT_STORED,
    link="vmalloc chunk {at:#x}",
    cycle=(FaultKind.VMALLOC_CYCLE, "vmalloc chunk {last:#x} links back to chunk {at:#x}"),
    misaligned=FaultKind.VMALLOC_CHUNK_MISALIGNED,
)
_NONE = np.empty(0, dtype=np.uint64)


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
    """Follow the chunk list of a parsed ``struct kho_vmalloc``.

    As the kernel does, a zero entry ends its chunk but not the list. The list is given up once
    it has more chunks than any writer would use for ``total_pages``, or names more than ``limit``
    pages, its own included: those of the machine, without what other areas take.
    """
    if limit is None:
        limit = pages_of(memory, geometry)
    first, total_pages = descriptor.first, descriptor.total_pages
    flags, order = descriptor.flags, descriptor.order
    if not _check_descriptor(flags, order, geometry, path, faults):
        return VmallocArea(first, total_pages, flags, order, (), _NONE, path)
    layout = dtype_of(kho_vmalloc_chunk(geometry))
    slots = layout["phys"].shape[0]
    # The writer appends a chunk whenever one is filled to the last slot, so one may be empty.
    most_chunks = (total_pages >> order) // slots + 1
    pages = PageList(_CHUNKS, memory, geometry, faults)
    chunks = pages.addresses
    pieces: list[NDArray[np.uint64]] = []
    entries, at = 0, first
    while at:
        here = (*path, Step(StepKind.CHUNK, len(chunks)))
        too_long = ""
        if len(chunks) >= most_chunks:
            enough = f"{len(chunks)} chunks, enough for its {plural(total_pages, 'page')}"
            too_long = f"vmalloc chunk list goes on at {at:#x} after {enough}"
        elif entries + len(chunks) >= limit:
            too_long = (
                f"vmalloc chunk list is not followed to {at:#x}: with all lists before it, it "
                "names more pages than the machine has"
            )
        data = pages.read(at, here, (FaultKind.VMALLOC_TOO_LONG, too_long) if too_long else None)
        if data is None:
            break
        chunk = np.frombuffer(data, dtype=layout, count=1)[0]
        phys = _used(chunk["phys"])
        _check_alignment(phys, order, geometry, here, faults)
        pieces.append(phys)
        entries += len(phys)
        at = int(chunk["next"])
    phys = pieces[0] if len(pieces) == 1 else np.concatenate([_NONE, *pieces])
    phys = _named_once(phys, path, faults)
    area = VmallocArea(first, total_pages, flags, order, tuple(chunks), phys, path)
    if not area.whole and not at and len(phys) == entries:
        faults.add(
            FaultKind.VMALLOC_COUNT,
            f"vmalloc chunks name {plural(area.pages, 'page')}, total_pages is {total_pages:,}",
            paddr=first or None,
            path=path,
        )
    return area


def _named_once(phys: NDArray[np.uint64], path: Path, faults: FaultLog) -> NDArray[np.uint64]:
    """The entries up to the first that stands there a second time.

    No area has a page twice, and what names one a million times would be read as often.
    """
    if len(phys) < 2:
        return phys
    order = np.argsort(phys, kind="stable")
    again = order[1:][phys[order[1:]] == phys[order[:-1]]]
    if not len(again):
        return phys
    first = int(again.min())
    faults.add(
        FaultKind.VMALLOC_DUPLICATE,
        f"vmalloc entry {first} is {int(phys[first]):#x}, which stands there before",
        paddr=int(phys[first]),
        path=path,
        count=len(again),
    )
    return phys[:first]


def _used(phys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A copy of the entries before the terminating zero."""
    zero = phys == 0
    first = int(zero.argmax())
    return phys[:first].copy() if zero[first] else phys.copy()


def _check_descriptor(
    flags: int, order: int, geometry: PageGeometry, path: Path, faults: FaultLog
) -> bool:
    """Whether the descriptor makes sense enough to be followed."""
    unknown = flags & ~sum(KHO_VMALLOC_FLAGS)
    if unknown:
        faults.add(
            FaultKind.VMALLOC_FLAGS,
            f"vmalloc flags {flags:#x} have unknown bits {unknown:#x}: the kernel ignores them",
            path=path,
        )
    if order > geometry.order0_bit:
        faults.add(
            FaultKind.VMALLOC_ORDER,
            f"vmalloc order is {order}, more than any address has room for",
            path=path,
        )
    return order <= geometry.order0_bit


def _check_alignment(
    phys: NDArray[np.uint64], order: int, geometry: PageGeometry, path: Path, faults: FaultLog
) -> None:
    mask = (1 << min(order + geometry.shift, 63)) - 1
    if int(np.bitwise_or.reduce(phys)) & mask:
        bad = np.flatnonzero(phys & np.uint64(mask))
        faults.add(
            FaultKind.VMALLOC_MISALIGNED,
            f"vmalloc entry {int(bad[0])} is {int(phys[bad[0]]):#x}, not aligned to order {order}",
            paddr=int(phys[bad[0]]),
            path=path,
            count=len(bad),
        )


def read_area(
    memory: PhysicalMemory, geometry: PageGeometry, area: VmallocArea, size: int
) -> bytes:
    """The first ``size`` bytes of an area, or as many as stand before the first missing piece.

    Never more than the pages that the chunks name hold, however large ``size`` is.
    """
    if not len(area.phys):
        return b""
    piece = geometry.page_size << area.order
    parts: list[memoryview] = []
    for paddr in area.phys[: -(-size // piece)].tolist():
        try:
            parts.append(memory.read(paddr, min(piece, size)))
        except MissingMemoryError:
            break
        size -= len(parts[-1])
    return b"".join(parts)
