"""What the rules look at: a handover and what else is known, with shared lookups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.contents import Luo, LuoFile, LuoSession, Memfd
from kho_inspect.model import FaultKind
from kho_inspect.ownership import OwnerIndex
from kho_inspect.preserved import RadixTree
from kho_inspect.rules.base import Found, Need

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.abi import Abi
    from kho_inspect.contents import Claim, Content
    from kho_inspect.errors import FdtError
    from kho_inspect.expectations import Expectation
    from kho_inspect.geometry import PageGeometry
    from kho_inspect.intervals import Intervals
    from kho_inspect.model import Blob, Fault, Handover, Scratch
    from kho_inspect.preserved import TreeLevel

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

MANY_RUNS = 64
"""Runs of blocks that make no sense from which on the bitmaps may be recycled memory."""

_TREE_AND_FDT = frozenset(
    (
        *NODE_FAULTS,
        FaultKind.FDT_MAP_PROPERTY,
        FaultKind.CHUNK_COUNT,
        FaultKind.CHUNK_ORDER,
        FaultKind.CHUNK_START,
        FaultKind.KEY_NO_ORDER,
        FaultKind.KEY_ORDER_TOO_HIGH,
        FaultKind.ORDER0_LOST,
        FaultKind.DUMP_INCOMPLETE,
    )
)


@dataclass(frozen=True, slots=True)
class MapNodes:
    """Nodes of one kind in the preserved-memory map."""

    what: str
    paddr: NDArray[np.uint64]
    path: Callable[[int], str]
    """Path of the node with that index."""


@dataclass(frozen=True)
class Case:
    """One handover under examination."""

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

    @property
    def consumer(self) -> Abi:
        """The ABI of the kernel that would read the blobs.

        A target that refuses the root FDT never comes to them.
        """
        own = self.there.fdt.abi
        takes = self.target is not None and self.target.compatible == self.there.fdt.compatible
        return self.target if takes and self.target is not None else own

    @property
    def missing(self) -> set[Need]:
        """What this case cannot provide."""
        if self.handover is None:
            return set(Need)
        handover = self.handover
        gone = {
            Need.ABI: not handover.fdt.known,
            Need.TREE: handover.tree is None or not handover.tree.readable,
            Need.TRUSTED: self.is_late,
            Need.SCRATCH: self.scratch is None,
            Need.TARGET: self.target is None,
            Need.EXPECTATIONS: self.expectations is None,
            Need.FDT_IN_MEMORY: handover.fdt.paddr is None,
            Need.ALL_CLAIMS: self.hides_claims,
        }
        return {need for need, absent in gone.items() if absent}

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
        nobodys = len(ownership.orphans[0])
        return nobodys >= MANY_RUNS and 4 * nobodys >= 3 * runs and len(ownership.dangling[0]) > 0

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
    def overlaps(self) -> Intervals:
        """Page frames that several preserved blocks share."""
        runs = self.there.preserved.runs.values()
        none = np.empty(0, dtype=np.int64)
        return intervals.overlaps(
            np.concatenate([none, *(low for low, _ in runs)]),
            np.concatenate([none, *(high for _, high in runs)]),
        )

    def _knows_nothing_of_the_fdt(self, handover: Handover) -> bool:
        """Whether neither the FDT's page nor any blob is preserved.

        ``kho_init`` preserves the one, each subsystem the other: no sound tree lacks them all.
        """
        wanted = [blob.paddr for blob in handover.blobs if blob.paddr is not None]
        if handover.fdt.paddr is not None:
            wanted.append(handover.fdt.paddr)
        return len(wanted) > 1 and not any(handover.preserved.covers(at, 1) for at in wanted)

    @cached_property
    def hides_claims(self) -> bool:
        """Whether some structure could not be followed, so that its memory looks unowned."""
        handover = self.there
        broken = any(fault.kind not in _TREE_AND_FDT for fault in handover.faults)
        return broken or handover.fdt.paddr is None or any(self.unknown_content())

    def unknown_content(self) -> Iterator[tuple[str, str]]:
        """``(what, path)`` of each blob and file that no decoder knows."""
        for blob in self.there.blobs:
            if blob.stored and blob.content is None:
                yield f"sub-node {blob.name!r}", f"/{blob.name}"
        for _, file in self.files():
            if file.memfd is None and file.compatible not in ("memfd-v1", "memfd-v2"):
                yield f"file handler {file.compatible!r}", file.path

    def faults(self, *kinds: FaultKind) -> Iterator[Fault]:
        """The faults of these kinds."""
        return (fault for fault in self.there.faults if fault.kind in kinds)

    def found(self, *kinds: FaultKind, path: str = "") -> Iterator[Found]:
        """The faults of these kinds as findings; with ``path``, only those under it."""
        for fault in self.faults(*kinds):
            if fault.path.startswith(path):
                yield Found(fault.message, fault.paddr, fault.path)

    def contents(self) -> Iterator[tuple[Blob, Content]]:
        """Every decoded blob."""
        for blob in self.there.blobs:
            if blob.content is not None:
                yield blob, blob.content

    def luos(self) -> Iterator[tuple[Blob, Luo]]:
        """The LUO blob (or blobs)."""
        for blob, content in self.contents():
            if isinstance(content, Luo):
                yield blob, content

    def sessions(self) -> Iterator[LuoSession]:
        """All sessions."""
        for _, luo in self.luos():
            yield from luo.sessions

    def files(self) -> Iterator[tuple[LuoSession, LuoFile]]:
        """All files with their sessions."""
        for session in self.sessions():
            for file in session.files:
                yield session, file

    def memfds(self) -> Iterator[tuple[LuoSession, LuoFile, Memfd]]:
        """All memfds that could be read."""
        for session, file in self.files():
            if file.memfd is not None:
                yield session, file, file.memfd

    @cached_property
    def index(self) -> OwnerIndex:
        """Finds claims by address."""
        return OwnerIndex(self.there.preserved, self.there.claims)

    @cached_property
    def lost(self) -> Intervals:
        """Page frames that may be preserved in a part of the tree that cannot be read."""
        tree = self.there.tree
        return tree.lost if tree is not None else intervals.empty()

    @cached_property
    def dangling(self) -> Intervals:
        """Claimed page frames that are surely not preserved."""
        return intervals.subtract(self.there.ownership.dangling, self.lost)

    def unpreserved(self, *whats: str, but: tuple[str, ...] = ()) -> Iterator[Found]:
        """One finding per claim, of these kinds, on memory that is not preserved.

        Without kinds, every claim whose kind is not in ``but``.
        """
        if not len(self.dangling[0]):
            return
        for claim in self.there.claims:
            if (claim.what in whats) if whats else (claim.what not in but):
                yield from self._unpreserved_pieces(claim)

    def _unpreserved_pieces(self, claim: Claim) -> Iterator[Found]:
        missing = intervals.length_below(self.dangling, claim.ends) - intervals.length_below(
            self.dangling, claim.starts
        )
        pieces = missing.nonzero()[0]
        if not len(pieces):
            return
        first = int(pieces[0])
        (start, *_), _ = intervals.intersect(
            self.dangling, (claim.starts[first : first + 1], claim.ends[first : first + 1])
        )
        paddr = int(start) << self.there.geometry.shift
        many = len(claim.starts) > 1
        name = f"{claim.what} {first}" if many else claim.what
        more = (
            f" (nor are {len(pieces) - 1} more of {len(claim.starts)})" if len(pieces) > 1 else ""
        )
        yield Found(
            f"{name} at {paddr:#x} of {claim.owner} is not preserved{more}",
            paddr,
            f"{claim.owner} / {name}",
        )

    def inside_blocks(self, *whats: str) -> Iterator[Found]:
        """One finding per claim, of these kinds, on pages that are preserved but head no block."""
        preserved = self.there.preserved
        for claim in self.there.claims:
            if claim.what not in whats:
                continue
            covered = intervals.contains(preserved.merged, claim.starts)
            bad = (covered & (preserved.orders_at(claim.starts) < 0)).nonzero()[0]
            if len(bad):
                first = int(bad[0])
                paddr = int(claim.starts[first]) << self.there.geometry.shift
                more = f" (and {len(bad) - 1} more likewise)" if len(bad) > 1 else ""
                yield Found(
                    f"{claim.what} {first} at {paddr:#x} of {claim.owner} lies inside a preserved "
                    f"block, should be its head{more}",
                    paddr,
                    f"{claim.owner} / {claim.what} {first}",
                )


def _node_path(geometry: PageGeometry, level: TreeLevel, at: int) -> str:
    return geometry.node_path(int(level.key[at]), level.level)
