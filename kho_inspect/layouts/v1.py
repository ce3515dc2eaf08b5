"""The kho-v1 memory map: ``kernel/kexec_handover.c`` [6.16 … 7.0], never in a header."""

from functools import cache

from construct import Int32ul, Int64ul, Struct

from kho_inspect.layouts.views import U64Array

PRESERVE_SMALL = 512
"""Bytes of a bitmap in 6.16 and 6.17; from 6.18 on it is a page. Same compatible string."""

khoser_mem_chunk_hdr = Struct("next" / Int64ul, "order" / Int32ul, "num_elms" / Int32ul)
"""``struct khoser_mem_chunk_hdr``, 16 bytes at the start of a page; elements follow."""

khoser_mem_bitmap_ptr = Struct("phys_start" / Int64ul, "bitmap" / Int64ul)
"""``struct khoser_mem_bitmap_ptr``: bit i of the bitmap is block i from ``phys_start``."""


@cache
def kho_mem_phys_bits(size: int) -> Struct:
    """``struct kho_mem_phys_bits``: a bitmap of ``size`` bytes."""
    return Struct("preserve" / U64Array(size // 8))
