"""x86 ``struct boot_params``: ``arch/x86/include/uapi/asm/bootparam.h`` [6.16 …]."""

from construct import Array, Bytes, Int8ul, Int32ul, Int64ul, Struct

HDR_MAGIC = b"HdrS"
"""``hdr.header`` of every kernel since 2.00 of the boot protocol."""
E820_TYPE_RAM = 1
E820_MAX_ENTRIES_ZEROPAGE = 128

boot_e820_entry = Struct("addr" / Int64ul, "size" / Int64ul, "type" / Int32ul)
"""``struct boot_e820_entry``, packed: 20 bytes."""

boot_params = Struct(
    "before" / Bytes(0x1E8),
    "e820_entries" / Int8ul,
    "between" / Bytes(0x202 - 0x1E9),
    "header" / Bytes(4),
    "after" / Bytes(0x2D0 - 0x206),
    "e820_table" / Array(E820_MAX_ENTRIES_ZEROPAGE, boot_e820_entry),
)
"""The part of ``struct boot_params`` up to its table of memory; the whole is one 4K page."""
