"""Finding what nobody handed over: root FDTs, and what points to them, in a memory dump."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kho_inspect import fdt
from kho_inspect.abi import MAP_PROPERTY, find_abi
from kho_inspect.errors import FdtError, MissingMemoryError
from kho_inspect.geometry import PAGE_SHIFTS
from kho_inspect.layouts.fdt import FDT_MAGIC_BYTES
from kho_inspect.layouts.setup_data import (
    KHO_DATA_LEN,
    SETUP_KEXEC_KHO,
    kho_data,
    setup_data,
)
from kho_inspect.layouts.views import parse_record
from kho_inspect.units import Extent, PhysAddr, plural
from kho_inspect.walk.chunk_list import walk_chunks
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.page_size import find_page_size, preserved_order

if TYPE_CHECKING:
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.model import FdtNode

SCAN_BYTES = 1 << 20
"""Memory searched at a time: small enough to stay in a processor's cache."""
MAX_ROOT_FDT = 64 << 10
"""The kernel allots the root FDT one page: 64 KiB is the largest there is."""
MAX_BOOT_FDT = 2 << 20
"""The kernel's limit for a boot device tree."""
MAX_JUDGED = 256
"""Root FDTs whose trees are looked into, and boot FDTs that are parsed."""
MAX_WITNESSES = 64
"""Sub-nodes whose blobs are looked up in a tree to tell its page size."""

NOWHERE = Extent(0, 0)


@dataclass(frozen=True, slots=True)
class FoundFdt:
    """A whole KHO root FDT that stands in the dump."""

    paddr: PhysAddr
    data: bytes = field(repr=False)
    root: FdtNode = field(repr=False)
    memory_map: PhysAddr | None
    aligned: bool
    """Starts a page, as the kernel's own does."""
    valid_tree: bool
    """The map pointer leads to something that reads as a preserved-memory map."""
    preserved: bool
    """The map records the very page that the FDT stands in, as kho_init sees to."""
    pointers: tuple[str, ...] = ()
    """What in the dump points to it."""

    @property
    def compatible(self) -> str:
        """The root's compatible string."""
        return self.root.string("compatible") or ""

    @property
    def size_words(self) -> str:
        """``271 bytes``"""
        return plural(len(self.data), "byte")

    @property
    def rank(self) -> tuple[bool, bool, bool, bool, PhysAddr]:
        """Sorts the most credible first."""
        return (
            not self.valid_tree,
            not self.preserved,
            not self.pointers,
            not self.aligned,
            self.paddr,
        )

    @property
    def why(self) -> str:
        """The evidence for and against it, in words."""
        words = ["valid tree" if self.valid_tree else "no valid tree behind it"]
        if self.valid_tree:
            words.append(
                "own page preserved" if self.preserved else "own page not preserved: stale"
            )
        words += [f"{pointer} points to it" for pointer in self.pointers]
        words.append("page-aligned" if self.aligned else "not page-aligned")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Pointer:
    """An x86 setup_data entry, or an arm64 boot FDT, that tells the next kernel of a handover."""

    source: str
    """``setup_data at 0x73fa0a0``"""
    where: Extent
    """The entry, or boot FDT, itself; empty when it is not in the dump."""
    fdt: PhysAddr
    scratch: Extent
    """The scratch table."""


@dataclass(frozen=True, slots=True)
class Located:
    """Everything that a scan found, most credible first."""

    fdts: tuple[FoundFdt, ...]
    pointers: tuple[Pointer, ...]


def locate(
    memory: PhysicalMemory,
    progress: Callable[[int], None] = lambda size: None,
    *,
    limit: int | None = None,
) -> Located:
    """Scan all stored memory once, in bounded memory; ``progress`` gets bytes as they are done.

    With ``limit`` the scan ends after that many bytes. A device tree is 8-byte aligned by its
    specification, a setup_data entry by its allocation.
    """
    import numpy as np

    magic = np.uint32(int.from_bytes(FDT_MAGIC_BYTES, "little"))
    entry = np.uint64(KHO_DATA_LEN << 32 | SETUP_KEXEC_KHO)
    fdts: list[FoundFdt] = []
    pointers: list[Pointer] = []
    seen = 0
    for paddr, chunk in memory.data_chunks(SCAN_BYTES, 0):
        skip = -paddr % 8
        words = np.frombuffer(chunk[skip : skip + (len(chunk) - skip) // 8 * 8], dtype="<u8")
        halves = words.view("<u4")[::2]
        for at in np.flatnonzero(halves == magic).tolist():
            _look_at_fdt(memory, paddr + skip + 8 * at, fdts, pointers)
        for at in np.flatnonzero(words == entry).tolist():
            pointer = _read_setup_data(memory, paddr + skip + 8 * at - 8)
            if pointer is not None:
                pointers.append(pointer)
        progress(len(chunk))
        seen += len(chunk)
        if limit is not None and seen >= limit:
            break
    named = [
        replace(found, pointers=tuple(p.source for p in pointers if p.fdt == found.paddr))
        for found in fdts
    ]
    return Located(tuple(sorted(named, key=lambda found: found.rank)), tuple(pointers))


def find_bytes(memory: PhysicalMemory, needle: bytes) -> Iterator[PhysAddr]:
    """Physical addresses at which ``needle`` stands in stored memory, lowest first per segment."""
    for paddr, chunk in memory.data_chunks(SCAN_BYTES, len(needle) - 1):
        data = bytes(chunk)
        at = data.find(needle)
        while at >= 0:
            yield paddr + at
            at = data.find(needle, at + 1)


def find_copies(memory: PhysicalMemory, prefix: bytes) -> list[FoundFdt]:
    """Whole KHO root FDTs that start with ``prefix``, wherever they stand, best first."""
    found: list[FoundFdt] = []
    for paddr in find_bytes(memory, prefix):
        one = read_root(memory, paddr, judge=len(found) < MAX_JUDGED)
        if one is not None:
            found.append(one)
    return sorted(found, key=lambda one: one.rank)


def read_root(memory: PhysicalMemory, paddr: PhysAddr, *, judge: bool = True) -> FoundFdt | None:
    """The KHO root FDT at ``paddr``, None when there is none; its tree is only looked at on
    ``judge``."""
    try:
        size = fdt.total_size(memory.read(paddr, 8))
        if size is None or size > MAX_ROOT_FDT:
            return None
        data = bytes(memory.read(paddr, size))
        root = fdt.parse(data)
    except (FdtError, MissingMemoryError):
        return None
    if root.prop(MAP_PROPERTY) is None and find_abi(root.string("compatible") or "") is None:
        return None
    memory_map = root.u64(MAP_PROPERTY)
    valid, preserved = False, False
    if judge and memory_map:
        valid, preserved = _judge_tree(memory, root, memory_map, paddr)
    aligned = paddr % (1 << min(PAGE_SHIFTS.values())) == 0
    return FoundFdt(paddr, data, root, memory_map, aligned, valid, preserved)


def _judge_tree(
    memory: PhysicalMemory, root: FdtNode, memory_map: PhysAddr, paddr: PhysAddr
) -> tuple[bool, bool]:
    """Whether the map reads well, and whether it records the page at ``paddr``."""
    abi = find_abi(root.string("compatible") or "")
    if abi is None:
        return False, False
    blobs = [node.u64(abi.blob_property) for node in root.children[:MAX_WITNESSES]]
    evidence = find_page_size(memory, abi, memory_map, [at for at in blobs if at])
    best = evidence.best
    if not (best.aligned and best.good and not best.bad):
        return False, False
    if abi.radix:
        return True, preserved_order(memory, best.geometry, memory_map, paddr) is not None
    _, preserved = walk_chunks(memory, best.geometry, memory_map, FaultLog())
    return True, preserved.covers(paddr, 1)


def _look_at_fdt(
    memory: PhysicalMemory, paddr: PhysAddr, fdts: list[FoundFdt], pointers: list[Pointer]
) -> None:
    found = read_root(memory, paddr, judge=len(fdts) < MAX_JUDGED)
    if found is not None:
        fdts.append(found)
        return
    try:
        size = fdt.total_size(memory.read(paddr, 8))
        if size is None or size > MAX_BOOT_FDT or len(pointers) >= MAX_JUDGED:
            return
        data = bytes(memory.read(paddr, size))
        # Parsing every boot FDT, and every decoy, would take longer than the scan.
        if b"linux,kho-fdt\0" not in data:
            return
        where = Extent(paddr, paddr + size)
        pointer = chosen_pointer(fdt.parse(data), f"boot FDT at {paddr:#x}", where)
    except (FdtError, MissingMemoryError):
        return
    if pointer is not None:
        pointers.append(pointer)


def chosen_pointer(root: FdtNode, source: str, where: Extent = NOWHERE) -> Pointer | None:
    """What ``/chosen`` of an arm64 boot device tree says of a handover, None when nothing."""
    chosen = root.child("chosen")
    region = chosen and _cells(root, chosen.prop("linux,kho-fdt"))
    scratch = (chosen and _cells(root, chosen.prop("linux,kho-scratch"))) or NOWHERE
    return Pointer(source, where, region.start, scratch) if region else None


def _cells(root: FdtNode, data: bytes | None) -> Extent | None:
    """Address and size, big-endian, by the root's #address-cells and #size-cells."""
    widths = []
    for name in ("#address-cells", "#size-cells"):
        raw = root.prop(name) or b"\0\0\0\2"
        widths.append(4 * int.from_bytes(raw, "big"))
    if data is None or len(data) != sum(widths):
        return None
    start = int.from_bytes(data[: widths[0]], "big")
    return Extent(start, start + int.from_bytes(data[widths[0] :], "big"))


def _read_setup_data(memory: PhysicalMemory, paddr: PhysAddr) -> Pointer | None:
    """A setup_data entry of type SETUP_KEXEC_KHO, None where it cannot be one."""
    if paddr < 0:
        return None
    try:
        raw = memory.read(paddr, setup_data.sizeof() + kho_data.sizeof())
    except MissingMemoryError:
        return None
    data = parse_record(kho_data, raw[setup_data.sizeof() :])
    table = Extent(data.scratch_addr, data.scratch_addr + data.scratch_size)
    where = Extent(paddr, paddr + len(raw))
    return Pointer(f"setup_data at {paddr:#x}", where, data.fdt_addr, table)
