"""Writing recovered content to files, with a manifest.

Holes stay holes, and what the dump does not hold is a gap in the manifest, not written as zeros.
What the map does not preserve is such a gap too ("not preserved"), but its bytes are written: they
may be right still. What cannot be trusted at all has a doubt.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Any

from kho_inspect.errors import KhoError, MissingMemoryError
from kho_inspect.memory import PhysicalMemory, Presence
from kho_inspect.model.contents import Item, Piece
from kho_inspect.model.identity import Name
from kho_inspect.recover.atomic import atomic_file, require_absent
from kho_inspect.recover.evidence import Evidence
from kho_inspect.recover.selectors import file_name
from kho_inspect.render.names import item_name
from kho_inspect.units import Extent, PhysAddr

CHUNK = 4 << 20
PAGE = 4096
"""Of all sizes of pages that a dump may be damaged by, the smallest."""
MAX_HASHED_HOLES = 256 << 20
"""Bytes of holes that one run hashes: more of them prove nothing, but take their time."""

MANIFEST = "manifest.json"
HOLE = "hole"
NOT_PRESERVED = "not preserved"
"""The gap whose bytes are in the file: a kernel may have overwritten them."""
UNKNOWN = "hole or not preserved"
"""Behind what is not preserved: the map alone has the size of a folio."""


class Extractor:
    """Writes items under one directory, and a manifest of what came of each."""

    def __init__(
        self,
        memory: PhysicalMemory,
        directory: Path,
        *,
        evidence: Evidence | None = None,
        force: bool = False,
        progress: Callable[[int], None] = lambda size: None,
    ) -> None:
        """``progress`` gets the size of each piece written, in bytes.

        Without ``evidence`` nothing is marked as not preserved or doubtful.
        """
        self.memory = memory
        self.directory = directory
        self.evidence = evidence
        self.force = force
        self.progress = progress
        # Sound content is no larger than the dump: blobs and orphans once more, at the most.
        self.budget = 2 * sum(extent.size for extent in memory.stored) + CHUNK
        self.hole_budget = MAX_HASHED_HOLES

    def run(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Extract all items; returns the manifest's entries.

        Raises KhoError, before anything is written, when a file is in the way.
        """
        names = [file_name(item) for item in items]
        for name in [*names, Path(MANIFEST)]:
            require_absent(self.directory / name, self.force, "--force, or another directory")
        entries = [self._extract(item, name) for item, name in zip(items, names, strict=True)]
        document = {
            "schema_version": 1,
            "source": self.memory.path,
            "capture": self.evidence and self.evidence.document(),
            "items": entries,
        }
        with self._create(Path(MANIFEST)) as file:
            file.write(json.dumps(document, indent=2).encode() + b"\n")
        return entries

    def _extract(self, item: Item, name: Path) -> dict[str, Any]:
        gaps: list[dict[str, Any]] = []
        sources: list[Piece] = []
        with self._create(name) as file:
            size = _set_size(file, item)
            reach = 0
            for piece in item.pieces:
                if piece.offset > reach:
                    gaps.append(_gap(reach, piece.offset, HOLE))
                reach = max(reach, piece.offset + piece.size)
                kept = min(piece.size, max(size - piece.offset, 0))
                self._copy(file, Piece(piece.offset, piece.paddr, kept), gaps, sources)
                if kept < piece.size:
                    gaps.append(_gap(piece.offset + kept, reach, "no file can be that large"))
            if reach < item.size:
                gaps.append(_gap(reach, item.size, HOLE))
            digest = None
            holes = size - sum(piece.size for piece in sources)
            if size == item.size and holes <= self.hole_budget:
                self.hole_budget -= holes
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "selector": item_name(item.name, item.number),
            "file": str(name),
            "size": item.size,
            "file_size": size,
            "sha256": digest,
            "sources": [
                {"offset": piece.offset, "paddr": hex(piece.paddr), "size": piece.size}
                for piece in sources
            ],
            "gaps": self._with_unpreserved(gaps, sources),
            "doubts": self.evidence.doubts if self.evidence else [],
        }

    def _with_unpreserved(
        self, gaps: list[dict[str, Any]], sources: Sequence[Piece]
    ) -> list[dict[str, Any]]:
        """The gaps, and those that are not preserved among what was written, in file order."""
        marks: list[dict[str, Any]] = []
        for offset, _, size in self.evidence.not_preserved(sources) if self.evidence else ():
            _append_gap(marks, offset, offset + size, NOT_PRESERVED)
        ends = {mark["end"] for mark in marks}
        for gap in gaps:
            if gap["why"] == HOLE and gap["start"] in ends:
                gap["why"] = UNKNOWN
        return sorted([*gaps, *marks], key=lambda gap: gap["start"])

    def _copy(
        self, file: Any, piece: Piece, gaps: list[dict[str, Any]], sources: list[Piece]
    ) -> None:
        delta = piece.offset - piece.paddr
        for extent, presence in _split(self.memory, piece.paddr, piece.size):
            if presence is not Presence.STORED:
                gaps.append(_gap(extent.start + delta, extent.end + delta, presence.value))
                continue
            for start in range(extent.start, extent.end, CHUNK):
                size = min(CHUNK, extent.end - start)
                if size > self.budget:
                    end = piece.offset + piece.size
                    gaps.append(_gap(start + delta, end, "more than the dump holds"))
                    return
                for held, data in _read(self.memory, start, size):
                    if data is None:
                        why = Presence.NOT_STORED.value
                        _append_gap(gaps, held.start + delta, held.end + delta, why)
                        continue
                    file.seek(held.start + delta)
                    file.write(data)
                    _append_source(sources, Piece(held.start + delta, held.start, held.size))
                self.budget -= size
                self.progress(size)

    @contextmanager
    def _create(self, name: Path) -> Iterator[BufferedRandom]:
        path = self.directory / name
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for parent in [self.directory / part for part in list(name.parents)[-2::-1]]:
                if parent.is_symlink():
                    raise KhoError(
                        f"{parent} is a symbolic link", hint="extract to a new directory"
                    )
                parent.mkdir(exist_ok=True)
        except OSError as error:
            raise KhoError(f"cannot write {path}: {error.strerror}") from error
        # No other file stands there but the manifest: what comes from a dump is one level down.
        with atomic_file(path, beside=self.directory) as file:
            yield file


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


def _set_size(file: Any, item: Item) -> int:
    """Give the file its size, or else the size that its content needs, or else none."""
    needed = max((piece.offset + piece.size for piece in item.pieces), default=0)
    for size in (item.size, needed):
        try:
            file.truncate(size)
        except (OSError, OverflowError):
            continue
        return size
    return 0


def _append_source(sources: list[Piece], piece: Piece) -> None:
    """Add a piece, joined to the one before where both memory and file go on."""
    if sources:
        last = sources[-1]
        ends = last.offset + last.size, last.paddr + last.size
        if ends == (piece.offset, piece.paddr):
            sources[-1] = Piece(last.offset, last.paddr, last.size + piece.size)
            return
    sources.append(piece)


def _append_gap(gaps: list[dict[str, Any]], start: int, end: int, why: str) -> None:
    """Add a gap, joined to one of the same reason right before."""
    if gaps and gaps[-1]["end"] == start and gaps[-1]["why"] == why:
        gaps[-1]["end"] = end
    else:
        gaps.append(_gap(start, end, why))


def _gap(start: int, end: int, why: str) -> dict[str, Any]:
    return {"start": start, "end": end, "why": why}


def incomplete(items: Iterable[Item], entries: Iterable[dict[str, Any]]) -> int:
    """How many items lack content that should be there, or should be preserved.

    A hole of the file is content, and a range is what the user named, preserved or not.
    """
    return sum(
        any(gap["why"] not in _content(item.name) for gap in entry["gaps"])
        for item, entry in zip(items, entries, strict=True)
    )


def _content(name: Name) -> tuple[str, ...]:
    """The gaps in an item that are no lack of it."""
    return (HOLE, NOT_PRESERVED) if isinstance(name, Extent) else (HOLE,)
