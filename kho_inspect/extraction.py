"""Recovering content: what can be taken out of a handover, and writing it to files.

Names from the dump become safe file names, holes stay holes, and whatever the dump does not
hold is listed in the manifest instead of being made up as zeros.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from kho_inspect.contents import KhoTest, Luo, Memblock
from kho_inspect.errors import KhoError, MissingMemoryError
from kho_inspect.units import Extent, PhysAddr, human_size, parse_size
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.vmalloc import parse_vmalloc, walk_vmalloc

if TYPE_CHECKING:
    from kho_inspect.contents import Memfd, VmallocArea
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.model import Handover

CHUNK = 4 << 20
MAX_HASHED_HOLES = 4 << 30
"""A file whose holes are larger than that gets no digest: hashing zeros proves nothing."""
MAX_NAME = 200
"""Bytes of one component of a file name; the rest of a longer one is hashed."""

MANIFEST = "manifest.json"


class SelectorError(KhoError):
    """A selector that names nothing in this handover."""


@dataclass(frozen=True, slots=True)
class Piece:
    """``size`` bytes at ``paddr`` that stand at ``offset`` in the file."""

    offset: int
    paddr: PhysAddr
    size: int


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be extracted."""

    selector: str
    size: int
    """Bytes of the file, holes included."""
    pieces: Sequence[Piece]
    """In file order, clipped to ``size``."""


def all_items(handover: Handover) -> Iterator[Item]:
    """Everything with a name: memfds, blobs, regions, test folios, and orphans as ranges."""
    page = handover.geometry.page_size
    taken: dict[str, int] = {}
    for item in _named_items(handover, page):
        taken[item.selector] = number = taken.get(item.selector, 0) + 1
        # Two files of one session with the same token: a defect, but both have content.
        yield item if number == 1 else Item(f"{item.selector}#{number}", item.size, item.pieces)


def _named_items(handover: Handover, page: int) -> Iterator[Item]:
    for blob in handover.blobs:
        if blob.paddr is not None and blob.size is not None:
            yield _plain_item(f"blob/{blob.name}", blob.paddr, blob.size)
        if isinstance(blob.content, Luo):
            for session in blob.content.sessions:
                for file in session.files:
                    if file.memfd is not None:
                        yield memfd_item(f"LUO/{session.name}/{file.token:#x}", file.memfd, page)
        elif isinstance(blob.content, Memblock):
            for region in blob.content.regions:
                if region.start is not None and region.size is not None:
                    yield _plain_item(f"reserve_mem/{region.name}", region.start, region.size)
        elif isinstance(blob.content, KhoTest):
            orders = blob.content.order.tolist()
            for number, paddr in enumerate(blob.content.phys.tolist()):
                yield _plain_item(f"kho_test/{number}", paddr, page << orders[number])
    ownership = handover.ownership
    for extent in ownership.extents(ownership.orphans):
        yield _range_item(extent)


def select(handover: Handover, memory: PhysicalMemory, selectors: Sequence[str]) -> list[Item]:
    """The items that the selectors name; all of them when there is no selector.

    A selector is an item's own, any leading part of it up to a slash, ``vmalloc@PADDR`` (the
    first chunk of an area, or a ``struct kho_vmalloc``) or ``range@START-END``.
    Raises SelectorError for one that names nothing.
    """
    items = list(all_items(handover))
    if not selectors:
        return items
    chosen: dict[str, Item] = {}
    for selector in selectors:
        if selector.startswith("range@"):
            found = [_range_item(_parse_range(selector))]
        elif selector.startswith("vmalloc@"):
            found = [_vmalloc_item(handover, memory, selector)]
        else:
            wanted = {selector, _with_hex_token(selector)}
            found = [
                item
                for item in items
                if any(
                    item.selector == one or item.selector.startswith(f"{one}/") for one in wanted
                )
            ]
        if not found:
            known = ", ".join(item.selector for item in items[:6])
            raise SelectorError(
                f"no {selector!r} in this handover",
                hint=f"there are {known}{', …' if len(items) > 6 else ''}",
            )
        chosen.update((item.selector, item) for item in found)
    return list(chosen.values())


def _is_named(selector: str, wanted: set[str]) -> bool:
    return selector in wanted or any(selector.startswith(f"{one}/") for one in wanted)


def _with_hex_token(selector: str) -> str:
    """``LUO/vm/4097`` → ``LUO/vm/0x1001``."""
    head, slash, token = selector.rpartition("/")
    return f"{head}{slash}{int(token):#x}" if token.isdecimal() else selector


def memfd_item(selector: str, memfd: Memfd, page: int) -> Item:
    """A memfd's folios in file order, clipped to its size."""
    table = memfd.table
    held = np.flatnonzero(table.pfn)
    last_page = -(-memfd.size // page)
    held = held[table.index[held] < np.uint64(min(last_page, 1 << 63))]
    held = held[np.argsort(table.index[held], kind="stable")]
    pieces = []
    for pfn, index, order in zip(
        table.pfn[held].tolist(),
        table.index[held].tolist(),
        np.maximum(table.order[held], 0).tolist(),
        strict=True,
    ):
        offset = index * page
        pieces.append(Piece(offset, pfn * page, min(page << order, memfd.size - offset)))
    return Item(selector, memfd.size, pieces)


def _plain_item(selector: str, paddr: PhysAddr, size: int) -> Item:
    return Item(selector, size, [Piece(0, paddr, size)])


def _range_item(extent: Extent) -> Item:
    return _plain_item(f"range@{extent}", extent.start, extent.size)


def _parse_range(selector: str) -> Extent:
    try:
        start, end = (parse_size(part) for part in selector.removeprefix("range@").split("-"))
    except ValueError:
        start = end = 0
    if start >= end:
        raise SelectorError(f"{selector!r} is not range@START-END", hint="range@0x1000-0x3000")
    return Extent(start, end)


def _vmalloc_item(handover: Handover, memory: PhysicalMemory, selector: str) -> Item:
    try:
        paddr = parse_size(selector.removeprefix("vmalloc@"))
    except ValueError as error:
        raise SelectorError(str(error)) from error
    area = next((area for area in _areas(handover) if area.first == paddr), None)
    if area is None:
        try:
            descriptor = parse_vmalloc(memory.read(paddr, 16))
        except MissingMemoryError as error:
            raise SelectorError(f"{selector}: {error.message}") from error
        faults = FaultLog()
        area = walk_vmalloc(memory, handover.geometry, descriptor, selector, faults)
        if faults.result():
            raise SelectorError(
                f"{paddr:#x} is neither an area's first chunk nor a sound kho_vmalloc: "
                f"{faults.result()[0].message}"
            )
    size = handover.geometry.page_size << area.order
    pieces = [Piece(at * size, phys, size) for at, phys in enumerate(area.phys.tolist())]
    return Item(selector, len(pieces) * size, pieces)


def _areas(handover: Handover) -> Iterator[VmallocArea]:
    for blob in handover.blobs:
        if isinstance(blob.content, Luo):
            yield from (file.memfd.folios for file in blob.content.files if file.memfd)
        elif isinstance(blob.content, KhoTest) and blob.content.folios_info is not None:
            yield blob.content.folios_info


def file_name(selector: str) -> Path:
    """A relative path for a selector: no component can leave the directory or be mistaken.

    Anything but letters, digits and ``_.-~`` becomes ``%XX``; the manifest has the selector.
    ``LUO/SESSION/TOKEN`` keeps its three parts even where the session's name has slashes.
    """
    head, slash, rest = selector.partition("/")
    parts = [head, *([rest] if slash else [])]
    if head == "LUO" and "/" in rest:
        parts = [head, *rest.rsplit("/", 1)]
    return Path(*(_safe_component(part) for part in parts))


def _safe_component(name: str) -> str:
    safe = quote(name, safe="@")
    if not safe.strip("."):
        # "", "." and ".." name no file, or the wrong one.
        safe = safe.replace(".", "%2E") or "%"
    if len(safe) > MAX_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        safe = f"{safe[: MAX_NAME - 20]}%~{digest}"
    return safe


class Extractor:
    """Writes items under one directory, and a manifest of what came of each."""

    def __init__(
        self,
        memory: PhysicalMemory,
        directory: Path,
        *,
        force: bool = False,
        progress: Callable[[int], None] = lambda size: None,
    ) -> None:
        """``progress`` is told the size of each piece written, in bytes."""
        self.memory = memory
        self.directory = directory
        self.force = force
        self.progress = progress
        # Honest content is no larger than the dump: blobs and orphans once more, at the most.
        self.budget = 2 * sum(extent.size for extent in memory.stored) + CHUNK

    def run(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Extract all items; returns the manifest's entries.

        Raises KhoError, before anything is written, when a file is in the way.
        """
        names = {item.selector: file_name(item.selector) for item in items}
        if not self.force:
            for name in [*names.values(), Path(MANIFEST)]:
                if os.path.lexists(self.directory / name):
                    raise KhoError(
                        f"{self.directory / name} exists", hint="--force, or another directory"
                    )
        entries = [self._extract(item, names[item.selector]) for item in items]
        document = {"schema_version": 1, "source": self.memory.path, "items": entries}
        with self._create(Path(MANIFEST)) as file:
            file.write(json.dumps(document, indent=2).encode() + b"\n")
        return entries

    def _extract(self, item: Item, name: Path) -> dict[str, Any]:
        gaps: list[dict[str, Any]] = []
        sources: list[Piece] = []
        with self._create(name) as file:
            size, limited = _set_size(file, item)
            reach = 0
            for piece in item.pieces:
                if piece.offset > reach:
                    gaps.append(_gap(reach, piece.offset, "hole"))
                reach = max(reach, piece.offset + piece.size)
                self._copy(file, piece, gaps, sources)
            if reach < item.size:
                gaps.append(_gap(reach, item.size, "hole"))
            digest = None
            if not limited and size - sum(piece.size for piece in sources) <= MAX_HASHED_HOLES:
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "selector": item.selector,
            "file": str(name),
            "size": item.size,
            "file_size": size,
            "sha256": digest,
            "sources": [
                {"offset": piece.offset, "paddr": hex(piece.paddr), "size": piece.size}
                for piece in sources
            ],
            "gaps": gaps,
        }

    def _copy(
        self, file: Any, piece: Piece, gaps: list[dict[str, Any]], sources: list[Piece]
    ) -> None:
        at = 0
        while at < piece.size:
            size = min(CHUNK, piece.size - at)
            if size > self.budget:
                gaps.append(
                    _gap(piece.offset + at, piece.offset + piece.size, "more than the dump holds")
                )
                return
            try:
                data = self.memory.read(piece.paddr + at, size)
            except MissingMemoryError as error:
                presence = self.memory.presence(piece.paddr + at, size)
                end = piece.offset + piece.size
                if error.size and size < piece.size - at and error.size < size:
                    end = piece.offset + at + size
                gaps.append(_gap(piece.offset + at, end, presence.value))
                return
            file.seek(piece.offset + at)
            file.write(data)
            self.budget -= size
            _append_source(sources, Piece(piece.offset + at, piece.paddr + at, size))
            self.progress(size)
            at += size

    def _create(self, name: Path) -> _NewFile:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in [path.parent, *path.parent.parents][: len(name.parts) - 1]:
            if parent.is_symlink():
                raise KhoError(f"{parent} is a symbolic link", hint="extract to a new directory")
        return _NewFile(path)


class _NewFile:
    """A file that gets its name only once it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name[:MAX_NAME]}.partial")

    def __enter__(self) -> Any:
        self.partial.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self.file = os.fdopen(os.open(self.partial, flags, 0o644), "w+b")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        if kind is None:
            self.partial.replace(self.path)
        else:
            self.partial.unlink(missing_ok=True)


def _set_size(file: Any, item: Item) -> tuple[int, bool]:
    """Give the file its size; where no file can be that large, as much as content needs."""
    try:
        file.truncate(item.size)
    except (OSError, OverflowError):
        size = max((piece.offset + piece.size for piece in item.pieces), default=0)
        try:
            file.truncate(size)
        except (OSError, OverflowError):
            raise KhoError(
                f"{item.selector}: no file can hold {human_size(size)}",
                hint="select other items",
            ) from None
        return size, True
    return item.size, False


def _append_source(sources: list[Piece], piece: Piece) -> None:
    """Add a piece, joined to the one before where both memory and file go on."""
    if sources:
        last = sources[-1]
        ends = last.offset + last.size, last.paddr + last.size
        if ends == (piece.offset, piece.paddr):
            sources[-1] = Piece(last.offset, last.paddr, last.size + piece.size)
            return
    sources.append(piece)


def _gap(start: int, end: int, why: str) -> dict[str, Any]:
    return {"start": start, "end": end, "why": why}


def incomplete(entries: Iterable[dict[str, Any]]) -> int:
    """How many items lack content that should be there (a hole of the file is content)."""
    return sum(any(gap["why"] != "hole" for gap in entry["gaps"]) for entry in entries)
