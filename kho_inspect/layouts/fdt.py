"""The flattened device tree container: Devicetree Specification 0.4, chapter 5. Big-endian."""

from __future__ import annotations

from construct import Int32ub, Struct

FDT_MAGIC = 0xD00DFEED
FDT_MAGIC_BYTES = FDT_MAGIC.to_bytes(4, "big")
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
