"""Feature headers in place of version strings: ``include/linux/kho/abi/luo.h`` of the proposal."""

from construct import Bytes, Int64ul, Struct

luo_feature_hdr = Struct(
    "supp" / Int64ul, "req" / Int64ul, "active" / Int64ul, "reserved" / Bytes(104)
)
"""``struct luo_feature_hdr``, 128 bytes at the start of another struct; ``reserved`` is zero."""
