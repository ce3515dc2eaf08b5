"""vmalloc preservation: ``include/linux/kho/abi/kexec_handover.h`` (kho-v2 … v4; same in v1)."""

from functools import cache

from construct import Int16ul, Int32ul, Int64ul, Struct

from kho_inspect.geometry import PageGeometry
from kho_inspect.layouts.views import U64Array

KHO_VMALLOC_ALLOC = 1 << 0
KHO_VMALLOC_HUGE_VMAP = 1 << 1
KHO_VMALLOC_FLAGS = {KHO_VMALLOC_ALLOC: "ALLOC", KHO_VMALLOC_HUGE_VMAP: "HUGE_VMAP"}

kho_vmalloc = Struct(
    "first" / Int64ul, "total_pages" / Int32ul, "flags" / Int16ul, "order" / Int16ul
)
"""``struct kho_vmalloc``, 16 bytes: the descriptor of one preserved vmalloc area."""


@cache
def kho_vmalloc_chunk(geometry: PageGeometry) -> Struct:
    """``struct kho_vmalloc_chunk``: one page, a link and zero-terminated page addresses."""
    return Struct("next" / Int64ul, "phys" / U64Array(geometry.page_size // 8 - 1))
