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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kho_inspect.errors import ExpectationError
from kho_inspect.model.selector import parse_owner
from kho_inspect.units import parse_size

MAX_PARTS = 16
"""Parts of a dotted key: tomllib takes time that grows with their square."""
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'')


@dataclass(frozen=True, slots=True)
class Expectation:
    """One assertion: ``kind`` is its dotted key, with the line of the file that makes it."""

    kind: str
    value: Any
    file: str
    line: int


def parse_expectations(text: str, file: str) -> list[Expectation]:
    """Every assertion of a file, in the order of its lines.

    Raises ExpectationError with file and line.
    """
    found: list[Expectation] = []
    where = file
    try:
        _refuse_long_keys(text)
        lines = _lines_of_keys(text)
        for key, number, value in _assertions(tomllib.loads(text)):
            line = lines.get((key, number), 0)
            where = f"{file}:{line}"
            found.append(Expectation(key, _read(key, value), file, line))
    except KeyError as error:
        message = f"{where}: nothing is known of {error.args[0]!r}"
        known = ", ".join(dict.fromkeys(key.split(".")[0] for key in _KEYS))
        raise ExpectationError(message, hint=f"there are {known}", source=file) from error
    except ValueError as error:
        raise ExpectationError(f"{where}: {error}", source=file) from error
    except RecursionError as error:
        raise ExpectationError(f"{where}: nested too deeply", source=file) from error
    if not any(one.value or one.value == 0 for one in found):
        hint = "expect writes such a file from a good image; did that fail?"
        raise ExpectationError(f"{file} expects nothing", hint=hint, source=file)
    return sorted(found, key=lambda expectation: expectation.line)


def _refuse_long_keys(text: str) -> None:
    """Raises ValueError."""
    for number, line in enumerate(_STRING.sub("", text).splitlines(), 1):
        keys = re.split(r"[=,{}\[\]]", line.partition("#")[0])
        if any(key.count(".") >= MAX_PARTS for key in keys):
            raise ValueError(f"line {number}: a key of more than {MAX_PARTS} parts")


def _assertions(document: dict[str, Any]) -> Iterator[tuple[str, int, Any]]:
    """Dotted key, number of the entry in its list, and value of each assertion."""
    for key, value in document.items():
        if key in _TABLES and isinstance(value, dict):
            for name, inner in value.items():
                yield f"{key}.{name}", 0, inner
        elif key in _ENTRIES:
            for number, entry in enumerate(value if isinstance(value, list) else [None]):
                yield key, number, entry
        else:
            yield key, 0, value


def _read(key: str, value: Any) -> Any:
    """A value as the rules use it. Raises ValueError, or KeyError for an unknown key."""
    if key in _TABLES:
        raise ValueError(f"{key} should be a table, [{key}]")
    return _KEYS["owners.*" if key.startswith("owners.") else key](key, value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} should be a string")
    return value


def _names(key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{key} should be a list of names")
    return value


def _number(key: str, value: Any) -> int:
    if isinstance(value, str):
        value = parse_size(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{key} should be a number or a size")
    if value >> 64:
        raise ValueError(f"{key} should be less than 2^64")
    return int(value)


def _owned(key: str, value: Any) -> int:
    name = key.removeprefix("owners.")
    if parse_owner(name) is None:
        raise ValueError(f"no owner is spelled {name!r}: LUO/SESSION/TOKEN, blob/SUB-NODE, …")
    return _number(key, value)


def _entry(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{key} should be written as [[{key}]]")
    readers = {f"{key}.{name}": reader for name, reader in _ENTRIES[key].items()}
    entry = {name: readers[f"{key}.{name}"](f"{key}.{name}", part) for name, part in value.items()}
    needed = list(_ENTRIES[key])[:2]
    if not entry.keys() >= set(needed):
        raise ValueError(f"[[{key}]] needs {' and '.join(needed)}")
    return entry


_Reader = Callable[[str, Any], Any]
_KEYS: dict[str, _Reader] = {
    "compatible": _text,
    "page_size": _text,
    "max_orphan_bytes": _number,
    "subnodes.required": _names,
    "subnodes.forbidden": _names,
    "sessions.required": _names,
    "sessions.forbidden": _names,
    "preserved.min_bytes": _number,
    "preserved.max_bytes": _number,
    "owners.*": _owned,
    "files": _entry,
    "ranges": _entry,
}
_TABLES = frozenset(key.split(".")[0] for key in _KEYS if "." in key)
_ENTRIES: dict[str, dict[str, _Reader]] = {
    "files": {"session": _text, "token": _number, "size": _number},
    "ranges": {"start": _number, "size": _number, "name": _text},
}
"""Keys of each entry of a list; the first two are needed."""


def _lines_of_keys(text: str) -> dict[tuple[str, int], int]:
    """Dotted key or table, and how often it came before → its line, which tomllib does not give."""
    lines: dict[tuple[str, int], int] = {}
    counts: Counter[str] = Counter()
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.lstrip()
        if header := re.match(r"\[\[?([^\]]+)\]", line):
            name = header[1].strip().strip("'\"")
            table = f"{name}."
        elif key := re.match(r"(\"[^\"]*\"|'[^']*'|[\w.-]+)\s*=", line):
            name = table + key[1].strip("'\"")
        else:
            continue
        lines[name, counts[name]] = number
        counts[name] += 1
    return lines
