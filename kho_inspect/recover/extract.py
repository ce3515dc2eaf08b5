"""Writing recovered content to files, with a manifest.

Holes stay holes, and what the dump does not hold is a gap in the manifest, not written as zeros.
What the map does not preserve is such a gap too ("not preserved"), but its bytes are written: they
may be right still. What cannot be trusted at all has a doubt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Any

from kho_inspect.errors import KhoError
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import Item
from kho_inspect.model.fd_names import FdNames
from kho_inspect.recover.atomic import atomic_file, require_absent
from kho_inspect.recover.content import MAX_HASHED_HOLES, Account, Reader, is_lacking
from kho_inspect.recover.evidence import Evidence
from kho_inspect.recover.selectors import file_name
from kho_inspect.render.carved import carved_members
from kho_inspect.render.names import given_text, item_name

MANIFEST = "manifest.json"


class Extractor:
    """Writes items under one directory, and a manifest of what came of each."""

    def __init__(
        self,
        memory: PhysicalMemory,
        directory: Path,
        *,
        evidence: Evidence | None = None,
        names: FdNames | None = None,
        force: bool = False,
        progress: Callable[[int], None] = lambda size: None,
    ) -> None:
        """``progress`` gets the size of each piece written, in bytes.

        Without ``evidence`` nothing is marked as not preserved or doubtful.
        """
        self.memory = memory
        self.directory = directory
        self.evidence = evidence
        self.names = names or FdNames()
        self.force = force
        self.progress = progress
        self.reader = Reader(memory)
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
        account = Account()
        with self._create(name) as file:
            size = _set_size(file, item)
            for part in self.reader.parts(item):
                if part.paddr is not None and part.offset + part.size > size:
                    part = part._replace(data=None, why="no file can be that large")
                if part.data is not None:
                    file.seek(part.offset)
                    file.write(part.data)
                    self.progress(part.size)
                account.add(part)
            digest = None
            holes = size - sum(piece.size for piece in account.sources)
            if size == item.size and holes <= self.hole_budget:
                self.hole_budget -= holes
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "selector": item_name(item.name, item.number),
            "given_name": given_text(self.names, item.name),
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


def incomplete(items: Iterable[Item], entries: Iterable[dict[str, Any]]) -> int:
    """How many items lack content that should be there, or should be preserved."""
    return sum(
        any(is_lacking(gap, item) for gap in entry["gaps"])
        for item, entry in zip(items, entries, strict=True)
    )
