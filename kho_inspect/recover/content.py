"""The content of items, part by part: what is there, what is a hole, and what is lacking."""

import bisect
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kho_inspect.errors import MissingMemoryError
from kho_inspect.memory import PhysicalMemory, Presence, read_parts
from kho_inspect.memory.base import PAGE
from kho_inspect.model.contents import Columns, Item, Part, Piece, Pieces
from kho_inspect.recover.evidence import Evidence
from kho_inspect.units import Extent, PhysAddr

CHUNK = 4 << 20
SLICE = 256 << 10
"""Bytes that are written and hashed in turn: what a processor's cache holds."""
GATHERED = 1 << 20
"""Bytes that are read at once from several runs of memory; to read a page maps those around it."""
SHORT = 64 << 10
"""Bytes of a run up to which that is worth it."""
MAX_HASHED_HOLES = 256 << 20
"""Bytes of holes that one run hashes: more of them prove nothing, but take their time."""

HOLE = "hole"
NOT_PRESERVED = "not preserved"
"""The gap whose bytes are in the file: a kernel may have overwritten them."""
UNKNOWN = "hole or not preserved"
"""Behind what is not preserved: the map alone has the size of a folio."""

Gap: TypeAlias = dict[str, Any]
"""``start`` and ``end`` in the file, and ``why``."""


class Reader:
    """Reads items; all of them together no more than twice what the dump holds."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        # Sound content is no larger than the dump: blobs and orphans once more, at the most.
        self.budget = 2 * sum(extent.size for extent in memory.stored) + CHUNK
        self.hole_budget = MAX_HASHED_HOLES

    def parts(self, item: Item, start: int = 0, end: int | None = None) -> Iterator[Part]:
        """The bytes ``start..end`` of an item (by default all), in order and without a break.

        No part has more than CHUNK bytes of data.
        """
        end = item.size if end is None else end
        reach = start
        for offset, paddr, size in laid_out(item.pieces):
            low, high = max(offset, start), min(offset + size, end)
            if low < high:
                if low > reach:
                    yield Part(reach, low - reach, None, None, HOLE)
                yield from self._parts(Piece(low, paddr + low - offset, high - low))
                reach = high
        if reach < end:
            yield Part(reach, end - reach, None, None, HOLE)

    def blocks(self, item: Item) -> Iterator[Part]:
        """All of an item as :meth:`parts` gives it, in as few parts as can be."""
        runs = joined(item.pieces)
        reach = 0
        for low, high in pairwise(self._batches(runs)):
            batch = Columns(*(column[low:high] for column in runs))
            start = int(batch.offset[0])
            if reach < start:
                yield Part(reach, start - reach, None, None, HOLE)
            part = self._gathered(batch) if high - low > 1 else None
            if part is not None:
                yield part
            else:
                for piece in batch.pieces():
                    yield from self._parts(piece)
            reach = int(batch.offset[-1] + batch.size[-1])
        if reach < item.size:
            yield Part(reach, item.size - reach, None, None, HOLE)

    @cached_property
    def _stored(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bounds of what the dump stores below 2**62."""
        extents = [extent for extent in self.memory.stored if extent.end < 1 << 62]
        bounds = np.array([(-1, -1), *extents], dtype=np.int64)
        return bounds[:, 0], bounds[:, 1]

    def _batches(self, runs: Columns) -> list[int]:
        """Where each batch of runs begins, and the end of the last.

        The runs of one are short and stored, and stand behind each other in the file.
        """
        offset, paddr, size = runs
        short = np.zeros(len(size), dtype=bool)
        if paddr.dtype != object:
            starts, ends = self._stored
            at = np.searchsorted(starts, paddr, side="right") - 1
            short = (paddr + size <= ends[at]) & (size <= SHORT)
            short &= (paddr | size) % PAGE == 0
        ends = offset + size
        goes_on = short[1:] & short[:-1] & (offset[1:] == ends[:-1])
        goes_on &= ends[1:] // GATHERED == ends[:-1] // GATHERED
        return [*np.flatnonzero(np.append(True, ~goes_on)[: len(size)]).tolist(), len(size)]

    def _gathered(self, runs: Columns) -> Part | None:
        """The bytes of several runs as one part; None where they must be read one by one."""
        _, paddr, size = runs
        pages, total = size // PAGE, int(size.sum())
        if total > self.budget:
            return None
        shift = paddr - PAGE * (np.cumsum(pages) - pages)
        paddrs = np.repeat(shift, pages) + PAGE * np.arange(total // PAGE)
        try:
            data = self.memory.gather(paddrs.astype(np.uint64), np.dtype(f"V{PAGE}"))
        except MissingMemoryError:
            return None
        self.budget -= total
        pieces = list(runs.pieces())
        view = data.view(np.uint8).data
        return Part(pieces[0].offset, total, pieces[0].paddr, view, runs=pieces)

    def _parts(self, piece: Piece) -> Iterator[Part]:
        delta, end = piece.offset - piece.paddr, piece.paddr + piece.size
        for extent, presence in _split(self.memory, piece.paddr, piece.size):
            start, stop = extent
            if presence is not Presence.STORED:
                yield Part(start + delta, extent.size, start, None, presence.value)
                continue
            for at in range(start, stop, CHUNK):
                size = min(CHUNK, stop - at)
                if size > self.budget:
                    yield Part(at + delta, end - at, at, None, "more than the dump holds")
                    return
                self.budget -= size
                for held, data in read_parts(self.memory, at, size):
                    why = Presence.NOT_STORED.value if data is None else ""
                    yield Part(held.start + delta, held.size, held.start, data, why)

    def digest(self, item: Item) -> str | None:
        """SHA-256 of an item; None where content is lacking, or holes are beyond the budget."""
        content = Digest(self.hole_budget)
        for part in self.blocks(item):
            if part.data is not None:
                content.update(part.data)
            elif part.why != HOLE or not content.skip(part.size):
                return None
        self.hole_budget -= content.holes
        return content.result()


class Digest:
    """SHA-256 of content in file order; none of what has more than ``budget`` bytes of holes."""

    def __init__(self, budget: int) -> None:
        self._sha256 = hashlib.sha256()
        self._budget = budget
        self.holes = 0

    def update(self, data: bytes | memoryview) -> None:
        """Go on with these bytes."""
        if self.holes <= self._budget:
            self._sha256.update(data)

    def skip(self, size: int) -> bool:
        """Go on with zeros; whether the budget allows it."""
        self.holes += size
        if self.holes > self._budget:
            return False
        for piece in _zeros(size):
            self._sha256.update(piece)
        return True

    def result(self) -> str | None:
        """In hex; None where there were too many holes."""
        return self._sha256.hexdigest() if self.holes <= self._budget else None


def joined(pieces: Collection[Piece]) -> Columns:
    """Pieces in columns, as :func:`laid_out`, and joined where both file and memory go on."""
    offset, paddr, size = columns = _columns(pieces)
    if (offset[1:] < (offset + size)[:-1]).any():
        offset, paddr, size = columns = _columns(list(laid_out(pieces)))
    if not len(size):
        return columns
    goes_on = (offset[1:] == (offset + size)[:-1]) & (paddr[1:] == (paddr + size)[:-1])
    first = np.flatnonzero(np.append(True, ~goes_on))
    return Columns(offset[first], paddr[first], np.add.reduceat(size, first))


def _columns(pieces: Collection[Piece]) -> Columns:
    """The same pieces but for empty ones."""
    if isinstance(pieces, Pieces):
        return pieces.columns()
    rows = np.array([piece for piece in pieces if piece.size], dtype=object).reshape(-1, 3)
    narrow = rows.max(initial=0) < 1 << 62
    return Columns(*(rows.astype(np.int64) if narrow else rows).T)


def digester(memory: PhysicalMemory) -> Callable[[Item], str | None]:
    """:meth:`Reader.digest` of a memory."""
    return Reader(memory).digest


def laid_out(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Pieces in file order, without overlaps: where several stand, the last of them counts."""
    reach = 0
    held: list[Piece] = []

    def settle(end: int | None) -> Iterator[Piece]:
        """What stands in the file from ``reach`` up to ``end`` (None: to the last byte)."""
        nonlocal reach
        while held and (end is None or reach < end):
            offset, paddr, size = held[-1]
            stop = offset + size if end is None else min(offset + size, end)
            if reach < stop:
                yield Piece(reach, paddr + reach - offset, stop - reach)
                reach = stop
            if reach >= offset + size:
                held.pop()

    for piece in pieces:
        yield from settle(piece.offset)
        held.append(piece)
        reach = piece.offset
    yield from settle(None)


def _zeros(size: int) -> Iterator[bytes]:
    """Zeros, CHUNK at a time."""
    zeros = bytes(min(size, CHUNK))
    for at in range(0, size, CHUNK):
        yield zeros[: size - at]


class Account:
    """What came of the parts of one item: sources and gaps, in file order."""

    def __init__(self) -> None:
        self.sources: list[Piece] = []
        self.gaps: list[Gap] = []

    def add(self, part: Part) -> None:
        """Take note of the part behind those so far."""
        if part.runs:
            self.sources += part.runs  # none of which goes on where another one ends
        elif part.data is None or part.paddr is None:
            _append_gap(self.gaps, part.offset, part.offset + part.size, part.why)
        elif self.sources and _goes_on(self.sources[-1], part):
            self.sources[-1] = self.sources[-1]._replace(size=self.sources[-1].size + part.size)
        else:
            self.sources.append(Piece(part.offset, part.paddr, part.size))

    def watched(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The same parts, each of which is added as it is taken."""
        for part in parts:
            self.add(part)
            yield part

    def marked(self, evidence: Evidence | None) -> list[Gap]:
        """The gaps, and those that are not preserved among the sources."""
        marks: list[Gap] = []
        for offset, _, size in evidence.not_preserved(self.sources) if evidence else ():
            _append_gap(marks, offset, offset + size, NOT_PRESERVED)
        ends = {mark["end"] for mark in marks}
        for gap in self.gaps:
            if gap["why"] == HOLE and gap["start"] in ends:
                gap["why"] = UNKNOWN
        return sorted([*self.gaps, *marks], key=lambda gap: gap["start"])


def write_stream(file: BinaryIO, parts: Iterable[Part]) -> None:
    """Write parts behind each other; what is lacking is zeros, so that offsets hold."""
    for part in parts:
        file.writelines(_zeros(part.size) if part.data is None else [part.data])


def is_lacking(gap: Gap, item: Item) -> bool:
    """Whether content is lacking, or should be preserved.

    A hole of the file is content, and a range is what the user named, preserved or not.
    """
    named = isinstance(item.name, Extent)
    return gap["why"] != HOLE and not (named and gap["why"] == NOT_PRESERVED)


def _split(memory: PhysicalMemory, paddr: PhysAddr, size: int) -> Iterator[tuple[Extent, Presence]]:
    """A range cut where the dump's answer changes.

    Damaged pages in what the dump stores show when they are read.
    """
    end = paddr + size
    while paddr < end:
        at, stop = _next_bound(memory.stored, paddr, end)
        presence = Presence.STORED
        if not at:
            presence = memory.presence(paddr)
            stop = min(stop, _next_bound(memory.declared, paddr, end)[1])
        yield Extent(paddr, stop), presence
        paddr = stop


def _next_bound(extents: Sequence[Extent], paddr: PhysAddr, end: PhysAddr) -> tuple[bool, PhysAddr]:
    """Whether ``paddr`` lies in one of the extents, and where that changes (``end`` at most)."""
    at = bisect.bisect_right(extents, paddr, key=lambda extent: extent.start)
    if at and paddr < extents[at - 1].end:
        return True, min(extents[at - 1].end, end)
    return False, min(extents[at].start, end) if at < len(extents) else end


def _goes_on(last: Piece, part: Part) -> bool:
    """Whether a part goes on where a piece ends, in memory and in the file."""
    return (last.offset + last.size, last.paddr + last.size) == (part.offset, part.paddr)


def _append_gap(gaps: list[Gap], start: int, end: int, why: str) -> None:
    """Add a gap, joined to one of the same reason right before."""
    if gaps and gaps[-1]["end"] == start and gaps[-1]["why"] == why:
        gaps[-1]["end"] = end
    else:
        gaps.append({"start": start, "end": end, "why": why})
