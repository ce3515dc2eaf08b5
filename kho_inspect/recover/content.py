"""The content of items, part by part: what is there, what is a hole, and what is lacking."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, TypeAlias

from kho_inspect.errors import MissingMemoryError
from kho_inspect.memory import PhysicalMemory, Presence
from kho_inspect.model.contents import Item, Part, Piece
from kho_inspect.recover.evidence import Evidence
from kho_inspect.units import Extent, PhysAddr

CHUNK = 4 << 20
PAGE = 4096
"""Of all sizes of pages that a dump may be damaged by, the smallest."""
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
                for held, data in _read(self.memory, at, size):
                    why = Presence.NOT_STORED.value if data is None else ""
                    yield Part(held.start + delta, held.size, held.start, data, why)

    def digest(self, item: Item) -> str | None:
        """SHA-256 of an item; None where content is lacking, or holes are beyond the budget."""
        content = hashlib.sha256()
        holes = 0
        for part in self.parts(item):
            holes += part.size if part.why == HOLE else 0
            if part.data is None and (part.why != HOLE or holes > self.hole_budget):
                return None
            for piece in bytes_of(part):
                content.update(piece)
        self.hole_budget -= holes
        return content.hexdigest()


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


def bytes_of(part: Part) -> Iterator[bytes | memoryview]:
    """The bytes of a part; zeros for what has none, CHUNK at a time."""
    if part.data is not None:
        yield part.data
        return
    zeros = bytes(min(part.size, CHUNK))
    for at in range(0, part.size, CHUNK):
        yield zeros[: part.size - at]


class Account:
    """What came of the parts of one item: sources and gaps, in file order."""

    def __init__(self) -> None:
        self.sources: list[Piece] = []
        self.gaps: list[Gap] = []

    def add(self, part: Part) -> None:
        """Take note of the part behind those so far."""
        if part.data is None or part.paddr is None:
            _append_gap(self.gaps, part.offset, part.offset + part.size, part.why)
        else:
            _append_source(self.sources, Piece(part.offset, part.paddr, part.size))

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
        for piece in bytes_of(part):
            file.write(piece)


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


def _read(
    memory: PhysicalMemory, paddr: PhysAddr, size: int
) -> Iterator[tuple[Extent, memoryview | None]]:
    """Stored memory in one piece, or page by page where a damaged one (None) is in it."""
    data = _read_or_none(memory, paddr, size)
    if data is not None:
        yield Extent(paddr, paddr + size), data
        return
    end = paddr + size
    while paddr < end:
        stop = min(end, paddr + PAGE - paddr % PAGE)
        yield Extent(paddr, stop), _read_or_none(memory, paddr, stop - paddr)
        paddr = stop


def _read_or_none(memory: PhysicalMemory, paddr: PhysAddr, size: int) -> memoryview | None:
    try:
        return memory.read(paddr, size)
    except MissingMemoryError:
        return None


def _append_source(sources: list[Piece], piece: Piece) -> None:
    """Add a piece, joined to the one before where both memory and file go on."""
    if sources:
        last = sources[-1]
        ends = last.offset + last.size, last.paddr + last.size
        if ends == (piece.offset, piece.paddr):
            sources[-1] = Piece(last.offset, last.paddr, last.size + piece.size)
            return
    sources.append(piece)


def _append_gap(gaps: list[Gap], start: int, end: int, why: str) -> None:
    """Add a gap, joined to one of the same reason right before."""
    if gaps and gaps[-1]["end"] == start and gaps[-1]["why"] == why:
        gaps[-1]["end"] = end
    else:
        gaps.append({"start": start, "end": end, "why": why})
