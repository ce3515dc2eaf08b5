"""What was found in a handover: immutable values, no I/O.

Physical addresses and sizes are in bytes, ``pfn`` and interval arrays in pages of the
handover's own page size. Arrays are numpy int64 or uint64, never lists of pages.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from kho_inspect.abi import Abi
from kho_inspect.geometry import PageGeometry
from kho_inspect.model.claims import Claims, Hidden, OwnerIndex, Ownership, Unclaimed
from kho_inspect.model.contents import Content
from kho_inspect.model.faults import Fault
from kho_inspect.model.fd_names import FdNames
from kho_inspect.model.fdt_node import FdtNode, FdtStart
from kho_inspect.model.identity import Owner
from kho_inspect.model.map import PreservedMap
from kho_inspect.model.preserved import Preserved
from kho_inspect.units import Extent, PhysAddr


class Source(NamedTuple):
    """The memory dump and how it was read."""

    path: str
    format: str
    page_size: int
    page_size_reason: str
    declared: tuple[Extent, ...]
    """Physical memory that exists on the machine, by the dump's own account of it."""
    stored: tuple[Extent, ...]
    """Physical memory whose bytes are in the file."""
    ram: tuple[Extent, ...] = ()
    """Usable RAM of the machine, by its firmware's table; empty where none was looked for or found.
    """


class Role(StrEnum):
    """What a root FDT in a dump is to the kernels that ran there."""

    INCOMING = "incoming"
    """Something in the dump points the next kernel to it."""
    OUTGOING = "outgoing"
    """A kernel prepares it: its map preserves its own page, and nothing points to it."""
    STALE = "stale"
    """A copy without a map behind it, or the page where one stood that something points to."""
    PARTIAL = "partial"
    """Its end is missing."""


class RootFdt(NamedTuple):
    """The KHO root device tree (``kho.dtb``)."""

    path: str
    compatible: str
    """As written, of several strings the one that is known; ``abi`` is what it was read as."""
    abi: Abi
    assumed: bool
    """The ABI was given by the user, not recognised."""
    known: bool
    """False: the string is unknown, ``abi`` is only the nearest, and no map was walked."""
    memory_map: PhysAddr | None
    """None when the property is missing or not 8 bytes."""
    size: int
    """totalsize, bytes."""
    data: bytes
    """The whole FDT."""
    root: FdtNode
    recovered: bool
    """The file was truncated; the whole FDT was found in the dump at ``paddr``."""
    recovery: str | None
    """How it was recovered, for people."""
    paddr: PhysAddr | None
    """Where it stands in memory, where known."""
    boot_dtb: str | None = None
    """The boot DTB whose /chosen led to it."""
    start: FdtStart | None = None
    """Of one whose end is missing: what stands of it. ``root`` is no more than that."""
    notes: tuple[str, ...] = ()
    """Where it stood, and which others the dump has, for people."""
    unwritten: bool = False
    """The running kernel has not written the map yet: up to 7.0 it does so at the jump."""

    @property
    def reads_map(self) -> bool:
        """Whether the layout of the preserved-memory map is known."""
        return self.known and self.abi.reads_map


class Blob(NamedTuple):
    """One sub-node of the root FDT and the data that it points to."""

    name: str
    owner: Owner
    paddr: PhysAddr | None
    """None when the property is missing or mis-sized."""
    size: int | None
    """Bytes; None when unknown."""
    stored: bool
    """Every byte is in the dump."""
    preserved: bool | None
    """Every byte lies in preserved memory; None when there is no map that says so."""
    sha256: str | None
    """None when the bytes are not in the dump."""
    kind: str
    """``fdt``, ``data``, or the name of the decoder that reads it."""
    data: bytes | memoryview
    fdt: FdtNode | None
    """The blob as a device tree, when it is one."""
    content: Content | None = None
    """The blob decoded, when its kind is known."""


class Scratch(NamedTuple):
    """The scratch areas that the next kernel allocates from before it reads the handover."""

    entries: tuple[tuple[PhysAddr, int], ...]
    """``struct kho_scratch``: address and size in bytes, as written."""
    source: str
    """What names them, for people."""
    table: Extent | None
    """The array in memory, where there is one."""

    @property
    def areas(self) -> tuple[Extent, ...]:
        """The entries that are areas at all."""
        return tuple(area for _, area in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Extent]]:
        """The same areas, each with the number of its entry in the table."""
        for number, (addr, size) in enumerate(self.entries):
            if size and addr + size <= 1 << 64:
                yield number, Extent(addr, addr + size)


class Pointer(NamedTuple):
    """An x86 setup_data entry, or an arm64 boot FDT, that points the next kernel to a handover."""

    source: str
    """``setup_data at 0x73fa0a0``"""
    where: Extent
    """The entry, or boot FDT, itself; empty when it is not in the dump."""
    fdt: PhysAddr
    scratch: Extent
    """The scratch table."""
    fdt_size: int | None = None
    """As a setup_data entry says; None of a boot FDT."""


@dataclass(frozen=True, slots=True, eq=False)
class Handover:
    """Everything that was read of one handover."""

    source: Source
    fdt: RootFdt
    geometry: PageGeometry
    tree: PreservedMap | None
    """None when the map property leads nowhere, or the ABI is not known."""
    preserved: Preserved
    blobs: tuple[Blob, ...]
    claims: Claims = field(repr=False)
    """The memory that every structure followed stands in."""
    index: OwnerIndex = field(repr=False)
    """Finds the claims on any memory."""
    ownership: Ownership
    scratch: Scratch | None
    """The table that was given, else the dump's own."""
    pointers: tuple[Pointer, ...]
    """What in the dump points to this very root FDT."""
    faults: tuple[Fault, ...]
    strays: tuple[Pointer, ...] = ()
    """The setup_data entries that point to no root FDT at all."""
    scratch_found: Scratch | None = None
    """The table that ``pointers`` lead to, whatever was given."""
    boot: Pointer | None = None
    """What the boot DTB that was given names."""
    hidden: tuple[Hidden, ...] = ()
    """What was not followed and may own memory."""
    names: FdNames = field(default_factory=FdNames)
    """What userspace calls the files and sessions of LUO."""

    @property
    def unclaimed(self) -> Unclaimed:
        """What preserved memory is that nothing decoded claims."""
        return Unclaimed.UNATTRIBUTED if self.hidden else Unclaimed.ORPHAN
