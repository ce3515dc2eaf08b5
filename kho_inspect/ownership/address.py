"""What a handover has at one physical address."""

from dataclasses import dataclass

from kho_inspect.memory import PhysicalMemory, Presence
from kho_inspect.model.claims import Unclaimed
from kho_inspect.model.handover import Blob, Handover, Pointer
from kho_inspect.model.identity import Place
from kho_inspect.model.map import Entry
from kho_inspect.model.preserved import Block
from kho_inspect.units import Extent, PhysAddr
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
    unclaimed: Unclaimed | None
    """What it is when it is preserved and has no owner."""
    root_fdt_offset: int | None
    """Of the byte in the root FDT, when it lies in it."""
    scratch: tuple[tuple[int, Extent], ...]
    """The scratch areas that it lies in, each with its number in the table."""
    scratch_table: Extent | None
    """The scratch table that it lies in, zeroed or not."""
    pointers: tuple[Pointer, ...]
    """The setup_data entry or boot FDT that it lies in, which points to the root FDT."""
    strays: tuple[Pointer, ...]
    """The setup_data entry that it lies in, which points to no root FDT."""


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
    owners = tuple(handover.index.places(pfn, pfn + 1, paddr))
    scratch = handover.scratch
    areas = scratch.numbered() if scratch else ()
    tables = [scratch.table if scratch else None, *(one.scratch for one in handover.pointers)]
    into = -1 if handover.fdt.paddr is None else paddr - handover.fdt.paddr
    return AddressInfo(
        paddr=paddr,
        presence=memory.presence(paddr),
        blocks=blocks,
        entries=tuple(tree.find(word_reader(memory), page, blocks)) if tree else (),
        blob=next(holders, None),
        node_level=next((nodes.level for nodes in groups if (nodes.paddr == page).any()), None),
        owners=owners,
        unclaimed=handover.unclaimed if blocks and not owners else None,
        root_fdt_offset=into if 0 <= into < handover.fdt.size else None,
        scratch=tuple(one for one in areas if one[1].contains(paddr)),
        scratch_table=next((one for one in tables if one and one.contains(paddr)), None),
        pointers=tuple(one for one in handover.pointers if one.where.contains(paddr)),
        strays=tuple(one for one in handover.strays if one.where.contains(paddr)),
    )
