"""Writing recovered content to files, with a manifest.

Holes stay holes, and what the dump does not hold is a gap in the manifest, not written as zeros.
What the map does not preserve is such a gap too ("not preserved"), but its bytes are written: they
may be right still. What cannot be trusted at all has a doubt.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from io import BufferedRandom
from itertools import chain
from pathlib import Path
from typing import Any

from kho_inspect.errors import KhoError
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import Item
from kho_inspect.model.fd_names import FdNames
from kho_inspect.recover.atomic import (
    FILE_MODE,
    atomic_file_in,
    directory_mode,
    open_directory_in,
    require_absent,
    require_replaceable,
)
from kho_inspect.recover.content import SLICE, Account, Digest, Reader, is_lacking
from kho_inspect.recover.evidence import Evidence
from kho_inspect.recover.selectors import file_name
from kho_inspect.render.carved import carved_members
from kho_inspect.render.json import Encoded, extracted, stream
from kho_inspect.render.names import given_text, item_name

MANIFEST = "manifest.json"
MAX_MANIFEST = 256 << 20
"""Bytes read of the manifest of an earlier run."""


@dataclass
class Extractor:
    """Writes items under one directory, and a manifest of what came of each."""

    memory: PhysicalMemory
    directory: Path
    _: KW_ONLY
    evidence: Evidence | None = None
    """Without it nothing is marked as not preserved or doubtful."""
    names: FdNames | None = None
    force: bool = False
    mode: int = FILE_MODE
    """Of the files."""
    inputs: Sequence[str] = ()
    """Never replaced, ``force`` or not."""
    progress: Callable[[int], None] = lambda size: None
    """Gets the size of each piece written, in bytes."""

    def __post_init__(self) -> None:
        self.reader = Reader(self.memory)

    def run(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Extract all items; returns the manifest's entries.

        Raises KhoError, before anything is written, when a file is in the way.
        """
        kept = self._earlier()
        names = _distinct(items, kept)
        for name in names:
            require_absent(self.directory / name, self.force, "--force, or another directory")
        for name in [*names, Path(MANIFEST)]:
            require_replaceable(self.directory / name, self.inputs)
        entries: list[dict[str, Any]] = []
        try:
            for item, name in zip(items, names, strict=True):
                entries.append(self._extract(item, name))
        except BaseException:
            # What stands there already is recorded, if a disk that is full lets it.
            with suppress(KhoError):
                self._write_manifest(kept, entries)
            raise
        self._write_manifest(kept, entries)
        return entries

    def _earlier(self) -> list[dict[str, Any]]:
        """The entries of an earlier run into this directory. Raises KhoError for another dump's."""
        path = self.directory / MANIFEST
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
                document = json.loads(file.read(MAX_MANIFEST))
            source = document["source"]
            entries = [one for one in document["items"] if isinstance(one["selector"], str)]
            sound = document["schema_version"] == 1 and all(
                isinstance(one["file"], str) for one in entries
            )
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            sound = False
        if not sound:
            require_absent(path, self.force, "--force, or another directory")
            return []
        if source != self.memory.path:
            raise KhoError(f"{path} is of another dump: {source}", hint="another directory")
        # What was removed since has no entry any more.
        return [one for one in entries if os.path.lexists(self.directory / one["file"])]

    def _write_manifest(self, kept: list[dict[str, Any]], entries: list[dict[str, Any]]) -> None:
        if not (kept or entries):
            return
        written = {entry["file"] for entry in entries}
        earlier = (json.dumps(one, indent=2) for one in kept if one["file"] not in written)
        items = chain((one.replace("\n", "\n    ") for one in earlier), map(extracted, entries))
        document = {
            "schema_version": 1,
            "source": self.memory.path,
            "capture": self.evidence and self.evidence.document(),
            "items": Encoded([one] for one in items),
        }
        with self._create(Path(MANIFEST)) as file:
            file.writelines(piece.encode() for piece in stream(document))

    def _extract(self, item: Item, name: Path) -> dict[str, Any]:
        account = Account()
        with self._create(name) as file:
            size = _set_size(file, item)
            content = Digest(self.reader.hole_budget if size == item.size else -1)
            for part in self.reader.blocks(item):
                if part.paddr is not None and part.offset + part.size > size:
                    part = part._replace(data=None, why="no file can be that large")
                if part.data is None:
                    content.skip(part.size)
                else:
                    _write(file.fileno(), part.offset, part.data, content)
                    self.progress(part.size)
                account.add(part)
        digest = content.result()
        self.reader.hole_budget -= content.holes if digest else 0
        return {
            "selector": item_name(item.name, item.number),
            "given_name": given_text(self.names or FdNames(), item.name),
            "file": str(name),
            "size": item.size,
            "file_size": size,
            "sha256": digest,
            "sources": [
                {"offset": piece.offset, "paddr": hex(piece.paddr), "size": piece.size}
                for piece in account.sources
            ],
            "gaps": account.marked(self.evidence),
            **carved_members(item, self.evidence.doubts if self.evidence else ()),
        }

    @contextmanager
    def _create(self, name: Path) -> Iterator[BufferedRandom]:
        path = self.directory / name
        with ExitStack() as opened:
            try:
                self.directory.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    self.directory.mkdir(directory_mode(self.mode))
                top = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise KhoError(f"cannot write {path}: {error.strerror}") from error
            opened.callback(os.close, top)
            folder = top
            for parent in list(name.parents)[-2::-1]:
                shown = self.directory / parent
                folder = open_directory_in(folder, parent.name, shown, self.mode)
                opened.callback(os.close, folder)
            # No other file stands there but the manifest: what comes from a dump is one level down.
            with atomic_file_in(top, folder, path, self.mode) as file:
                yield file


def _distinct(items: Sequence[Item], kept: Sequence[dict[str, Any]]) -> list[Path]:
    """File names, of which no two differ in case alone, nor from those of other items kept."""
    owners = {entry["file"].casefold(): entry["selector"] for entry in kept}
    names = []
    for item in items:
        selector, plain = item_name(item.name, item.number), file_name(item)
        name, number = plain, 1
        while owners.setdefault(str(name).casefold(), selector) != selector:
            number += 1
            name = plain.with_name(f"{plain.name}%-{number}")
        names.append(name)
    return names


def _set_size(file: BufferedRandom, item: Item) -> int:
    """Give the file its size, or else the size that its content needs, or else none."""
    with suppress(OSError, OverflowError):
        return file.truncate(item.size)
    needed = max((piece.offset + piece.size for piece in item.pieces), default=0)
    with suppress(OSError, OverflowError):
        return file.truncate(needed)
    return 0


def _write(fd: int, offset: int, data: memoryview, content: Digest) -> None:
    """Write at an offset, and hash what was written while it is in the cache."""
    while data:
        written = os.pwrite(fd, data[:SLICE], offset)
        content.update(data[:written])
        data, offset = data[written:], offset + written


def incomplete(items: Iterable[Item], entries: Iterable[dict[str, Any]]) -> int:
    """How many items lack content that should be there, or should be preserved."""
    return sum(
        any(is_lacking(gap, item) for gap in entry["gaps"])
        for item, entry in zip(items, entries, strict=True)
    )
