"""Page tables, as the processors define them: entries of 8 bytes, little-endian.

x86-64: ``arch/x86/include/asm/pgtable_types.h``; arm64: ``arch/arm64/include/asm/pgtable-hwdef.h``.
"""

from construct import Int64ul, Struct

page_table_entry = Struct("value" / Int64ul)

X86_PRESENT = 1 << 0
X86_HUGE = 1 << 7
"""In levels above the lowest: the entry maps memory, and leads to no table."""
X86_ADDRESS = (1 << 52) - (1 << 12)
X86_TABLE_BITS = 9
X86_IMAGE = 0xFFFFFFFF80000000
"""``__START_KERNEL_map``: physical is virtual less this, plus ``phys_base``."""

ARM64_VALID = 1 << 0
ARM64_TABLE = 1 << 1
"""A table; in the lowest level a page. Without it the entry maps a block."""
ARM64_ADDRESS_BITS = 48
"""Of addresses of 52 bits, 64K pages keep bits 48 to 51 in bits 12 to 15 of an entry; smaller
pages, where virtual addresses have 52 bits, keep bits 50 and 51 in bits 8 and 9."""
