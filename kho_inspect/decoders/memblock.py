"""memblock: the ``reserve_mem=`` regions (memblock-v1), ``mm/memblock.c`` [6.16 …]."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kho_inspect.decoders.context import Context
from kho_inspect.geometry import PageGeometry
from kho_inspect.model.contents import Content, Document, Item, Piece, Row, Rows
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import Blob
from kho_inspect.model.identity import ClaimKind, Owner, Path, Step, StepKind, Subsystem
from kho_inspect.model.preserved import Preserved
from kho_inspect.units import PhysAddr, human_size, plural

REGION = "reserve-mem-v1"
MAX_REGIONS = 256
"""In all blobs together; the kernel's own limit is 8 (RESERVE_MEM_MAX_ENTRIES)."""


class ReserveMem(NamedTuple):
    """One ``reserve_mem=`` region."""

    name: str
    compatible: str
    start: PhysAddr | None
    """None when the property is missing or mis-sized."""
    size: int | None
    path: Path

    @property
    def owner(self) -> Owner:
        return Owner(Subsystem.RESERVE_MEM, (self.name,))


@dataclass(frozen=True, slots=True)
class Memblock(Content):
    """The memblock sub-node."""

    compatible: str
    regions: tuple[ReserveMem, ...]

    def summary(self) -> str:
        return plural(len(self.regions), "region")

    def rows(self) -> Rows:
        numbers = ("start", "end", "size")
        rows = [_row(region) for region in self.regions]
        return Rows(self.summary(), rows, ("reserve_mem", *numbers), numbers)

    def document(self) -> Document:
        return {
            "compatible": self.compatible,
            "reserve_mem": [
                {
                    "name": region.name,
                    "compatible": region.compatible,
                    "start": None if region.start is None else hex(region.start),
                    "size": region.size,
                }
                for region in self.regions
            ],
        }

    def items(self, geometry: PageGeometry) -> Iterator[Item]:
        for region in self.regions:
            if region.start is not None and region.size is not None:
                yield Item(region.owner, region.size, [Piece(0, region.start, region.size)])

    def hidden(self, preserved: Preserved, path: Path) -> Iterator[tuple[str, Path]]:
        for region in self.regions:
            start = region.start
            if region.compatible != REGION and start is not None and preserved.covers(start, 1):
                words = f"region {region.name!r} is of unknown type {region.compatible!r}"
                yield words, region.path

    def expected(self) -> Iterator[tuple[str, Document]]:
        for region in self.regions:
            if region.start is not None and region.size:
                entry = {"name": region.name, "start": hex(region.start), "size": region.size}
                yield "ranges", entry


def _row(region: ReserveMem) -> Row:
    if region.start is None or region.size is None:
        return Row((region.name, "?", "?", "?"))
    end = region.start + region.size
    return Row((region.name, f"{region.start:#x}", f"{end:#x}", human_size(region.size)))


def decode(context: Context, blob: Blob, kind: str) -> Memblock:
    """Every child that is a region, and a claim on the memory of each."""
    assert blob.fdt is not None
    nodes = blob.fdt.children[: MAX_REGIONS - context.spent["regions"]]
    context.spent["regions"] += len(nodes)
    path = (Step(StepKind.SUBNODE, blob.name),)
    more = len(blob.fdt.children) - len(nodes)
    if more:
        words = f"{plural(more, 'region')} behind the first {len(nodes):,} not looked at"
        message = f"{words}: no kernel reserves so many"
        context.faults.add(FaultKind.LIMIT, message, paddr=blob.paddr, path=path)
    regions = [_region(context, node, (*path, Step(StepKind.REGION, node.name))) for node in nodes]
    return Memblock(kind, tuple(regions))


def _region(context: Context, node: FdtNode, path: Path) -> ReserveMem:
    kind = FaultKind.MEMBLOCK_PROPERTY
    start, size = context.read_integers(
        node, "start", "size", size=8, kind=kind, what="reserve_mem", path=path
    )
    region = ReserveMem(node.name, node.string("compatible") or "", start, size, path)
    if region.compatible == REGION and start is not None and size is not None:
        context.claims.add(region.owner, ClaimKind.REGION, start, size)
    return region
