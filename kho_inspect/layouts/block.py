"""kho_block: chained pages of fixed-size entries, ``include/linux/kho/abi/block.h`` [7.2]."""

from construct import Int64ul, Struct

kho_block_header = Struct("next" / Int64ul, "count" / Int64ul)
"""``struct kho_block_header_ser``, 16 bytes at the start of a page; entries follow, packed."""
