"""Preserved memfds: ``include/linux/kho/abi/memfd.h`` (memfd-v1 [6.19, 7.0], memfd-v2 [7.1])."""

from construct import Int32ul, Int64ul, Struct

from kho_inspect.layouts.features import luo_feature_hdr
from kho_inspect.layouts.vmalloc import kho_vmalloc

memfd_luo_ser_v1 = Struct(
    "pos" / Int64ul, "size" / Int64ul, "nr_folios" / Int64ul, "folios" / kho_vmalloc
)
"""``struct memfd_luo_ser`` of memfd-v1, 40 bytes."""

memfd_luo_ser = Struct(
    "pos" / Int64ul,
    "size" / Int64ul,
    "seals" / Int32ul,
    "flags" / Int32ul,
    "nr_folios" / Int64ul,
    "folios" / kho_vmalloc,
)
"""``struct memfd_luo_ser`` of memfd-v2, 48 bytes."""

memfd_luo_ser_features = Struct("features" / luo_feature_hdr, *memfd_luo_ser.subcons)
"""``struct memfd_luo_ser`` with a feature header, 176 bytes; its handler is ``memfd``."""

MEMFD_FEATURES = ("seals", "folios")
"""Bits of its feature header, lowest first."""

memfd_luo_folio_ser = Struct("pfn_flags" / Int64ul, "index" / Int64ul)
"""``struct memfd_luo_folio_ser { u64 pfn:52; u64 flags:12; u64 index; }``"""

FOLIO_PFN_BITS = 52
FOLIO_DIRTY = 1 << 0
FOLIO_UPTODATE = 1 << 1
FOLIO_FLAGS = {FOLIO_DIRTY: "DIRTY", FOLIO_UPTODATE: "UPTODATE"}

MEMFD_SEALS = {
    0x01: "SEAL",
    0x02: "SHRINK",
    0x04: "GROW",
    0x08: "WRITE",
    0x10: "FUTURE_WRITE",
    0x20: "EXEC",
}
"""F_SEAL_*: ``include/uapi/linux/fcntl.h``."""
