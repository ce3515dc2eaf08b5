"""Expectation files: what a CI job wants of a captured image, in TOML or the same in JSON.

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
sha256 = "e3b0c44298fc1c14…"    # optional: of its content

[[ranges]]
name = "tracebuf"               # must be preserved
start = "0x79c7000"
size = "16K"
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kho_inspect.errors import ExpectationError
from kho_inspect.model.selector import parse_owner
from kho_inspect.units import human_size, parse_size

MAX_SIZE = 8 << 20
"""Bytes of a file."""
MAX_TOML = 1 << 20
"""Characters of one in TOML, which takes up to a second to read; JSON is read faster."""
MAX_PARTS = 16
"""Parts of a dotted key: tomllib takes time that grows with their square."""
MAX_WORDS = 200
"""Characters of a message on one line of a file."""
MAX_DEPTH = 3
"""Objects and lists around an assertion in JSON."""
_MANY_DOTS = re.compile(rf"(?:\.[^.\n]*){{{MAX_PARTS}}}")
"""What every line with a key of more parts holds."""
_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")(?=\s*:)|"(?:[^"\\]|\\.)*"|[\[\]{}\n]')
"""A key in JSON, a string, a bracket, or the end of a line."""
_SKIPPED = re.compile(
    r"""#[^\n]*
    | \"{3} (?: [^"\\]+ | \\. | "(?!"") )*+ (?:"{3,5})?
    | '{3} (?: [^']+ | '(?!'') )*+ (?:'{3,5})?
    | " (?: [^"\\\n]+ | \\[^\n] )*+ "?
    | ' [^'\n]* '?""",
    re.DOTALL | re.VERBOSE,
)
"""Comments and strings in TOML. Where a quote stands, it matches: a text is read once."""


class Expectation(NamedTuple):
    """One assertion: ``kind`` is its dotted key, with the line of the file that makes it."""

    kind: str
    value: Any
    file: str
    line: int


def parse_expectations(text: str, file: str) -> list[Expectation]:
    """Every assertion of a file, in the order of its lines; JSON where it begins with a brace.

    Raises ExpectationError with file and line.
    """
    import tomllib  # few checks have such a file

    found: list[Expectation] = []
    where = file
    try:
        if text.lstrip()[:1] == "{":
            document, lines = _from_json(text), _lines_in_json(text)
        else:
            if len(text) > MAX_TOML:
                raise ValueError(f"has more than {human_size(MAX_TOML)} of TOML: use expect --json")
            if _MANY_DOTS.search(text):
                _refuse_long_keys(text)
            lines = _lines_of_keys(text)
            document = tomllib.loads(text)
        for key, number, value in _assertions(document):
            line = lines.get((key, number), 0)
            where = f"{file}:{line}"
            found.append(Expectation(key, _read(key, value), file, line))
    except KeyError as error:
        message = f"{where}: nothing is known of {_brief(repr(error.args[0]))}"
        known = ", ".join(dict.fromkeys(key.split(".")[0] for key in _KEYS))
        raise ExpectationError(message, hint=f"there are {known}", source=file) from error
    except ValueError as error:
        raise ExpectationError(f"{where}: {_brief(str(error))}", source=file) from error
    except RecursionError as error:
        raise ExpectationError(f"{where}: nested too deeply", source=file) from error
    if not any(one.value or one.value == 0 for one in found):
        hint = "expect writes such a file from a good image; did that fail?"
        raise ExpectationError(f"{file} expects nothing", hint=hint, source=file)
    return sorted(found, key=lambda expectation: expectation.line)


def _brief(words: str) -> str:
    return words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS]}…"


def _from_json(text: str) -> dict[str, Any]:
    """What ``expect --json`` writes, or the expectations alone. Raises ValueError."""
    document = json.loads(text, object_pairs_hook=_unique)
    document.pop("schema_version", None)
    inner = document["expectations"] if list(document) == ["expectations"] else document
    if not isinstance(inner, dict):
        raise ValueError("expectations should be an object")
    return inner


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for what the last of them would replace."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r} is there twice")
    return found


def _refuse_long_keys(text: str) -> None:
    """Raises ValueError."""
    bare = _SKIPPED.sub(lambda found: "\n" * found[0].count("\n"), text)
    for number, line in enumerate(bare.split("\n"), 1):
        if any(key.count(".") >= MAX_PARTS for key in re.split(r"[=,{}\[\]]", line)):
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


def _digest(key: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError(f"{key} should be 64 hex digits")
    return value.lower()


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
    "files": {"session": _text, "token": _number, "size": _number, "sha256": _digest},
    "ranges": {"start": _number, "size": _number, "name": _text},
}
"""Keys of each entry of a list; the first two are needed."""


def _lines_of_keys(text: str) -> dict[tuple[str, int], int]:
    """Dotted key or table, and how often it came before → its line, which tomllib does not give."""
    lines: dict[tuple[str, int], int] = {}
    counts: Counter[str] = Counter()
    table = ""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.lstrip()
        if not line:
            continue
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


def _lines_in_json(text: str) -> dict[tuple[str, int], int]:
    """The same for JSON that was read already."""
    lines: dict[tuple[str, int], int] = {}
    counts: Counter[str] = Counter()
    keys: list[str] = []  # of the objects and lists that are open
    key, number = "", 1
    for token in _TOKEN.finditer(text):
        mark, quoted = token[0], token[1]
        if quoted:
            key = json.loads(quoted)
        if (quoted or (mark == "{" and not key)) and len(keys) <= MAX_DEPTH:  # or a list's item
            name = ".".join(filter(None, (*keys, key))).removeprefix("expectations.")
            lines[name, counts[name]] = number
            counts[name] += not quoted
        if mark == "\n":
            number += 1
        elif mark in ("{", "["):
            keys.append(key)
            key = ""
        elif mark in ("}", "]"):
            key = keys.pop()
    return lines
