"""One pass over a dump for pages that begin like a structure of LUO, of a memfd or of a sub-node.

The kernel puts each at the start of a page of its own, so the first words of every page are
compared, all pages of a piece at a time. The page size is not known: that is done for the smallest.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kho_inspect.decoders.memfd import LAYOUTS
from kho_inspect.decoders.registry import FILE_DECODERS
from kho_inspect.geometry import PAGE_SHIFTS
from kho_inspect.layouts import luo as layout
from kho_inspect.layouts.block import kho_block_header
from kho_inspect.layouts.kexec_metadata import KHO_KEXEC_METADATA_VERSION, kho_kexec_metadata
from kho_inspect.layouts.memfd import MEMFD_SEALS, memfd_luo_folio_ser
from kho_inspect.layouts.views import Layout, dtype_of
from kho_inspect.layouts.vmalloc import KHO_VMALLOC_FLAGS
from kho_inspect.locate.fdt_headers import fdt_headers
from kho_inspect.memory import PhysicalMemory
from kho_inspect.units import PhysAddr

PAGE = 1 << min(PAGE_SHIFTS.values())
LARGEST = 1 << max(PAGE_SHIFTS.values())
SCAN_BYTES = 16 << 20
"""Memory looked at at a time: the heads of its pages stay in a processor's cache."""
HEAD = 256
"""Bytes of each page that are compared: all that any structure begins with."""
MAX_ANCHORS = 1 << 20
"""Places of one kind that are kept: as many as 4 GiB have pages."""
MAX_FILES = 1 << 20
"""Files of one session: above, a count is no count."""
MAX_SIZE = 1 << 44
"""Bytes of a memfd: above, a size is none (the kernel hands over at most 2^32 pages)."""
MAX_ORDER = 10
"""Of the pages of a vmalloc area."""

Heads: TypeAlias = NDArray[np.uint8]
"""The first HEAD bytes of some pages, shape ``(n, HEAD)``."""
Mask: TypeAlias = NDArray[np.bool_]


class AnchorKind(Enum):
    """What a page begins like."""

    SESSION_BLOCK = auto()
    SESSION_ARRAY = auto()
    FILE_BLOCK = auto()
    FILE_ARRAY = auto()
    MEMFD_V1 = auto()
    MEMFD_V2 = auto()
    LUO = auto()
    METADATA = auto()
    FDT = auto()


@dataclass
class Anchors:
    """Addresses of the pages that begin like each kind of structure, ascending."""

    found: dict[AnchorKind, list[PhysAddr]] = field(default_factory=lambda: defaultdict(list))
    passed_over: int = 0
    """Pages above MAX_ANCHORS of a kind, which are not kept."""

    def __getitem__(self, kind: AnchorKind) -> list[PhysAddr]:
        return self.found[kind]


def scan(memory: PhysicalMemory, progress: Callable[[int], None] = lambda size: None) -> Anchors:
    """Look at each page of stored memory once; ``progress`` gets bytes as they are done."""
    anchors = Anchors()
    end = end_of(memory)
    for paddr, chunk in memory.data_chunks(SCAN_BYTES, PAGE):
        skip = -paddr % PAGE
        count = min((len(chunk) - skip) // PAGE, -(-(SCAN_BYTES - skip) // PAGE))
        if count > 0:
            pages = np.frombuffer(chunk, np.uint8, count * PAGE, skip).reshape(count, PAGE)
            heads = np.ascontiguousarray(pages[:, :HEAD])
            for kind, looks_like in _KINDS.items():
                at = np.flatnonzero(looks_like(heads, end)).tolist()
                room = MAX_ANCHORS - len(anchors[kind])
                anchors.passed_over += len(at[room:])
                anchors[kind].extend(paddr + skip + PAGE * number for number in at[:room])
        progress(min(len(chunk), SCAN_BYTES))
    return anchors


def end_of(memory: PhysicalMemory) -> PhysAddr:
    """Where the machine's memory ends, or the last address that numpy's u64 hold."""
    return min(memory.declared[-1].end if memory.declared else 0, (1 << 64) - 1)


def _words(heads: Heads, offset: int) -> NDArray[np.uint64]:
    """The u64 at an offset of each head."""
    return heads.view("<u8")[:, offset // 8]


def _fields(heads: Heads, record: Layout, offset: int = 0) -> NDArray[Any]:
    """A structure at an offset of each head."""
    dtype = dtype_of(record)
    return heads[:, offset : offset + dtype.itemsize].copy().view(dtype)[:, 0]


def padded(texts: NDArray[Any]) -> Mask:
    """Which of some fixed-size texts are there, end with NUL, and have only NUL behind it."""
    letters = texts.copy().view(np.uint8).reshape(len(texts), texts.dtype.itemsize)
    ended = letters == 0
    rest = (np.maximum.accumulate(ended, axis=1) == ended).all(axis=1)
    found: Mask = ~ended[:, 0] & ended[:, -1] & rest
    return found


def are_sessions(records: NDArray[Any], end: PhysAddr) -> Mask:
    """Which of some ``luo_session_ser`` can be one; memory ends at ``end``."""
    files, count = records["files"], records["count"]
    linked = (files % PAGE == 0) & (files < end) & (count <= MAX_FILES)
    found: Mask = linked & ((files == 0) == (count == 0))
    found[found] = padded(records["name"][found])
    return found


def _sessions(heads: Heads, end: PhysAddr, header: Layout) -> Mask:
    """Heads whose count is one, and whose first session reads as such."""
    fields = _fields(heads, header)
    most = layout.LUO_SESSION_PGCNT * LARGEST // layout.luo_session_ser.sizeof()
    found: Mask = (fields["count"] - np.uint64(1)) < most
    if header is kho_block_header:
        found &= (fields["next"] % PAGE == 0) & (fields["next"] < end)
    records = _fields(heads[found], layout.luo_session_ser, header.sizeof())
    found[found] = are_sessions(records, end)
    return found


_NAMES = {
    name: np.frombuffer(name.encode().ljust(8, b"\0")[:8], dtype="<u8")[0] for name in FILE_DECODERS
}
"""Handler → its first eight letters."""


def _files(heads: Heads, end: PhysAddr, start: int) -> Mask:
    """Heads with files from ``start`` on, one of a known handler among the first of them."""
    size = layout.luo_file_ser.sizeof()
    offsets = range(start, HEAD - size + 1, size)
    names = [np.isin(_words(heads, offset), list(_NAMES.values())) for offset in offsets]
    found: Mask = np.logical_or.reduce(names)
    beyond = np.ones(int(found.sum()), dtype=bool)  # entries before this one read as files
    known = np.zeros_like(beyond)
    for offset, named in zip(offsets, names, strict=True):
        records = _fields(heads[found], layout.luo_file_ser, offset)
        data = records["data"]
        beyond &= (data > 0) & padded(records["compatible"])
        known |= beyond & named[found] & (data % PAGE == 0) & (data < end)
    found[found] = known
    return found


def _file_blocks(heads: Heads, end: PhysAddr) -> Mask:
    """Heads that are a kho_block of such files."""
    found = _files(heads, end, kho_block_header.sizeof())
    fields = _fields(heads[found], kho_block_header)
    linked = (fields["next"] % PAGE == 0) & (fields["next"] < end)
    most = LARGEST // layout.luo_file_ser.sizeof()
    found[found] = linked & (fields["count"] > 0) & (fields["count"] <= most)
    return found


def _memfds(heads: Heads, end: PhysAddr, handler: str) -> Mask:
    """Heads that are a memfd's descriptor with nothing behind it."""
    found = are_memfds(heads, end, handler)
    found[found] = ~heads[found, LAYOUTS[handler].sizeof() :].any(axis=1)
    return found


def are_memfds(heads: Heads, end: PhysAddr, handler: str) -> Mask:
    """Which heads are a memfd's descriptor whose figures fit each other; not of an empty one."""
    record = LAYOUTS[handler]
    fields = _fields(heads, record)
    size, folios, area = fields["size"], fields["nr_folios"], fields["folios"]
    found: Mask = (folios > 0) & (folios <= size // PAGE + 1) & (size < MAX_SIZE)
    found &= (area["first"] > 0) & (area["first"] % PAGE == 0) & (area["first"] < end)
    found &= ((area["flags"] & ~np.uint16(sum(KHO_VMALLOC_FLAGS))) == 0) & (
        area["order"] <= MAX_ORDER
    )
    if "seals" in (fields.dtype.names or ()):
        found &= (fields["seals"] & ~np.uint32(sum(MEMFD_SEALS))) == 0
    for at in np.flatnonzero(found).tolist():
        count, order = int(folios[at]), int(area["order"][at])
        found[at] = any(
            int(area["total_pages"][at]) == table_pages(count, shift, order)
            for shift in PAGE_SHIFTS.values()
        )
    return found


def table_pages(folios: int, shift: int, order: int) -> int:
    """Pages of a memfd's folio table, which the kernel allots by ``vcalloc()``."""
    size = folios * dtype_of(memfd_luo_folio_ser).itemsize
    return -(-size // (1 << shift + order)) << order


def _luo(heads: Heads, end: PhysAddr) -> Mask:
    """Heads that are a raw ``luo_ser`` of one version, with pages behind its pointers."""
    found: Mask = (_words(heads, 0) & np.uint64((1 << 40) - 1)) == _LUO
    fields = _fields(heads[found], LUO_SER)
    linked = (fields["sessions_pa"] % PAGE == 0) & (fields["sessions_pa"] < end)
    found[found] = linked & ~heads[found, LUO_SER.sizeof() :].any(axis=1)
    return found


LUO_SER = layout.luo_ser(len("luo-v5"))
"""The struct with a string that is no composite."""
_LUO = np.uint64(int.from_bytes(b"luo-v", "little"))


def _metadata(heads: Heads, end: PhysAddr) -> Mask:
    """Heads with version 1, a text that begins like a release, and nothing behind its end."""
    size = kho_kexec_metadata.sizeof()
    fields = _fields(heads, kho_kexec_metadata)
    found: Mask = (fields["version"] == KHO_KEXEC_METADATA_VERSION) & (fields["kexec_count"] > 0)
    found &= (heads[:, 4] >= ord("1")) & (heads[:, 4] <= ord("9"))
    found[found] = padded(fields["previous_release"][found]) & ~heads[found, size:].any(axis=1)
    return found


def _fdts(heads: Heads, end: PhysAddr) -> Mask:
    page, word = np.divmod(fdt_headers(heads.reshape(-1).view("<u8")), HEAD // 8)
    found: Mask = np.zeros(len(heads), dtype=bool)
    found[page[word == 0]] = True
    return found


_KINDS: dict[AnchorKind, Callable[[Heads, PhysAddr], Mask]] = {
    AnchorKind.SESSION_BLOCK: partial(_sessions, header=kho_block_header),
    AnchorKind.SESSION_ARRAY: partial(_sessions, header=layout.luo_session_header_ser),
    AnchorKind.FILE_BLOCK: _file_blocks,
    AnchorKind.FILE_ARRAY: partial(_files, start=0),
    AnchorKind.MEMFD_V1: partial(_memfds, handler="memfd-v1"),
    AnchorKind.MEMFD_V2: partial(_memfds, handler="memfd-v2"),
    AnchorKind.LUO: _luo,
    AnchorKind.METADATA: _metadata,
    AnchorKind.FDT: _fdts,
}
