"""What was found in a handover: frozen dataclasses, no I/O.

Physical addresses and sizes are in bytes, ``pfn`` and interval arrays in pages of the
handover's own page size. Arrays are numpy int64 or uint64, never lists of pages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from kho_inspect.units import Extent, PhysAddr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kho_inspect.abi import Abi
    from kho_inspect.contents import Claim, Content
    from kho_inspect.geometry import PageGeometry
    from kho_inspect.intervals import Intervals
    from kho_inspect.preserved import ChunkList, Preserved, RadixTree


class FaultKind(StrEnum):
    """Every kind of damage that reading a handover can meet: the one table of names."""

    FDT_MAP_PROPERTY = "fdt-map-property"
    FDT_BLOB_PROPERTY = "fdt-blob-property"
    DUMP_INCOMPLETE = "dump-incomplete"
    NODE_OUTSIDE = "node-outside"
    NODE_NOT_STORED = "node-not-stored"
    NODE_MISALIGNED = "node-misaligned"
    NODE_ALIASED = "node-aliased"
    NODE_CYCLE = "node-cycle"
    CHUNK_COUNT = "chunk-count"
    CHUNK_ORDER = "chunk-order"
    CHUNK_START = "chunk-start"
    LIMIT = "limit"
    KEY_NO_ORDER = "key-no-order"
    KEY_ORDER_TOO_HIGH = "key-order-too-high"
    ORDER0_LOST = "order0-lost"
    BLOB_OUTSIDE = "blob-outside"
    BLOB_NOT_STORED = "blob-not-stored"
    BLOB_TOO_LARGE = "blob-too-large"
    BLOB_NOT_FDT = "blob-not-fdt"
    VMALLOC_CHUNK_OUTSIDE = "vmalloc-chunk-outside"
    VMALLOC_CHUNK_NOT_STORED = "vmalloc-chunk-not-stored"
    VMALLOC_CHUNK_MISALIGNED = "vmalloc-chunk-misaligned"
    VMALLOC_CYCLE = "vmalloc-cycle"
    VMALLOC_TOO_LONG = "vmalloc-too-long"
    VMALLOC_COUNT = "vmalloc-count"
    VMALLOC_MISALIGNED = "vmalloc-misaligned"
    VMALLOC_DUPLICATE = "vmalloc-duplicate"
    VMALLOC_FLAGS = "vmalloc-flags"
    VMALLOC_ORDER = "vmalloc-order"
    BLOCK_OUTSIDE = "block-outside"
    BLOCK_NOT_STORED = "block-not-stored"
    BLOCK_MISALIGNED = "block-misaligned"
    BLOCK_CYCLE = "block-cycle"
    BLOCK_COUNT = "block-count"
    LUO_SHORT = "luo-short"
    LUO_PROPERTY = "luo-property"
    LUO_ARRAY_MISSING = "luo-array-missing"
    LUO_ARRAY_NOT_STORED = "luo-array-not-stored"
    LUO_COUNT = "luo-count"
    LUO_FLB = "luo-flb"
    LUO_LIMIT = "luo-limit"
    LUO_SHARED = "luo-shared"
    MEMFD_MISSING = "memfd-missing"
    MEMFD_NOT_STORED = "memfd-not-stored"
    MEMFD_FOLIOS = "memfd-folios"
    MEMBLOCK_PROPERTY = "memblock-property"
    METADATA_SHORT = "metadata-short"
    KHO_TEST_PROPERTY = "kho-test-property"
    KHO_TEST_FOLIOS = "kho-test-folios"
    KHO_TEST_NOT_STORED = "kho-test-not-stored"


@dataclass(frozen=True, slots=True)
class Fault:
    """One piece of damage: what, where, and the path of pointers that led there.

    ``count`` is above 1 when one node holds several entries with the same trouble; ``paddr``
    and ``path`` are then the first one's.
    """

    kind: FaultKind
    message: str
    paddr: PhysAddr | None
    path: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class FdtProp:
    """A property with its raw bytes, exactly as they stand in the blob."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class FdtNode:
    """A device tree node; duplicates are kept, order is the blob's."""

    name: str
    props: tuple[FdtProp, ...]
    children: tuple[FdtNode, ...]

    def prop(self, name: str) -> bytes | None:
        """Raw bytes of the first property of that name, None when absent."""
        return next((prop.data for prop in self.props if prop.name == name), None)

    def child(self, name: str) -> FdtNode | None:
        """The first child of that name, None when absent."""
        return next((child for child in self.children if child.name == name), None)

    def string(self, name: str) -> str | None:
        """The first NUL-terminated string of a property, None when absent.

        Bytes that are not UTF-8 come out as ``\\xNN``.
        """
        data = self.prop(name)
        return None if data is None else text_of(data.split(b"\0")[0])

    def u64(self, name: str) -> int | None:
        """A native- (little-)endian u64 property; None when absent or not 8 bytes long."""
        data = self.prop(name)
        return int.from_bytes(data, "little") if data is not None and len(data) == 8 else None

    def u32(self, name: str) -> int | None:
        """A native- (little-)endian u32 property; None when absent or not 4 bytes long."""
        data = self.prop(name)
        return int.from_bytes(data, "little") if data is not None and len(data) == 4 else None


def text_of(data: bytes) -> str:
    """Bytes from a dump as text, without loss: what is not UTF-8 becomes ``\\xNN``."""
    return data.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Source:
    """The memory dump and how it was read."""

    path: str
    format: str
    size: int
    """File size in bytes."""
    page_size: int
    page_size_reason: str
    declared: tuple[Extent, ...]
    """Physical memory that the dump says exists."""
    stored: tuple[Extent, ...]
    """Physical memory whose bytes are in the file."""


@dataclass(frozen=True, slots=True)
class RootFdt:
    """The KHO root device tree (``kho.dtb``)."""

    path: str
    compatible: str
    """As written; ``abi`` is what it was read as."""
    abi: Abi
    assumed: bool
    """The ABI was given by the user, not recognised."""
    known: bool
    """False: nobody knows the string, ``abi`` is only the nearest, and nothing was walked."""
    memory_map: PhysAddr | None
    """None when the property is missing or not 8 bytes."""
    size: int
    """totalsize, bytes."""
    data: bytes = field(repr=False)
    """The whole FDT."""
    root: FdtNode = field(repr=False)
    recovered: bool
    """The file was truncated; the whole FDT was found in the dump at ``paddr``."""
    recovery: str | None
    """How it was recovered, for people."""
    paddr: PhysAddr | None
    """Where it stands in memory, where known."""
    boot_dtb: str | None = None
    """The boot DTB whose /chosen led to it."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One sub-node of the root FDT and the data that it points to."""

    name: str
    paddr: PhysAddr | None
    """None when the property is missing or mis-sized."""
    size: int | None
    """Bytes; None when unknown."""
    stored: bool
    """Every byte is in the dump."""
    preserved: bool
    """Every byte lies in preserved memory."""
    sha256: str | None
    """None when the bytes are not in the dump."""
    kind: str
    """``fdt``, ``data``, or the name of the decoder that knew it."""
    data: bytes | memoryview = field(repr=False)
    fdt: FdtNode | None = field(repr=False)
    """The blob as a device tree, when it is one."""
    content: Content | None = field(default=None, repr=False)
    """The blob decoded, when its kind is known."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What one owner claims of the preserved memory."""

    name: str
    bytes: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Ownership:
    """Preserved memory against the claims on it; merged intervals of page frames."""

    page_shift: int
    owners: tuple[Owner, ...]
    """In the order of their first claim."""
    owned: Intervals
    """Preserved and claimed."""
    orphans: Intervals
    """Preserved, claimed by nobody: a leak in the making, or an undecoded blob's."""
    dangling: Intervals
    """Claimed but not preserved: will be overwritten."""
    shared: Intervals
    """Claimed by more than one owner."""

    def size(self, pages: Intervals) -> int:
        """Bytes in a set of page frame intervals."""
        return int((pages[1] - pages[0]).sum()) << self.page_shift

    def extents(self, pages: Intervals) -> Iterator[Extent]:
        """A set of page frame intervals as byte extents."""
        from kho_inspect import intervals

        return intervals.extents(pages, self.page_shift)


@dataclass(frozen=True, slots=True)
class Scratch:
    """The scratch areas that the next kernel allocates from before it knows of the handover."""

    entries: tuple[tuple[PhysAddr, int], ...]
    """``struct kho_scratch``: address and size in bytes, as written."""
    source: str
    """Where it was learnt, for people."""
    table: Extent | None
    """The array in memory, where there is one."""

    @property
    def areas(self) -> tuple[Extent, ...]:
        """The entries that are areas at all."""
        return tuple(
            Extent(addr, addr + size)
            for addr, size in self.entries
            if size and addr + size <= 1 << 64
        )


@dataclass(frozen=True, slots=True)
class Handover:
    """Everything that was read of one handover."""

    source: Source
    fdt: RootFdt
    geometry: PageGeometry
    tree: RadixTree | ChunkList | None
    """None when the map property leads nowhere."""
    preserved: Preserved
    blobs: tuple[Blob, ...]
    claims: tuple[Claim, ...] = field(repr=False)
    """The memory that every structure followed stands in."""
    ownership: Ownership
    faults: tuple[Fault, ...]
