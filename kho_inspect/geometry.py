"""Page geometry: how one page size and one ABI shape keys, nodes and levels.

Source: ``enum kho_radix_consts`` and the key encoding in
``include/linux/kho/abi/kexec_handover.h`` (kho-v2, kho-v3/v4).
"""

from dataclasses import dataclass
from functools import cached_property

from kho_inspect.abi import Abi
from kho_inspect.units import PhysAddr

PAGE_SHIFTS: dict[str, int] = {"4K": 12, "16K": 14, "64K": 16}


def page_size_name(shift: int) -> str:
    """12 → ``4K``."""
    return f"{1 << (shift - 10)}K"


@dataclass(frozen=True)
class PageGeometry:
    """The numbers that follow from PAGE_SHIFT and the ABI.

    A *key* is ``1 << (order0_bit - order) | paddr >> (shift + order)``: the position of its
    highest bit tells the order, the rest is the PFN shifted right by that order.
    """

    shift: int
    abi: Abi

    @cached_property
    def page_size(self) -> int:
        """Bytes in a page, and in every node of the tree."""
        return 1 << self.shift

    @cached_property
    def table_bits(self) -> int:
        """log2 of the u64 entries in a ``kho_radix_node`` (KHO_TABLE_SIZE_LOG2)."""
        return self.shift - 3

    @cached_property
    def bitmap_bits(self) -> int:
        """log2 of the bits in a ``kho_radix_leaf`` (KHO_BITMAP_SIZE_LOG2)."""
        return self.shift + 3

    @cached_property
    def order0_bit(self) -> int:
        """Position of the order bit of an order-0 key (KHO_ORDER_0_LOG2)."""
        return 64 - self.shift

    @cached_property
    def levels(self) -> int:
        """Depth of the tree, the leaf level included (KHO_TREE_MAX_DEPTH)."""
        width = self.order0_bit + (1 if self.abi.order_bit_in_width else 0)
        return -(-(width - self.bitmap_bits) // self.table_bits) + 1

    @cached_property
    def key_bits(self) -> int:
        """Bits of a key that the levels can index; the kernel masks off any above."""
        return self.bitmap_bits + (self.levels - 1) * self.table_bits

    @property
    def loses_order0(self) -> bool:
        """True for kho-v2 with 16K pages: the order-0 bit lies above the tree's levels."""
        return self.order0_bit >= self.key_bits

    def level_shift(self, level: int) -> int:
        """Right shift that brings a key's index at ``level`` (1 or more) to bit 0."""
        return (level - 1) * self.table_bits + self.bitmap_bits

    def index(self, key: int, level: int) -> int:
        """Index of ``key`` in its node at ``level``; level 0 is the bit in the leaf."""
        if level == 0:
            return key & ((1 << self.bitmap_bits) - 1)
        return key >> self.level_shift(level) & ((1 << self.table_bits) - 1)

    def encode(self, paddr: PhysAddr, order: int) -> int:
        """Key of the block of ``1 << order`` pages at ``paddr``.

        Raises ValueError for an order outside 0..order0_bit or a misaligned address.
        """
        if not 0 <= order <= self.order0_bit:
            raise ValueError(f"order {order} is not in 0..{self.order0_bit}")
        if not 0 <= paddr < 1 << 64 or paddr & ((1 << (self.shift + order)) - 1):
            raise ValueError(f"{paddr:#x} is not aligned to order {order}")
        return 1 << (self.order0_bit - order) | paddr >> (self.shift + order)

    def decode(self, key: int) -> tuple[PhysAddr, int]:
        """``(paddr, order)`` of a key.

        Raises ValueError when no bit is set, or when the highest lies above the order-0 bit.
        """
        high = key.bit_length() - 1
        order = self.order0_bit - high
        if key <= 0 or order < 0:
            raise ValueError(f"key {key:#x} has no order bit at or below bit {self.order0_bit}")
        return (key ^ (1 << high)) << (self.shift + order), order
