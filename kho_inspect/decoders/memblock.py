"""memblock: the ``reserve_mem=`` regions (memblock-v1), ``mm/memblock.c`` [6.16 …]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kho_inspect.decoders.context import BlobDecoder, is_fdt
from kho_inspect.model.contents import Memblock, ReserveMem
from kho_inspect.model.faults import FaultKind
from kho_inspect.units import plural

if TYPE_CHECKING:
    from kho_inspect.decoders.context import Context
    from kho_inspect.model.fdt_node import FdtNode
    from kho_inspect.model.handover import Blob

REGION = "reserve-mem-v1"
MAX_REGIONS = 256
"""In all blobs together; the kernel's own limit is 8 (RESERVE_MEM_MAX_ENTRIES)."""


def decode(context: Context, blob: Blob, kind: str) -> Memblock:
    """Every child that is a region, and a claim on the memory of each."""
    assert blob.fdt is not None
    left = context.left.setdefault("regions", MAX_REGIONS)
    nodes = blob.fdt.children[:left]
    context.left["regions"] -= len(nodes)
    more = len(blob.fdt.children) - len(nodes)
    if more:
        context.faults.add(
            FaultKind.LIMIT,
            f"{plural(more, 'region')} behind the first {len(nodes):,} not looked at: "
            "no kernel reserves so many",
            paddr=blob.paddr,
            path=f"/{blob.name}",
        )
    regions = [_region(context, node, f"/{blob.name}/{node.name}") for node in nodes]
    return Memblock(kind, tuple(regions))


def _region(context: Context, node: FdtNode, path: str) -> ReserveMem:
    for name in ("start", "size"):
        if node.u64(name) is None:
            context.faults.add(
                FaultKind.MEMBLOCK_PROPERTY,
                f"reserve_mem property {name!r} is missing or not 8 bytes",
                path=path,
            )
    region = ReserveMem(
        node.name, node.string("compatible") or "", node.u64("start"), node.u64("size"), path
    )
    if region.compatible == REGION and region.start is not None and region.size is not None:
        context.claims.add(f"reserve_mem / {node.name}", "region", region.start, region.size)
    return region


DECODERS = (BlobDecoder("memblock-v1", "memblock", is_fdt("memblock-v1"), decode),)
