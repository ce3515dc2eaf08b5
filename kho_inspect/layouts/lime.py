"""LiME memory dumps: ``lime_mem_range_header`` of the LiME kernel module (``src/lime.h``).

AVML writes the same records for its uncompressed dumps.
"""

from construct import Bytes, Int32ul, Int64ul, Struct

LIME_MAGIC = 0x4C694D45
LIME_VERSION = 1

lime_mem_range_header = Struct(
    "magic" / Int32ul,
    "version" / Int32ul,
    "s_addr" / Int64ul,
    "e_addr" / Int64ul,
    "reserved" / Bytes(8),
)
"""Before each range of memory; ``e_addr`` is its last byte, not the one after it."""

LIME_MAGIC_BYTES: bytes = Int32ul.build(LIME_MAGIC)
