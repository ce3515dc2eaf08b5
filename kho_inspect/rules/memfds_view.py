"""What rules need to know of preserved memfds: ``case.memfds``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kho_inspect.decoders.memfd import Folios, Memfd, Memfds
from kho_inspect.layouts.memfd import FOLIO_DIRTY, FOLIO_UPTODATE
from kho_inspect.model.identity import ClaimKind, Owner, Path, above
from kho_inspect.model.luo import LuoFile, LuoFiles
from kho_inspect.rules.claims_view import ClaimsView

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.intervals import I64

MAX_PAGES = 1 << 52
"""Pages that a file of 2^64 bytes has at the most."""


class MemfdsView:
    """The memfds of one handover, and which of them are worth a closer look."""

    def __init__(self, claims: ClaimsView, files: Sequence[LuoFiles]) -> None:
        self._claims = claims
        self._files = files
        self.handover = claims.handover

    def __iter__(self) -> Iterator[tuple[LuoFile, Memfd]]:
        """Every memfd that could be read, and the file that it is."""
        return self._select(lambda memfds: memfds.read)

    def with_bits(self, field: str, bits: int) -> Iterator[tuple[LuoFile, Memfd]]:
        """The memfds with any of these bits set in a field of their descriptor."""

        def hit(memfds: Memfds) -> NDArray[np.bool_]:
            if field not in (memfds.records.dtype.names or ()):
                return np.zeros(len(memfds), dtype=bool)
            values: NDArray[Any] = memfds.records[field]
            found: NDArray[np.bool_] = values & (bits & np.iinfo(values.dtype).max) != 0
            return found

        return self._select(hit)

    def present(self) -> Iterator[bool]:
        """Of each handler's memfds, whether there are any that could be read."""
        return (bool(memfds.read.any()) for files in self._files for memfds in _memfds(files))

    def _select(
        self, wanted: Callable[[Memfds], NDArray[np.bool_]]
    ) -> Iterator[tuple[LuoFile, Memfd]]:
        """The memfds that could be read and are wanted, in the order of the files."""
        for files in self._files:
            numbers: list[int] = []
            for memfds in _memfds(files):
                of_files = files.read_by(memfds.compatible)
                numbers += of_files[wanted(memfds) & memfds.read].tolist()
            for number in sorted(numbers):
                file = files[number]
                assert isinstance(file.content, Memfd)
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
        return tuple(self._select(self._are_odd))

    def _are_odd(self, memfds: Memfds) -> NDArray[np.bool_]:
        plain = [
            self._are_plain(table, bounds, memfds.records[these])
            for these, table, bounds in memfds.parts()
        ]
        odd: NDArray[np.bool_] = ~np.concatenate([np.empty(0, dtype=bool), *plain])
        return odd

    def _are_plain(self, table: Folios, bounds: I64, records: NDArray[Any]) -> NDArray[np.bool_]:
        """Which memfds of some are as writers make them: one look at all entries clears most.

        Folios behind each other from the start of the file to its end, all of them preserved
        heads, DIRTY and UPTODATE.
        """
        counts = np.diff(bounds)
        sound: NDArray[np.bool_] = (counts > 0) & (counts.astype(np.uint64) == records["nr_folios"])
        pfn, order, index = table.pfn, table.order, table.index
        if not len(order):
            return sound
        good = table.flags == (FOLIO_DIRTY | FOLIO_UPTODATE)
        good &= (order >= 0) & (pfn > 0) & (pfn < self._ram_end)
        # Unlike those of uint64, shifts of int64 are quick.
        pages = (np.int64(1) << np.maximum(order, 0)).view(np.uint64)
        good &= index & (pages - np.uint64(1)) == 0
        ends = index + pages
        real = counts > 0
        first, last = (bounds[:-1] - bounds[0])[real], (bounds[1:] - bounds[0] - 1)[real]
        rising = pfn[1:] > pfn[:-1]
        rising[last[:-1]] = True
        if not rising.all() and (np.diff(np.sort(pfn)) == 0).any():
            by_pfn = np.argsort(pfn, kind="stable")
            good[by_pfn[1:][pfn[by_pfn[1:]] == pfn[by_pfn[:-1]]]] = False
        before = np.append(np.uint64(0), ends[:-1])
        before[first] = 0
        good &= index == before
        page = np.uint64(self.handover.geometry.page_size)
        sizes = (records["size"] // page + (records["size"] % page > 0))[real]
        good[last] &= (index[last] < sizes) & (sizes <= ends[last])
        sound[real] &= np.logical_and.reduceat(good, first)
        return sound

    def pages(self, memfd: Memfd) -> int:
        """Pages of the file."""
        return -(-memfd.size // self.handover.geometry.page_size)

    @cached_property
    def distrusted(self) -> frozenset[Owner]:
        """Owners of the memfds whose folio table is damaged as a whole."""
        found = {file.owner for file, _ in self.junk()}
        if self.broken:
            broken = self._select(
                lambda memfds: np.array([one.path in self.broken for one in memfds.entries])
            )
            found.update(file.owner for file, _ in broken)
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


def _memfds(files: LuoFiles) -> Iterator[Memfds]:
    """What the decoders of memfds read."""
    return (one for one in files.contents.values() if isinstance(one, Memfds))
