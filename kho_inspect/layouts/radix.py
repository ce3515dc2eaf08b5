"""The preserved-memory radix tree: ``include/linux/kho/abi/kexec_handover.h`` (kho-v2 … v4).

A node is exactly one page. Interior nodes are tables of physical addresses (0: absent),
leaves are bitmaps whose bit i is bit i % 64 of little-endian word i // 64.
"""

from functools import cache

from construct import Struct

from kho_inspect.geometry import PageGeometry
from kho_inspect.layouts.views import U64Array


@cache
def kho_radix_node(geometry: PageGeometry) -> Struct:
    """``struct kho_radix_node { u64 table[1 << KHO_TABLE_SIZE_LOG2]; }``"""
    return Struct("table" / U64Array(1 << geometry.table_bits))


@cache
def kho_radix_leaf(geometry: PageGeometry) -> Struct:
    """``struct kho_radix_leaf { DECLARE_BITMAP(bitmap, 1 << KHO_BITMAP_SIZE_LOG2); }``"""
    return Struct("bitmap" / U64Array(1 << (geometry.bitmap_bits - 6)))
