"""Damage that reading a handover can meet."""

from dataclasses import dataclass
from enum import StrEnum

from kho_inspect.model.identity import Message, Path
from kho_inspect.units import PhysAddr


class FaultKind(StrEnum):
    """Every kind of damage that reading a handover can meet: the one table of names."""

    FDT_MAP_PROPERTY = "fdt-map-property"
    FDT_BLOB_PROPERTY = "fdt-blob-property"
    BOOT_DTB = "boot-dtb"
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
    BLOCK_EMPTY = "block-empty"
    RECORD_UNCOUNTED = "record-uncounted"
    LUO_SHORT = "luo-short"
    LUO_PROPERTY = "luo-property"
    LUO_ARRAY_MISSING = "luo-array-missing"
    LUO_ARRAY_NOT_STORED = "luo-array-not-stored"
    LUO_COUNT = "luo-count"
    LUO_FLB = "luo-flb"
    LUO_LIMIT = "luo-limit"
    LUO_SHARED = "luo-shared"
    FEATURES = "features"
    MEMFD_MISSING = "memfd-missing"
    MEMFD_MISALIGNED = "memfd-misaligned"
    MEMFD_NOT_STORED = "memfd-not-stored"
    MEMFD_FOLIOS = "memfd-folios"
    MEMBLOCK_PROPERTY = "memblock-property"
    METADATA_SHORT = "metadata-short"
    KHO_TEST_PROPERTY = "kho-test-property"
    KHO_TEST_FOLIOS = "kho-test-folios"
    KHO_TEST_NOT_STORED = "kho-test-not-stored"
    FD_MAPPING = "fd-mapping"
    FD_TOKEN_MISSING = "fd-token-missing"
    FD_TOKEN_UNNAMED = "fd-token-unnamed"
    FD_SESSION_MISSING = "fd-session-missing"


BAD_POINTERS = (
    FaultKind.NODE_OUTSIDE,
    FaultKind.NODE_MISALIGNED,
    FaultKind.NODE_ALIASED,
    FaultKind.NODE_CYCLE,
)
"""Pointers of the preserved-memory map that lead to no node of it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One piece of damage: what, where, and the path of pointers that led there.

    ``count`` is above 1 when one node holds several entries with the same trouble; ``paddr``
    and ``path`` are then the first one's.
    """

    kind: FaultKind
    message: Message
    paddr: PhysAddr | None
    path: Path
    count: int = 1
