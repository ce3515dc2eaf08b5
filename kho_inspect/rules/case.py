"""What the rules look at, second half: structures and contents, with shared lookups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.layouts.memfd import FOLIO_DIRTY, FOLIO_UPTODATE
from kho_inspect.model.contents import Luo, LuoFile, LuoSession, Memfd
from kho_inspect.model.faults import FaultKind
from kho_inspect.ownership.claims import flatten
from kho_inspect.ownership.index import OwnerIndex
from kho_inspect.rules.base import Found, Need
from kho_inspect.rules.map_case import NODE_FAULTS, MapCase

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.abi import Abi
    from kho_inspect.intervals import I64
    from kho_inspect.model.claims import Claim
    from kho_inspect.model.contents import Content
    from kho_inspect.model.handover import Blob

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
        FaultKind.LIMIT,
    )
)


@dataclass(frozen=True)
class Case(MapCase):
    """One handover under examination."""

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
            Need.SOUND_SCRATCH: self.scratch_trouble is not None,
            Need.TARGET: self.target is None,
            Need.EXPECTATIONS: self.expectations is None,
            Need.FDT_IN_MEMORY: handover.fdt.paddr is None,
            Need.ALL_CLAIMS: self.hides_claims,
        }
        return {need for need, absent in gone.items() if absent}

    @cached_property
    def hides_claims(self) -> bool:
        """Whether some structure could not be followed, so that its memory looks unowned."""
        handover = self.there
        broken = any(fault.kind not in _TREE_AND_FDT for fault in handover.faults)
        early = any(not luo.serialized for _, luo in self.luos())
        return broken or early or handover.fdt.paddr is None or any(self.unknown_content())

    def unknown_content(self) -> Iterator[tuple[str, str]]:
        """``(what, path)`` of each blob and file that no decoder knows."""
        for blob in self.there.blobs:
            if blob.stored and blob.content is None:
                yield f"sub-node {blob.name!r}", f"/{blob.name}"
        for _, file in self.files():
            if file.memfd is None and file.compatible not in ("memfd-v1", "memfd-v2"):
                yield f"file handler {file.compatible!r}", file.path

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

    def odd_memfds(self) -> Iterator[tuple[LuoSession, LuoFile, Memfd]]:
        """The memfds to look into: not plainly sound, but with a folio table to be believed.

        What is wrong with one that is not to be believed says enough.
        """
        for session, file, memfd in self._not_plain:
            if file_owner(session, file) not in self.distrusted:
                yield session, file, memfd

    @cached_property
    def _not_plain(self) -> tuple[tuple[LuoSession, LuoFile, Memfd], ...]:
        found: list[tuple[LuoSession, LuoFile, Memfd]] = []
        memfds = self.memfds()
        while batch := list(islice(memfds, FILES)):
            plain = self._are_plain([memfd for _, _, memfd in batch])
            found += [one for one, sound in zip(batch, plain.tolist(), strict=True) if not sound]
        return tuple(found)

    def _are_plain(self, memfds: list[Memfd]) -> NDArray[np.bool_]:
        """Which memfds are as writers make them: one look at all entries clears most files.

        Folios behind each other from the start of the file to its end, all of them preserved
        heads, DIRTY and UPTODATE.
        """
        page = self.there.geometry.page_size
        tables = [memfd.table for memfd in memfds]
        counts = np.array([len(table) for table in tables])
        sound: NDArray[np.bool_] = (counts > 0) & (counts == [memfd.nr_folios for memfd in memfds])
        order = np.concatenate([table.order for table in tables])
        if not len(order):
            return sound
        pfn = np.concatenate([table.pfn for table in tables])
        flags = np.concatenate([table.flags for table in tables])
        good = flags == (FOLIO_DIRTY | FOLIO_UPTODATE)
        good &= (order >= 0) & (pfn > 0) & (pfn < self.ram_end)
        index = np.concatenate([table.index for table in tables])
        ends = index + (np.uint64(1) << np.maximum(order, 0).astype(np.uint64))
        first = (np.cumsum(counts) - counts)[counts > 0]
        before = np.append(np.uint64(0), ends[:-1])
        before[first] = 0
        good &= index == before
        last = np.cumsum(counts)[counts > 0] - 1
        pages = [min(-(-memfd.size // page), 1 << 63) for memfd in memfds if len(memfd.table)]
        reach = np.array(pages, dtype=np.uint64)
        good[last] &= (index[last] < reach) & (reach <= ends[last])
        sound[counts > 0] &= np.logical_and.reduceat(good, first)
        return sound

    @cached_property
    def broken(self) -> frozenset[str]:
        """The paths of all structures with a fault, and of all above them."""
        return paths_above(fault.path for fault in self.there.faults)

    @cached_property
    def distrusted(self) -> frozenset[str]:
        """Owners (memfds) whose folio table is damaged as a whole."""
        found = {
            file_owner(session, file)
            for session, file, memfd in self._not_plain
            if self.is_junk_table(memfd)
        }
        if self.broken:
            found.update(
                file_owner(session, file)
                for session, file, memfd in self.memfds()
                if memfd.path in self.broken
            )
        return frozenset(
            found | {claim.owner for claim in self._dangling_claims if claim.what == "folio table"}
        )

    def junk_memfds(self) -> Iterator[tuple[LuoSession, LuoFile, Memfd]]:
        """The memfds whose folio table holds something else."""
        for session, file, memfd in self._not_plain:
            if self.is_junk_table(memfd):
                yield session, file, memfd

    @cached_property
    def ram_end(self) -> int:
        """The first page frame above all memory of the machine."""
        declared = self.there.source.declared
        return max((extent.end for extent in declared), default=0) >> self.there.geometry.shift

    def is_junk_table(self, memfd: Memfd) -> bool:
        """Whether most entries of a folio table are ones that nobody would write."""
        table = memfd.table
        if memfd.nr_folios > len(table):
            return False
        wild = (table.flags > 3) | (table.index >= np.uint64(1 << 52)) | (table.pfn >= self.ram_end)
        empty = (table.pfn == 0) & (table.flags == 0)
        return len(table) > 1 and 2 * int((wild | empty).sum()) > len(table)

    @cached_property
    def index(self) -> OwnerIndex:
        """Finds claims by address."""
        return OwnerIndex(self.preserved, self.there.claims)

    def unpreserved(self, *whats: str, but: tuple[str, ...] = ()) -> Iterator[Found]:
        """One finding per claim, of these kinds, on memory that is not preserved.

        Without kinds, every claim whose kind is not in ``but``.
        """
        for claim in self._dangling_claims:
            if claim.what == "folio" and claim.owner in self.distrusted:
                continue
            if (claim.what in whats) if whats else (claim.what not in but):
                yield from self._unpreserved_pieces(claim)

    @cached_property
    def _dangling_claims(self) -> tuple[Claim, ...]:
        """The claims on any memory that is not preserved."""
        if not len(self.dangling[0]):
            return ()
        return tuple(
            claim
            for batch in _batches(self.there.claims)
            for claim in batch.having(self._dangling_ruler.within(batch.starts, batch.ends) > 0)
        )

    @cached_property
    def _dangling_ruler(self) -> intervals.Ruler:
        return intervals.Ruler(self.dangling)

    def _unpreserved_pieces(self, claim: Claim) -> Iterator[Found]:
        missing = self._dangling_ruler.within(claim.starts, claim.ends)
        pieces = missing.nonzero()[0]
        if not len(pieces):
            return
        first = int(pieces[0])
        start, (lows, highs) = claim.starts[first], self.dangling
        start = max(start, lows[np.searchsorted(highs, start, side="right")])
        paddr = int(start) << self.there.geometry.shift
        many = claim.pieces > 1
        name = f"{claim.what} {first}" if many else claim.what
        more = f" (nor are {len(pieces) - 1} more of {claim.pieces})" if len(pieces) > 1 else ""
        yield Found(
            f"{name} at {paddr:#x} of {claim.owner} is not preserved{more}",
            paddr,
            f"{claim.owner} / {name}",
        )

    def inside_blocks(self, *whats: str) -> Iterator[Found]:
        """One finding per claim, of these kinds, on pages that are preserved but head no block."""
        preserved = self.preserved
        wanted = (claim for claim in self.there.claims if claim.what in whats)
        for batch in _batches(wanted):
            for claim in batch.having(preserved.orders_at(batch.starts) < 0):
                covered = intervals.contains(preserved.merged, claim.starts)
                bad = (covered & (preserved.orders_at(claim.starts) < 0)).nonzero()[0]
                if not len(bad) or claim.owner in self.distrusted:
                    continue
                first = int(bad[0])
                paddr = int(claim.starts[first]) << self.there.geometry.shift
                more = f" (and {len(bad) - 1} more likewise)" if len(bad) > 1 else ""
                yield Found(
                    f"{claim.what} {first} at {paddr:#x} of {claim.owner} lies inside a preserved "
                    f"block, should be its head{more}",
                    paddr,
                    f"{claim.owner} / {claim.what} {first}",
                )


def is_sessions(claim: Claim) -> bool:
    """Whether a claim is a session's, or one of its files'."""
    return claim.owner.startswith("LUO / session ")


def file_owner(session: LuoSession, file: LuoFile) -> str:
    """The owner under which a file's memory is claimed."""
    return f"LUO / session {session.name} / file {file.token:#x}"


def paths_above(paths: Iterable[str]) -> frozenset[str]:
    """The given paths and those of all structures on the way to them."""
    return frozenset(
        " → ".join(steps[:length])
        for steps in (path.split(" → ") for path in paths)
        for length in range(1, len(steps) + 1)
    )


FILES = 4096
"""Files that are looked at together."""
BATCH = 1 << 20
"""Pieces of claims that are looked at together."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some claims, their pieces in two flat arrays."""

    claims: list[Claim]
    starts: I64
    ends: I64
    index: I64
    """Of each piece's claim."""

    def having(self, pieces: NDArray[np.bool_]) -> list[Claim]:
        """The claims with any of the pieces that are marked."""
        return [self.claims[at] for at in np.unique(self.index[pieces]).tolist()]


def _batches(claims: Iterable[Claim]) -> Iterator[_Batch]:
    """Claims in lots of about :data:`BATCH` pieces; those without any are left out."""
    held: list[Claim] = []
    size = 0
    for claim in claims:
        if claim.pieces:
            held.append(claim)
            size += claim.pieces
        if size >= BATCH:
            yield _batch(held)
            held, size = [], 0
    if held:
        yield _batch(held)


def _batch(claims: list[Claim]) -> _Batch:
    return _Batch(claims, *flatten(claims))
