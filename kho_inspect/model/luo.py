"""The Live Update Orchestrator's state: sessions, files, and data bound to file handlers.

Fields are named as in ``include/linux/kho/abi/luo.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from kho_inspect.abi import LuoAbi
from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64
from kho_inspect.model.contents import (
    Content,
    Document,
    FileContent,
    FileContents,
    FileEntries,
    Item,
    Row,
    Rows,
    VmallocArea,
)
from kho_inspect.model.features import Features
from kho_inspect.model.hints import Hint
from kho_inspect.model.identity import Owner, Path, Step, StepKind, Subsystem
from kho_inspect.model.preserved import Preserved
from kho_inspect.units import PhysAddr, plural

LUO = Owner(Subsystem.LUO)


@dataclass(frozen=True, slots=True)
class LuoFile:
    """One file of a session (``struct luo_file_ser``)."""

    compatible: str
    data: PhysAddr
    token: int
    content: FileContent | None
    """None for a handler that is not known, or a descriptor that could not be read."""
    known: bool
    """Whether there is a decoder for the handler."""
    unknown: tuple[str, ...]
    """Parts of a composite handler that are not known."""
    owner: Owner
    path: Path

    def summary(self) -> str:
        """Handler and content in a few words."""
        words = self.content.summary() if self.content else f"not decoded, data {self.data:#x}"
        return f"{self.token:#x}  {self.compatible}  {words}"

    def document(self) -> Document:
        """With the field names of the kernel struct."""
        return {
            "compatible": self.compatible,
            "data": hex(self.data),
            "token": self.token,
            "memfd": None,
            **({self.content.key: self.content.document()} if self.content else {}),
        }


class Handler(NamedTuple):
    """A file handler as lists of files name it."""

    compatible: str
    decoder: str | None
    """The name of the decoder that reads its files."""
    unknown: tuple[str, ...]
    """Parts of a composite name that are not known."""


@dataclass(frozen=True, eq=False, slots=True)
class LuoFiles(Sequence[LuoFile]):
    """Files in columns; one of them is a view, made when it is asked for."""

    entries: FileEntries
    tokens: NDArray[np.uint64]
    handlers: Sequence[Handler]
    """Each handler once."""
    handler: I64
    """Of each file, as an index of ``handlers``."""
    contents: Mapping[str, Sequence[FileContent | None]]
    """What each decoder read."""
    rows: I64
    """Where in it the content of each file is; -1 where the file was not decoded."""
    numbers: range
    """Which of all files these are."""

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> LuoFile: ...
    @overload
    def __getitem__(self, at: slice) -> LuoFiles: ...
    def __getitem__(self, at: int | slice) -> LuoFile | LuoFiles:
        if isinstance(at, slice):
            return replace(self, numbers=self.numbers[at])
        number = self.numbers[at]
        entry, row = self.entries[number], int(self.rows[number])
        handler = self.handlers[self.handler[number]]
        return LuoFile(
            compatible=handler.compatible,
            data=entry.data,
            token=int(self.tokens[number]),
            content=None if row < 0 else self.contents[handler.decoder or ""][row],
            known=handler.decoder is not None,
            unknown=handler.unknown,
            owner=entry.owner,
            path=entry.path,
        )

    def read_by(self, decoder: str) -> I64:
        """The numbers of the files that one decoder read, in the order of its contents."""
        wanted = [handler.decoder == decoder for handler in self.handlers]
        return np.flatnonzero(np.array(wanted, dtype=bool)[self.handler] & (self.rows >= 0))

    def select(self, wanted: Callable[[Handler], bool]) -> list[int]:
        """The numbers of the files of some handlers, and of all with a feature header."""
        found = np.array([wanted(handler) for handler in self.handlers], dtype=bool)[self.handler]
        for decoder, contents in self.contents.items():
            numbers = self.read_by(decoder)
            if isinstance(contents, FileContents):
                found[numbers[list(contents.features)]] = True
            else:
                found[numbers] = True
        numbers_found: list[int] = np.flatnonzero(found).tolist()
        return numbers_found


class ListedFile(NamedTuple):
    """One file of a session in a list."""

    item: Item
    """As it is extracted; empty where the file was not decoded."""
    file: LuoFile
    sha256: str | None = None
    """None where it was not asked for, or content is lacking."""
    looks_like: Hint | None = None
    """None where it was not asked for, or its beginning tells nothing."""


@dataclass(frozen=True, slots=True)
class LuoSession:
    """One live-update session (``struct luo_session_ser``)."""

    name: str
    raw_name: bytes
    """All 64 bytes."""
    files_pa: PhysAddr
    """The field ``files``."""
    count: int
    files: LuoFiles
    """The files that could be read."""
    owner: Owner
    path: Path

    def document(self) -> Document:
        """With the field names of the kernel struct."""
        return {
            "name": self.name,
            "files_pa": hex(self.files_pa),
            "count": self.count,
            "files": [file.document() for file in self.files],
        }


@dataclass(frozen=True, slots=True)
class LuoFlb:
    """File-lifecycle-bound data (``struct luo_flb_ser``); ``data`` is opaque."""

    name: str
    raw_name: bytes
    data: int
    count: int
    path: Path

    def document(self) -> Document:
        """With the field names of the kernel struct."""
        return {"name": self.name, "data": hex(self.data), "count": self.count}


@dataclass(frozen=True, slots=True)
class Luo(Content):
    """The Live Update Orchestrator's state."""

    compatible: str
    """As written, ``luo`` where a feature header stands in its place."""
    abi: LuoAbi
    features: Features | None
    """The feature header, where there is one."""
    liveupdate_num: int | None
    sessions_pa: PhysAddr
    """luo-v5: 0 when sessions were not serialized (yet)."""
    flbs_pa: PhysAddr
    sessions: tuple[LuoSession, ...]
    files: LuoFiles
    """All files of all sessions."""
    flbs: tuple[LuoFlb, ...]

    def complete(self) -> bool:
        """LUO writes its sessions at reboot only; an earlier dump has none.

        The header of luo-v1 stands there from the start, and counts nothing.
        """
        return self.sessions_pa != 0 and (not self.abi.fdt or bool(self.sessions))

    @property
    def foreign(self) -> bool:
        """Whether a reader must know a part, or a feature, that is not known here."""
        odd = self.odd_files()
        headers = [self.features, *(one.content.features for one in odd if one.content)]
        return (
            bool(self.abi.unknown)
            or any(header.unknown(header.required) for header in headers if header)
            or any(file.known and file.unknown for file in odd)
        )

    def odd_files(self) -> list[LuoFile]:
        """The files of handlers that are not known as a whole, and those with a feature header."""
        numbers = self.files.select(lambda one: one.decoder is None or bool(one.unknown))
        return [self.files[number] for number in numbers]

    def select(self, wanted: Callable[[Handler], bool]) -> Iterator[tuple[LuoSession, LuoFile]]:
        """The same of other handlers, and the session of each."""
        ends = np.cumsum([len(session.files) for session in self.sessions])
        for number in self.files.select(wanted):
            session = self.sessions[int(np.searchsorted(ends, number, side="right"))]
            yield session, self.files[number]

    def sessions_with_twins(self) -> list[LuoSession]:
        """The sessions in which several files have one token."""
        whose = np.repeat(np.arange(len(self.sessions)), [len(one.files) for one in self.sessions])
        tokens = self.files.tokens
        order = np.lexsort((tokens, whose))
        first, second = order[:-1], order[1:]
        twins = whose[second[(whose[first] == whose[second]) & (tokens[first] == tokens[second])]]
        return [self.sessions[number] for number in sorted(set(twins.tolist()))]

    def summary(self) -> str:
        if not self.complete():
            return "not serialized yet"
        if not self.abi.reads_blocks:
            return f"sessions not read: {', '.join(self.abi.unknown)}"
        return f"{plural(len(self.sessions), 'session')}, {plural(len(self.files), 'file')}"

    def rows(self) -> Rows:
        number = "?" if self.liveupdate_num is None else self.liveupdate_num
        return Rows(f"live update {number} · {self.summary()}", list(self._rows()))

    def _rows(self) -> Iterator[Row]:
        for session in self.sessions:
            yield Row(("session", session.name, plural(session.count, "file")), owner=session.owner)
            for file in session.files:
                yield Row(("", "", file.summary()), 1, file.owner)
        for flb in self.flbs:
            words = f"{plural(flb.count, 'user')}, opaque data {flb.data:#x}"
            yield Row(("FLB", flb.name, words))

    def document(self) -> Document:
        return {
            "compatible": self.compatible,
            "features": self.features.document() if self.features else None,
            "liveupdate_num": self.liveupdate_num,
            "sessions_pa": hex(self.sessions_pa),
            "flbs_pa": hex(self.flbs_pa),
            "serialized": self.complete(),
            "sessions": [session.document() for session in self.sessions],
            "flb": [flb.document() for flb in self.flbs],
        }

    def items(self, geometry: PageGeometry) -> Iterator[Item]:
        for file in self.files:
            if file.content is not None:
                yield Item(file.owner, file.content.size, file.content.pieces(geometry))

    def areas(self) -> Iterator[VmallocArea]:
        for file in self.files:
            if file.content is not None:
                yield from file.content.areas()

    def unknown(self) -> Iterator[tuple[str, Path]]:
        path = (Step(StepKind.SUBNODE, "LUO"),)
        for part in self.abi.unknown:
            yield f"part {part!r} of LUO {self.compatible!r}", path
        if self.features and (bits := self.features.unknown(self.features.active)):
            yield f"LUO feature {bits:#x}", path
        for file in self.odd_files():
            if not file.known:
                yield f"file handler {file.compatible!r}", file.path
            for part in file.unknown if file.known else ():
                yield f"part {part!r} of file handler {file.compatible!r}", file.path
            features = file.content.features if file.content is not None else None
            if features and (bits := features.unknown(features.active)):
                yield f"feature {bits:#x} of file {file.token:#x}", file.path

    def hidden(self, preserved: Preserved, path: Path) -> Iterator[tuple[str, Path]]:
        if not self.complete():
            yield "the sessions of LUO are not serialized", path
        yield from Content.hidden(self, preserved, path)
        for flb in self.flbs:
            if preserved.covers(flb.data, 1):
                yield (
                    f"FLB {flb.name!r} has opaque data {flb.data:#x} in preserved memory",
                    flb.path,
                )

    def expected(self) -> Iterator[tuple[str, Document]]:
        for session in self.sessions:
            yield "sessions", {"name": session.name}
            for file in session.files:
                if file.content is not None:
                    size = file.content.size
                    entry = {"session": session.name, "token": hex(file.token), "size": size}
                    yield "files", entry
