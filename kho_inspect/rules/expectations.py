"""Expectation files: what a CI job wants of a captured image, in TOML.

compatible = "kho-v4"
page_size = "4K"
max_orphan_bytes = 0

[subnodes]
required = ["LUO"]
forbidden = ["kho_test"]

[sessions]
required = ["vm-alpha"]

[preserved]
min_bytes = "1M"
max_bytes = "1G"

[owners]
LUO = "64M"                     # at most that much

[[files]]
session = "vm-alpha"
token = 0x1001
size = 98304                    # optional

[[ranges]]
name = "tracebuf"               # must be preserved
start = "0x79c7000"
size = "16K"
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

from kho_inspect.errors import KhoError
from kho_inspect.units import parse_size


@dataclass(frozen=True, slots=True)
class Expectation:
    """One assertion: ``kind`` is its dotted key, with the line of the file that makes it."""

    kind: str
    value: Any
    file: str
    line: int


class ExpectationError(KhoError):
    """An expectation file that cannot be understood."""


_LISTS = ("required", "forbidden")
_KINDS: dict[str, tuple[str, ...]] = {
    "": ("compatible", "page_size", "max_orphan_bytes"),
    "subnodes": _LISTS,
    "sessions": _LISTS,
    "preserved": ("min_bytes", "max_bytes"),
}
_TABLES = {"files": ("session", "token", "size"), "ranges": ("name", "start", "size")}
_SIZES = ("max_orphan_bytes", "preserved.min_bytes", "preserved.max_bytes")


def parse_expectations(text: str, file: str) -> list[Expectation]:
    """Every assertion of a file, in the order of its lines.

    Raises ExpectationError with file and line.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExpectationError(f"{file}: {error}", source=file) from error
    lines = _Lines(text)
    found: list[Expectation] = []
    for key, value in document.items():
        if key in _TABLES:
            found += _entries(key, value, file, lines)
        elif key == "owners":
            found += [
                Expectation(
                    f"owners.{name}",
                    _size(budget, file, lines.of(key, name)),
                    file,
                    lines.of(key, name),
                )
                for name, budget in _table(value, key, file).items()
            ]
        elif key in _KINDS[""]:
            found.append(_assertion(key, value, file, lines.of("", key)))
        elif key in _KINDS:
            for inner, one in _table(value, key, file).items():
                if inner not in _KINDS[key]:
                    raise _unknown(f"{key}.{inner}", file, lines.of(key, inner))
                found.append(_assertion(f"{key}.{inner}", one, file, lines.of(key, inner)))
        else:
            raise _unknown(key, file, lines.of("", key) or lines.of(key, ""))
    return sorted(found, key=lambda one: one.line)


def _assertion(kind: str, value: Any, file: str, line: int) -> Expectation:
    if kind in _SIZES:
        value = _size(value, file, line)
    elif kind.endswith(_LISTS):
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ExpectationError(f"{file}:{line}: {kind} should be a list of names", source=file)
    elif not isinstance(value, str):
        raise ExpectationError(f"{file}:{line}: {kind} should be a string", source=file)
    return Expectation(kind, value, file, line)


def _entries(key: str, value: Any, file: str, lines: _Lines) -> list[Expectation]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ExpectationError(f"{file}: {key} should be written as [[{key}]]", source=file)
    found = []
    for number, entry in enumerate(value):
        line = lines.of(key, "", number)
        for inner in entry:
            if inner not in _TABLES[key]:
                raise _unknown(f"{key}.{inner}", file, line)
        sizes = {
            name: _size(entry[name], file, line)
            for name in ("start", "size", "token")
            if name in entry
        }
        entry = {**entry, **sizes}
        needed = ("session", "token") if key == "files" else ("start", "size")
        if any(name not in entry for name in needed):
            wanted = " and ".join(needed)
            raise ExpectationError(f"{file}:{line}: [[{key}]] needs {wanted}", source=file)
        found.append(Expectation(key, entry, file, line))
    return found


def _table(value: Any, key: str, file: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ExpectationError(f"{file}: {key} should be a table, [{key}]", source=file)
    return value


def _size(value: Any, file: str, line: int) -> int:
    try:
        if isinstance(value, str):
            return parse_size(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        raise ValueError(f"{value!r} is no number")
    except ValueError as error:
        raise ExpectationError(f"{file}:{line}: {error}", source=file) from error


def _unknown(key: str, file: str, line: int) -> ExpectationError:
    known = ", ".join([*_KINDS[""], *(name for name in _KINDS if name), "owners", *_TABLES])
    return ExpectationError(
        f"{file}:{line}: nothing is known of {key!r}", hint=f"there are {known}", source=file
    )


class _Lines:
    """Line numbers of keys, which tomllib does not tell."""

    def __init__(self, text: str) -> None:
        self._found: dict[tuple[str, str], list[int]] = {}
        table = ""
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
                table = header[1].strip("'\"")
                self._found.setdefault((table, ""), []).append(number)
            elif key := re.match(r"\s*(\"[^\"]*\"|'[^']*'|[\w.-]+)\s*=", line):
                self._found.setdefault((table, key[1].strip("'\"")), []).append(number)

    def of(self, table: str, key: str, occurrence: int = 0) -> int:
        """Line of a key in a table (of the table's header for no key); 0 when not found."""
        lines = self._found.get((table, key), [])
        return lines[occurrence] if occurrence < len(lines) else 0
