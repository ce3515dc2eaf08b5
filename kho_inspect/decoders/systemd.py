"""The file descriptor store of systemd (261 and later): session ``systemd``, token 0.

That file holds JSON: ``{"version": 1, "units": {UNIT: {"fdstore": [ENTRY, …]}}}`` with entries
``{"type": "fd", "name", "token"}`` and ``{"type": "luo_session", "name", "sessionName"}``.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kho_inspect.errors import MissingMemoryError
from kho_inspect.geometry import PageGeometry
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.faults import Fault, FaultKind
from kho_inspect.model.fd_names import FdNames, GivenFd, GivenName
from kho_inspect.model.handover import Blob
from kho_inspect.model.identity import Message, Owner, Path
from kho_inspect.model.luo import Luo, LuoFile, LuoSession
from kho_inspect.units import human_size

SESSION, TOKEN, VERSION = "systemd", 0, 1
MAX_MAPPING = 1 << 20
"""Bytes of one mapping; all mappings together have 16 times as many."""
MAX_DEPTH = 8
"""Service managers within each other."""
MAX_NAME = 255
"""Characters of a unit's name and of a file descriptor's (UNIT_NAME_MAX, FDNAME_MAX)."""


class _UnreadableError(Exception):
    """Why a mapping is none."""


class _Entry(NamedTuple):
    given: GivenFd
    target: int | str
    """A token, or the name of a session."""


def read_names(memory: PhysicalMemory, geometry: PageGeometry, blobs: Iterable[Blob]) -> FdNames:
    """What systemd calls the files and sessions of LUO; nothing where it has no session there."""
    sessions: dict[str, LuoSession] = {}
    for blob in blobs:
        for session in blob.content.sessions if isinstance(blob.content, Luo) else ():
            sessions.setdefault(session.name, session)
    if SESSION not in sessions:
        return FdNames()
    reader = _Reader(memory, geometry, sessions)
    reader.follow()
    return FdNames(reader.names, tuple(reader.troubles))


class _Reader:
    def __init__(
        self, memory: PhysicalMemory, geometry: PageGeometry, sessions: dict[str, LuoSession]
    ) -> None:
        self.memory, self.geometry, self.sessions = memory, geometry, sessions
        self.budget = 16 * MAX_MAPPING
        self.names: dict[Owner, GivenName] = {}
        self.troubles: list[Fault] = []

    def follow(self) -> None:
        """Read the first mapping, and those of the sessions that it leads to, each once."""
        seen = {SESSION}
        waiting: list[tuple[LuoSession, GivenName]] = [(self.sessions[SESSION], ())]
        while waiting:
            session, way = waiting.pop()
            for entry in self._entries(session, way):
                given = (*way, entry.given)
                if isinstance(entry.target, int):
                    self.names.setdefault(session.owner.of(entry.target), given)
                    continue
                named = self.sessions.get(entry.target)
                words = f"session {session.name!r} refers to session {entry.target!r}, "
                if named is None:
                    words += "which is not there"
                    self._add(FaultKind.FD_SESSION_MISSING, words, session.path)
                elif entry.target in seen:
                    words += "which is above it or was referred to before"
                    self._add(FaultKind.FD_MAPPING, words, session.path)
                elif len(given) >= MAX_DEPTH:
                    words += f"more than {MAX_DEPTH} levels down: not followed"
                    self._add(FaultKind.FD_MAPPING, words, session.path)
                else:
                    seen.add(entry.target)
                    self.names[named.owner] = given
                    waiting.append((named, given))

    def _entries(self, session: LuoSession, way: GivenName) -> list[_Entry]:
        """The entries of a session's mapping; it is compared with the session's tokens."""
        held = {file.token: file for file in reversed(session.files)}
        try:
            if TOKEN not in held:
                raise _UnreadableError(f"session {session.name!r} has no token {TOKEN:#x}")
            units = self._units(held[TOKEN])
        except _UnreadableError as error:
            # Token 0 of a session that a service made need not be a mapping.
            if not way:
                self._add(FaultKind.FD_MAPPING, f"systemd's mapping: {error}", session.path)
            return []
        found = list(self._listed(units, session.path))
        tokens = [entry.target for entry in found if isinstance(entry.target, int)]
        self.names.setdefault(session.owner.of(TOKEN), (*way, GivenFd(SESSION, "mapping")))
        for entry in found:
            if isinstance(entry.target, int) and entry.target not in held:
                unit, name = entry.given
                words = f"{unit!r} has {name!r} as token {entry.target:#x}, "
                words += f"which session {session.name!r} lacks"
                self._add(FaultKind.FD_TOKEN_MISSING, words, session.path)
        for token in sorted(held.keys() - {TOKEN, *tokens}):
            words = f"no unit has token {token:#x} of session {session.name!r}"
            self._add(FaultKind.FD_TOKEN_UNNAMED, words, held[token].path)
        return found

    def _units(self, file: LuoFile) -> dict[str, Any]:
        """The units of a mapping. Raises _UnreadableError."""
        mapping = _parse(self._content(file))
        version = mapping.get("version")
        if type(version) is not int or version != VERSION:
            raise _UnreadableError(f"version is {version!r:.40}, should be {VERSION}")
        units = mapping.get("units")
        if not isinstance(units, dict):
            raise _UnreadableError("it has no units")
        return units

    def _content(self, file: LuoFile) -> bytes:
        """All bytes of a file. Raises _UnreadableError."""
        if file.content is None:
            raise _UnreadableError(f"token {file.token:#x} is not decoded")
        size = file.content.size
        if size > min(MAX_MAPPING, self.budget):
            raise _UnreadableError(f"{human_size(size)} are more than are read")
        data = bytearray(size)
        left = 2 * MAX_MAPPING
        for offset, paddr, length in file.content.pieces(self.geometry):
            # A page is charged as a whole: entries that overlap may be many.
            left -= max(length, self.geometry.page_size)
            if left < 0:
                raise _UnreadableError("its folios overlap")
            try:
                data[offset : offset + length] = self.memory.read(paddr, length)
            except MissingMemoryError as error:
                raise _UnreadableError(f"{paddr:#x} cannot be read") from error
        self.budget -= size
        return bytes(data)

    def _listed(self, units: dict[str, Any], path: Path) -> Iterator[_Entry]:
        """The entries that are well-formed; of the others the unit is reported."""
        tokens: set[int] = set()
        for unit, state in units.items():
            store = state.get("fdstore", []) if isinstance(state, dict) else None
            for entry in store if isinstance(store, list) else [None]:
                read = _entry(unit, entry)
                if read is None:
                    words = f"unit {unit!r:.80} has a malformed entry"
                    self._add(FaultKind.FD_MAPPING, words, path)
                elif read.target in tokens:
                    words = f"token {read.target:#x} is in the mapping more than once"
                    self._add(FaultKind.FD_MAPPING, words, path)
                else:
                    tokens.update([read.target] if isinstance(read.target, int) else [])
                    yield read

    def _add(self, kind: FaultKind, message: Message, path: Path) -> None:
        self.troubles.append(Fault(kind, message, None, path))


def _parse(data: bytes) -> dict[str, Any]:
    """JSON that is an object. Raises _UnreadableError."""
    try:
        found = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _UnreadableError(f"it is not JSON: {error!s:.80}") from error
    if not isinstance(found, dict):
        raise _UnreadableError("it is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in one object more than once")
    return found


def _entry(unit: str, entry: object) -> _Entry | None:
    """An entry of a unit's store; None for what is none."""
    if not isinstance(entry, dict):
        return None
    name, kind = entry.get("name"), entry.get("type")
    if not isinstance(name, str) or max(len(name), len(unit)) > MAX_NAME:
        return None
    token, session = entry.get("token"), entry.get("sessionName")
    if kind == "fd" and type(token) is int and 0 < token < 1 << 64:
        return _Entry(GivenFd(unit, name), token)
    if kind == "luo_session" and isinstance(session, str) and len(session) <= MAX_NAME:
        return _Entry(GivenFd(unit, name), session)
    return None
