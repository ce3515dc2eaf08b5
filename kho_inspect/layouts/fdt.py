"""The flattened device tree container: Devicetree Specification 0.4, chapter 5; libfdt's fdt.h."""

from construct import Int32ub, Int64ub, Struct

FDT_MAGIC = 0xD00DFEED
FDT_MAGIC_BYTES: bytes = Int32ub.build(FDT_MAGIC)
FDT_LAST_SUPPORTED_VERSION = 17
FDT_BEGIN_NODE = 1
FDT_END_NODE = 2
FDT_PROP = 3
FDT_NOP = 4
FDT_END = 9

fdt_header = Struct(
    "magic" / Int32ub,
    "totalsize" / Int32ub,
    "off_dt_struct" / Int32ub,
    "off_dt_strings" / Int32ub,
    "off_mem_rsvmap" / Int32ub,
    "version" / Int32ub,
    "last_comp_version" / Int32ub,
    "boot_cpuid_phys" / Int32ub,
    "size_dt_strings" / Int32ub,
    "size_dt_struct" / Int32ub,
)
"""``struct fdt_header`` of version 17, 40 bytes."""

fdt_header_start = Struct(*fdt_header.subcons[:2])
"""``magic`` and ``totalsize`` alone: what tells a tree, and how much to read."""

fdt_reserve_entry = Struct("address" / Int64ub, "size" / Int64ub)
"""``struct fdt_reserve_entry``; the block of them ends with one that is all zero."""

fdt_node_header = Struct("tag" / Int32ub)
"""``struct fdt_node_header``, or any other token; the name of a node follows."""

fdt_property = Struct("tag" / Int32ub, "len" / Int32ub, "nameoff" / Int32ub)
"""``struct fdt_property``: ``len`` bytes follow; the name is ``nameoff`` into the strings."""
