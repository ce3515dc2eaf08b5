"""What rules need to know of preserved memfds: ``case.memfds``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect.decoders.memfd import Memfd
from kho_inspect.layouts.memfd import FOLIO_DIRTY, FOLIO_UPTODATE
from kho_inspect.model.identity import ClaimKind, Owner, Path, above
from kho_inspect.model.luo import LuoFile
from kho_inspect.rules.claims_view import ClaimsView

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PAGES = 1 << 52
"""Pages that a file of 2^64 bytes has at the most."""
BATCH = 4096
"""Files that are looked at together."""


class MemfdsView:
    """The memfds of one handover, and which of them are worth a closer look."""

    def __init__(self, claims: ClaimsView, files: list[LuoFile]) -> None:
        self._claims = claims
        self._files = files
        self.handover = claims.handover

    def __iter__(self) -> Iterator[tuple[LuoFile, Memfd]]:
        """Every memfd that could be read, and the file that it is."""
        for file in self._files:
            if isinstance(file.content, Memfd):
                yield file, file.content

    def odd(self) -> Iterator[tuple[LuoFile, Memfd]]:
        """The memfds to look into: not plainly sound, but with a folio table to rely on.

        Of any other, what is wrong with the table is finding enough.
        """
        for file, memfd in self._not_plain:
            if file.owner not in self.distrusted:
                yield file, memfd

    def junk(self) -> Iterator[tuple[LuoFile, Memfd]]:
        """The memfds whose folio table holds something else."""
        return ((file, memfd) for file, memfd in self._not_plain if self._is_junk(memfd))

    @cached_property
    def _not_plain(self) -> tuple[tuple[LuoFile, Memfd], ...]:
        found: list[tuple[LuoFile, Memfd]] = []
        memfds = iter(self)
        while batch := list(islice(memfds, BATCH)):
            plain = self._are_plain([memfd for _, memfd in batch])
            found += [pair for pair, sound in zip(batch, plain.tolist(), strict=True) if not sound]
        return tuple(found)

    def _are_plain(self, memfds: list[Memfd]) -> NDArray[np.bool_]:
        """Which memfds are as writers make them: one look at all entries clears most files.

        Folios behind each other from the start of the file to its end, all of them preserved
        heads, DIRTY and UPTODATE.
        """
        tables = [memfd.table for memfd in memfds]
        counts = np.array([len(table) for table in tables])
        sound: NDArray[np.bool_] = (counts > 0) & (counts == [memfd.nr_folios for memfd in memfds])
        order = np.concatenate([table.order for table in tables])
        if not len(order):
            return sound
        pfn = np.concatenate([table.pfn for table in tables])
        flags = np.concatenate([table.flags for table in tables])
        good = flags == (FOLIO_DIRTY | FOLIO_UPTODATE)
        good &= (order >= 0) & (pfn > 0) & (pfn < self._ram_end)
        by_pfn = np.argsort(pfn, kind="stable")
        good[by_pfn[1:][pfn[by_pfn[1:]] == pfn[by_pfn[:-1]]]] = False
        index = np.concatenate([table.index for table in tables])
        pages = np.uint64(1) << np.maximum(order, 0).astype(np.uint64)
        good &= index % pages == 0
        ends = index + pages
        first = (np.cumsum(counts) - counts)[counts > 0]
        before = np.append(np.uint64(0), ends[:-1])
        before[first] = 0
        good &= index == before
        last = np.cumsum(counts)[counts > 0] - 1
        sizes = np.array([self.pages(memfd) for memfd in memfds if len(memfd.table)], np.uint64)
        good[last] &= (index[last] < sizes) & (sizes <= ends[last])
        sound[counts > 0] &= np.logical_and.reduceat(good, first)
        return sound

    def pages(self, memfd: Memfd) -> int:
        """Pages of the file."""
        return -(-memfd.size // self.handover.geometry.page_size)

    @cached_property
    def distrusted(self) -> frozenset[Owner]:
        """Owners of the memfds whose folio table is damaged as a whole."""
        found = {file.owner for file, _ in self.junk()}
        if self.broken:
            found.update(file.owner for file, memfd in self if memfd.path in self.broken)
        return self._claims.unpreserved_owners(ClaimKind.FOLIO_TABLE) | found

    @cached_property
    def broken(self) -> frozenset[Path]:
        """The paths of all structures with a fault, and of all above them."""
        return above([fault.path for fault in self.handover.faults])

    @cached_property
    def _ram_end(self) -> int:
        """The first page frame above all memory of the machine."""
        declared = self.handover.source.declared
        return max((extent.end for extent in declared), default=0) >> self.handover.geometry.shift

    def _is_junk(self, memfd: Memfd) -> bool:
        """Whether most entries of a folio table are ones that no writer makes."""
        table = memfd.table
        if memfd.nr_folios > len(table):
            return False
        bad = (table.flags > 3) | (table.index >= MAX_PAGES) | (table.pfn >= self._ram_end)
        bad |= (table.pfn == 0) & (table.flags == 0)
        return len(table) > 1 and 2 * int(bad.sum()) > len(table)
