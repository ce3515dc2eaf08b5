"""What rules need to know of the map and of the memory that it preserves: ``case.map``."""

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from kho_inspect import intervals
from kho_inspect.model.faults import BAD_POINTERS
from kho_inspect.model.handover import Handover
from kho_inspect.model.map import MapNodes
from kho_inspect.model.preserved import Preserved
from kho_inspect.units import Extent

MANY_BAD = 8
"""Bad tree pointers from which on the tree may be recycled memory rather than damaged."""
MAX_LIKELY_ORDER = 18
"""1 GiB pages on 4K, the largest that any writer preserves as one block."""
MANY_RUNS = 64
"""Runs of blocks that no writer makes from which on the bitmaps may be recycled memory."""


class MapView:
    """The preserved-memory map of one handover; everything in page frames."""

    def __init__(self, handover: Handover) -> None:
        self.handover = handover

    def nodes(self) -> Iterable[MapNodes]:
        """The memory that the map itself stands in, kind by kind."""
        tree = self.handover.tree
        return tree.groups() if tree is not None else ()

    @cached_property
    def node_pfns(self) -> intervals.Intervals:
        """The same as a merged set."""
        shift = np.uint64(self.handover.geometry.shift)
        groups = [(nodes.paddr >> shift).astype(np.int64) for nodes in self.nodes()]
        pfns = np.concatenate([np.empty(0, dtype=np.int64), *groups])
        return intervals.merge(pfns, pfns + 1)

    def pages(self, extents: Iterable[Extent]) -> intervals.Intervals:
        """The page frames of some memory as a merged set."""
        shift = self.handover.geometry.shift
        pairs = ((extent.start >> shift, -(-extent.end >> shift)) for extent in extents)
        return intervals.merge(*intervals.from_pairs(pairs))

    @cached_property
    def ram(self) -> intervals.Intervals:
        """What the dump declares to exist."""
        return self.pages(self.handover.source.declared)

    @cached_property
    def lost(self) -> intervals.Intervals:
        """What may be preserved in a part of the map that cannot be read."""
        tree = self.handover.tree
        return tree.lost if tree is not None else intervals.empty()

    @cached_property
    def stray(self) -> frozenset[int]:
        """Orders above what any writer uses, whose blocks do not even fit into RAM.

        They are stray bits: one rule reports them, the others leave them out.
        """
        return frozenset(
            order
            for order, run in self.handover.preserved.runs.items()
            if order > MAX_LIKELY_ORDER and len(intervals.subtract(run, self.ram)[0])
        )

    @cached_property
    def preserved(self) -> Preserved:
        """What is preserved, but for blocks of stray orders."""
        everything = self.handover.preserved
        runs = {order: run for order, run in everything.runs.items() if order not in self.stray}
        return Preserved(everything.page_shift, runs) if self.stray else everything

    @cached_property
    def overlaps(self) -> intervals.Intervals:
        """What several preserved blocks share."""
        below, shared = intervals.empty(), []
        if not self.preserved.overlapping:
            return below
        for run in sorted(self.preserved.runs.values(), key=lambda run: len(run[0])):
            shared.append(intervals.intersect(below, run))
            below = intervals.union([below, run])
        return intervals.union(shared)

    @cached_property
    def doubtful(self) -> intervals.Intervals:
        """All blocks that lie over others: their owners are unknown."""
        return intervals.merge(*self.preserved.whole_blocks(*self.overlaps))

    @cached_property
    def is_late(self) -> bool:
        """Whether the map's memory was recycled: mostly junk, empty, or another map's."""
        tree = self.handover.tree
        if tree is None or not self.handover.fdt.root.children:
            return False
        if self.bad_pointers or not tree.readable:
            return self.bad_pointers >= MANY_BAD and 2 * self.bad_pointers >= tree.pointers
        return self._lacks_fdt_and_blobs() or self._is_junk()

    @cached_property
    def bad_pointers(self) -> int:
        """Pointers of the map that lead to no node of it."""
        return sum(fault.count for fault in self.handover.faults if fault.kind in BAD_POINTERS)

    def _lacks_fdt_and_blobs(self) -> bool:
        """Whether neither the FDT's page nor any blob is preserved.

        ``kho_init`` preserves the one, each subsystem the other: no sound map lacks them all.
        """
        handover = self.handover
        paddrs = [handover.fdt.paddr, *(blob.paddr for blob in handover.blobs)]
        wanted = [paddr for paddr in paddrs if paddr is not None]
        return len(wanted) > 1 and not any(handover.preserved.covers(at, 1) for at in wanted)

    def _is_junk(self) -> bool:
        """Whether the bitmaps hold noise: most runs outside RAM, over each other, or unclaimed.

        Counted in runs: one stray bit of a high order covers terabytes.
        """
        preserved, ownership = self.handover.preserved, self.handover.ownership
        runs = sum(len(starts) for starts, _ in preserved.runs.values())
        outside = len(intervals.subtract(preserved.merged, self.ram)[0])
        wrong = outside + len(self.overlaps[0])
        if wrong >= MANY_RUNS and 4 * wrong >= runs:
            return True
        nodes = intervals.intersect(self.node_pfns, self.preserved.merged)
        if wrong >= MANY_BAD and intervals.total(nodes) >= MANY_BAD // 2:
            return True
        if not len(ownership.dangling[0]):
            return False
        unclaimed = len(ownership.unclaimed[0])
        return unclaimed >= MANY_RUNS and 4 * unclaimed >= 3 * runs
