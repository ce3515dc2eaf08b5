"""What the rules look at, first half: the map, the memory that it preserves, and scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.map import RadixTree
from kho_inspect.model.preserved import Preserved
from kho_inspect.ownership.account import account, grow_to_blocks
from kho_inspect.units import human_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.abi import Abi
    from kho_inspect.errors import FdtError
    from kho_inspect.geometry import PageGeometry
    from kho_inspect.intervals import Intervals
    from kho_inspect.model.claims import Ownership
    from kho_inspect.model.faults import Fault
    from kho_inspect.model.handover import Handover, Scratch
    from kho_inspect.model.map import TreeLevel
    from kho_inspect.rules.expectations import Expectation

NODE_FAULTS = (
    FaultKind.NODE_OUTSIDE,
    FaultKind.NODE_NOT_STORED,
    FaultKind.NODE_MISALIGNED,
    FaultKind.NODE_ALIASED,
    FaultKind.NODE_CYCLE,
)
JUNK_FAULTS = tuple(kind for kind in NODE_FAULTS if kind is not FaultKind.NODE_NOT_STORED)
MANY_BAD = 8
"""Bad tree pointers from which on the tree may be recycled memory rather than damaged."""

MAX_LIKELY_ORDER = 18
"""1 GiB pages on 4K, the largest that any writer preserves as one block."""
MAX_SCRATCH = 1024
"""Entries of a scratch table; kernels have one per NUMA node and two more."""
MANY_RUNS = 64
"""Runs of blocks that make no sense from which on the bitmaps may be recycled memory."""


@dataclass(frozen=True, slots=True)
class MapNodes:
    """Nodes of one kind in the preserved-memory map."""

    what: str
    paddr: NDArray[np.uint64]
    path: Callable[[int], str]
    """Path of the node with that index."""


@dataclass(frozen=True)
class MapCase:
    """One handover under examination, as far as its map, memory and scratch go."""

    handover: Handover | None
    """None when the DTB is a device tree that cannot be read; ``fdt_error`` says why."""
    fdt_error: FdtError | None = None
    target: Abi | None = None
    """The ABI of the kernel whose decision is emulated."""
    target_name: str = ""
    scratch: Scratch | None = None
    expectations: Sequence[Expectation] | None = None

    @property
    def there(self) -> Handover:
        """The handover, for rules that need one."""
        assert self.handover is not None
        return self.handover

    def faults(self, *kinds: FaultKind) -> Iterator[Fault]:
        """The faults of these kinds."""
        return (fault for fault in self.there.faults if fault.kind in kinds)

    @cached_property
    def is_late(self) -> bool:
        """Whether the tree's memory was recycled: mostly junk, empty, or another tree's."""
        tree = self.handover.tree if self.handover else None
        if tree is None or self.handover is None or not self.handover.fdt.root.children:
            return False
        bad = sum(fault.count for fault in self.handover.faults if fault.kind in JUNK_FAULTS)
        if bad >= MANY_BAD and 2 * bad >= tree.pointers:
            return True
        if not tree.readable or bad:
            return False
        return self._knows_nothing_of_the_fdt(self.handover) or self._is_junk(self.handover)

    def _knows_nothing_of_the_fdt(self, handover: Handover) -> bool:
        """Whether neither the FDT's page nor any blob is preserved.

        ``kho_init`` preserves the one, each subsystem the other: no sound tree lacks them all.
        """
        wanted = [blob.paddr for blob in handover.blobs if blob.paddr is not None]
        if handover.fdt.paddr is not None:
            wanted.append(handover.fdt.paddr)
        return len(wanted) > 1 and not any(handover.preserved.covers(at, 1) for at in wanted)

    def _is_junk(self, handover: Handover) -> bool:
        """Whether the bitmaps hold noise: most runs lie outside RAM, on each other, or nobody's.

        Counted in runs: one stray bit of a high order covers terabytes.
        """
        preserved, ownership = handover.preserved, handover.ownership
        runs = sum(len(starts) for starts, _ in preserved.runs.values())
        outside = len(intervals.subtract(preserved.merged, self.ram)[0])
        wrong = outside + len(self.overlaps[0])
        if wrong >= MANY_RUNS and 4 * wrong >= runs:
            return True
        if wrong >= MANY_BAD and self._nodes_preserved() >= MANY_BAD // 2:
            return True
        nobodys = len(ownership.orphans[0])
        return nobodys >= MANY_RUNS and 4 * nobodys >= 3 * runs and len(ownership.dangling[0]) > 0

    def _nodes_preserved(self) -> int:
        """Nodes of the map that it says are preserved: no writer's doing."""
        shift, merged = np.uint64(self.there.geometry.shift), self.preserved.merged
        return sum(
            int(intervals.contains(merged, (nodes.paddr >> shift).astype(np.int64)).sum())
            for nodes in self.map_nodes()
        )

    def map_nodes(self) -> Iterator[MapNodes]:
        """The memory that the map itself stands in, kind by kind."""
        tree = self.there.tree
        if isinstance(tree, RadixTree):
            for level in tree.levels:
                path = partial(_node_path, self.there.geometry, level)
                yield MapNodes(f"tree node (level {level.level})", level.paddr, path)
        elif tree is not None:
            chunks = np.array([chunk.paddr for chunk in tree.chunks], dtype=np.uint64)
            yield MapNodes("kho-v1 chunk", chunks, "chunk {}".format)
            for number, chunk in enumerate(tree.chunks):
                path = partial("chunk {} → bitmap {}".format, number)
                yield MapNodes("kho-v1 bitmap", chunk.bitmap, path)

    @cached_property
    def ram(self) -> Intervals:
        """Page frames that the dump declares to exist."""
        shift = self.there.geometry.shift
        return intervals.merge(
            *intervals.from_pairs(
                (extent.start >> shift, -(-extent.end >> shift))
                for extent in self.there.source.declared
            )
        )

    @cached_property
    def stray(self) -> frozenset[int]:
        """Orders above what any writer uses, whose blocks do not even fit into RAM.

        They are stray bits: one rule tells of them, for the others they are not there.
        """
        runs = self.there.preserved.runs
        return frozenset(
            order
            for order, run in runs.items()
            if order > MAX_LIKELY_ORDER and len(intervals.subtract(run, self.ram)[0])
        )

    @cached_property
    def preserved(self) -> Preserved:
        """What is preserved, but for blocks of stray orders."""
        all_of_it = self.there.preserved
        if not self.stray:
            return all_of_it
        runs = {order: run for order, run in all_of_it.runs.items() if order not in self.stray}
        return Preserved(all_of_it.page_shift, runs)

    @cached_property
    def ownership(self) -> Ownership:
        """Ownership of :attr:`preserved`."""
        if not self.stray:
            return self.there.ownership
        return account(self.preserved, self.there.claims)

    @cached_property
    def overlaps(self) -> Intervals:
        """Page frames that several preserved blocks share."""
        below, shared = intervals.empty(), []
        for run in sorted(self.preserved.runs.values(), key=lambda run: len(run[0])):
            shared.append(intervals.intersect(below, run))
            below = intervals.union([below, run])
        return intervals.union(shared)

    @cached_property
    def doubtful(self) -> Intervals:
        """Page frames of all blocks that lie over others: whose they are cannot be told."""
        return intervals.merge(*grow_to_blocks(self.preserved, *self.overlaps))

    @cached_property
    def lost(self) -> Intervals:
        """Page frames that may be preserved in a part of the tree that cannot be read."""
        tree = self.there.tree
        return tree.lost if tree is not None else intervals.empty()

    @cached_property
    def dangling(self) -> Intervals:
        """Claimed page frames that are surely not preserved."""
        return intervals.subtract(self.ownership.dangling, self.lost)

    @cached_property
    def scratch_trouble(self) -> tuple[str, str] | None:
        """What makes the scratch table none, and the path to it; None when it is one."""
        if self.scratch is None or self.handover is None:
            return None
        table, source = self.scratch.table, self.scratch.source
        if table is not None and (not table.size or table.size % 16):
            return f"scratch table is {table.size} bytes, should be a multiple of 16", source
        if table is not None and table.size > MAX_SCRATCH * 16:
            return f"scratch table is {human_size(table.size)}, should be a few times 16", source
        page, declared = self.there.geometry.page_size, self.there.source.declared
        if self.scratch.areas and not any(
            not (area.start % page or area.end % page)
            or any(ram.overlaps(area) for ram in declared)
            for area in self.scratch.areas
        ):
            return "no scratch area is aligned or in RAM: the table was overwritten", source
        return None


def _node_path(geometry: PageGeometry, level: TreeLevel, at: int) -> str:
    return geometry.node_path(int(level.key[at]), level.level)
