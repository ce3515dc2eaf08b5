"""Finding KHO root FDTs in a memory dump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kho_inspect import fdt
from kho_inspect.abi import MAP_PROPERTY, find_abi
from kho_inspect.errors import FdtError, MissingMemoryError
from kho_inspect.geometry import PAGE_SHIFTS
from kho_inspect.layouts.fdt import FDT_MAGIC_BYTES
from kho_inspect.units import PhysAddr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.model import FdtNode

SCAN_BYTES = 8 << 20
MAX_ROOT_FDT = 64 << 10
"""The kernel allots the root FDT one page: 64 KiB is the largest there is."""


@dataclass(frozen=True, slots=True)
class FoundFdt:
    """A whole KHO root FDT that stands in the dump."""

    paddr: PhysAddr
    data: bytes
    root: FdtNode
    memory_map: PhysAddr | None
    aligned: bool
    """Starts a page, as the kernel's own does."""
    valid_tree: bool
    """The map pointer leads to a stored, aligned page whose entries are page addresses."""

    @property
    def compatible(self) -> str:
        """The root's compatible string."""
        return self.root.string("compatible") or ""


def find_bytes(
    memory: PhysicalMemory, needle: bytes, *, limit: int | None = None
) -> Iterator[PhysAddr]:
    """Physical addresses at which ``needle`` stands in stored memory, lowest first per segment.

    With ``limit`` the search ends after that many bytes.
    """
    seen = 0
    for paddr, chunk in memory.data_chunks(SCAN_BYTES, len(needle) - 1):
        data = bytes(chunk)
        at = data.find(needle)
        while at >= 0:
            yield paddr + at
            at = data.find(needle, at + 1)
        seen += len(data)
        if limit is not None and seen >= limit:
            return


def find_root_fdts(memory: PhysicalMemory, prefix: bytes = FDT_MAGIC_BYTES) -> Iterator[FoundFdt]:
    """Whole, valid FDTs in the dump that start with ``prefix`` and look like a KHO root."""
    for paddr in find_bytes(memory, prefix):
        found = _read_root(memory, paddr)
        if found is not None:
            yield found


def rank(found: FoundFdt) -> tuple[bool, bool, PhysAddr]:
    """Sort key that puts the most credible root FDT first."""
    return (not found.valid_tree, not found.aligned, found.paddr)


def _read_root(memory: PhysicalMemory, paddr: PhysAddr) -> FoundFdt | None:
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
    smallest = 1 << min(PAGE_SHIFTS.values())
    return FoundFdt(
        paddr,
        data,
        root,
        memory_map,
        aligned=paddr % smallest == 0,
        valid_tree=memory_map is not None and _leads_to_table(memory, memory_map, smallest),
    )


def _leads_to_table(memory: PhysicalMemory, paddr: PhysAddr, page: int) -> bool:
    """Whether ``paddr`` is a page with at least one entry, all of them stored page addresses."""
    if paddr % page:
        return False
    try:
        entries = memory.read(paddr, page).cast("Q")
        pointers = [entry for entry in entries if entry]
        for pointer in pointers:
            memory.read(pointer, page)
    except MissingMemoryError:
        return False
    return bool(pointers) and not any(pointer % page for pointer in pointers)
