"""What a handover has at one physical address."""

from __future__ import annotations

from dataclasses import dataclass

from kho_inspect.memory import PhysicalMemory, Presence
from kho_inspect.model.handover import Blob, Handover
from kho_inspect.model.identity import Place
from kho_inspect.model.map import Entry
from kho_inspect.model.preserved import Block
from kho_inspect.units import PhysAddr
from kho_inspect.walk.radix import word_reader


@dataclass(frozen=True, slots=True)
class AddressInfo:
    """All that is known of one address."""

    paddr: PhysAddr
    presence: Presence
    blocks: tuple[Block, ...]
    """The preserved blocks that hold it; empty when it is not preserved."""
    entries: tuple[Entry, ...]
    """Where the map records each block; where the way to a page that is not preserved ends."""
    blob: Blob | None
    """The sub-node blob that it lies in."""
    node_level: int | None
    """The level of the tree node that it lies in."""
    owners: tuple[Place, ...]
    """Who claims the page, or the block that it is part of."""


def describe_address(memory: PhysicalMemory, handover: Handover, paddr: PhysAddr) -> AddressInfo:
    """Look ``paddr`` (0 <= paddr < 2**64) up in everything that was read."""
    blocks = tuple(handover.preserved.blocks_at(paddr))
    geometry, tree = handover.geometry, handover.tree
    page = paddr & ~(geometry.page_size - 1)
    groups = tree.groups() if tree else ()
    holders = (
        blob
        for blob in handover.blobs
        if blob.paddr is not None and blob.paddr <= paddr < blob.paddr + (blob.size or 0)
    )
    pfn = page >> geometry.shift
    return AddressInfo(
        paddr=paddr,
        presence=memory.presence(paddr),
        blocks=blocks,
        entries=tuple(tree.find(word_reader(memory), page, blocks)) if tree else (),
        blob=next(holders, None),
        node_level=next((nodes.level for nodes in groups if (nodes.paddr == page).any()), None),
        owners=tuple(handover.index.places(pfn, pfn + 1, paddr)),
    )
