"""What one physical address is to a handover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kho_inspect.model.map import ChunkList, RadixTree
from kho_inspect.units import PhysAddr
from kho_inspect.walk.radix import Step, look_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kho_inspect.memory import PhysicalMemory, Presence
    from kho_inspect.model.handover import Blob, Handover
    from kho_inspect.model.preserved import Block
    from kho_inspect.ownership.index import OwnerIndex


@dataclass(frozen=True, slots=True)
class KeyPath:
    """A key and the nodes on the way to its bit."""

    key: int
    order: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class OwnerAt:
    """One claim on an address."""

    chain: str
    """``LUO / session vm-alpha / file 0x1001 / folio 17, file offset 0x11000``"""
    file_offset: int | None


@dataclass(frozen=True, slots=True)
class AddressInfo:
    """All that is known of one address."""

    paddr: PhysAddr
    presence: Presence
    blocks: tuple[Block, ...]
    """The preserved blocks that hold it; empty when it is not preserved."""
    paths: tuple[KeyPath, ...]
    """One per block; for an address that is not preserved, where the order-0 key ends."""
    chunks: tuple[str, ...]
    """kho-v1: chunk, bitmap and bit of each block."""
    blob: Blob | None
    """The sub-node blob that it lies in."""
    node_level: int | None
    """The level of the tree node that it lies in."""
    owners: tuple[OwnerAt, ...]
    """Who claims the page, or the block that it is part of."""


def describe_address(
    memory: PhysicalMemory, handover: Handover, index: OwnerIndex, paddr: PhysAddr
) -> AddressInfo:
    """Look ``paddr`` (0 <= paddr < 2**64) up in everything that was read.

    ``index`` is ``OwnerIndex(handover.preserved, handover.claims)``, built once for all addresses.
    """
    blocks = tuple(handover.preserved.blocks_at(paddr))
    geometry = handover.geometry
    page = paddr & ~(geometry.page_size - 1)
    wanted = [(block.paddr, block.order) for block in blocks] or [(page, 0)]
    paths = []
    for start, order in wanted:
        key = geometry.encode(start, order)
        if isinstance(handover.tree, RadixTree):
            steps = look_up(memory, geometry, handover.tree.root, key)
            paths.append(KeyPath(key, order, tuple(steps)))
    blob = next(
        (
            blob
            for blob in handover.blobs
            if blob.paddr is not None and blob.paddr <= paddr < blob.paddr + (blob.size or 0)
        ),
        None,
    )
    return AddressInfo(
        paddr,
        memory.presence(paddr),
        blocks,
        tuple(paths),
        tuple(place for block in blocks for place in _chunk_places(handover, block)),
        blob,
        _node_level(handover, page),
        tuple(
            OwnerAt(
                claimed.chain(paddr, geometry.shift), claimed.file_offset(paddr, geometry.shift)
            )
            for claimed in index.owners(page >> geometry.shift, (page >> geometry.shift) + 1)
        ),
    )


def _chunk_places(handover: Handover, block: Block) -> Iterator[str]:
    """Where a kho-v1 map records a block."""
    if not isinstance(handover.tree, ChunkList):
        return
    bits = 8 * handover.tree.bitmap_size
    for number, chunk in enumerate(handover.tree.chunks):
        if chunk.order != block.order:
            continue
        for start, bitmap in zip(chunk.phys_start.tolist(), chunk.bitmap.tolist(), strict=True):
            bit = (block.paddr - start) // block.size
            if 0 <= bit < bits:
                yield f"chunk {number} at {chunk.paddr:#x} → bitmap {bitmap:#x} bit {bit}"


def _node_level(handover: Handover, page: PhysAddr) -> int | None:
    if not isinstance(handover.tree, RadixTree):
        return None
    levels = handover.tree.levels
    return next((level.level for level in levels if (level.paddr == page).any()), None)
