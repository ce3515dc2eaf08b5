"""What ``read`` shows of memory or a file, as lines for a plain stream."""

import re
from collections.abc import Iterable, Iterator

import numpy as np

from kho_inspect.model.contents import Document, Part
from kho_inspect.render.hexdump import rows
from kho_inspect.render.json import address
from kho_inspect.units import plural

MIN_STRING = 4
"""Characters, as of strings(1)."""
MAX_STRING = 1 << 20
"""Characters from which a longer one is cut in two."""
_PRINTABLE = bytes(range(0x20, 0x7F))
_RUN = re.compile(rb"[\x20-\x7e]{%d,}" % MIN_STRING)


def hexdump_lines(parts: Iterable[Part], in_file: bool) -> Iterator[str]:
    """16 bytes a line. Each begins with the address; ``in_file``: behind the offset in the file."""
    for part in parts:
        if part.data is None:
            yield _lacking(part, in_file)
            continue
        for at, text in rows(part.data):
            yield f"{text}\n" if at is None else f"{_where(part, at, in_file)}  {text}\n"


def u64_lines(parts: Iterable[Part], in_file: bool) -> Iterator[str]:
    """A little-endian u64 a line; of what is less than that at the end of a part, the bytes."""
    for part in parts:
        if part.data is None:
            yield _lacking(part, in_file)
            continue
        words = len(part.data) // 8
        for at, word in enumerate(np.frombuffer(part.data, dtype="<u8", count=words).tolist()):
            yield f"{_where(part, 8 * at, in_file)}  {word:#x}\n"
        rest = part.data[8 * words :]
        if len(rest):
            yield f"{_where(part, 8 * words, in_file)}  {rest.hex(' ')}\n"


def string_lines(parts: Iterable[Part], in_file: bool) -> Iterator[str]:
    """Runs of at least MIN_STRING printable ASCII characters, be they in several parts."""
    held, where = b"", ""
    for part in parts:
        data = b"" if part.data is None else bytes(part.data)
        head = len(data) - len(data.lstrip(_PRINTABLE))
        where = where if held else _where(part, 0, in_file)
        held += data[:head]
        if data and head == len(data) and len(held) < MAX_STRING:
            continue
        yield from _string(where, held)
        tail = max(head, len(data.rstrip(_PRINTABLE)))
        for match in _RUN.finditer(data, head, tail):
            yield from _string(_where(part, match.start(), in_file), match[0])
        held, where = data[tail:], _where(part, tail, in_file)
    yield from _string(where, held)


def part_documents(parts: Iterable[Part]) -> Iterator[Document]:
    """Each part for ``read --json``."""
    for part in parts:
        yield {
            "offset": part.offset,
            "paddr": address(part.paddr),
            "size": part.size,
            "hex": None if part.data is None else part.data.hex(),
            "why": part.why or None,
        }


def _string(where: str, text: bytes) -> Iterator[str]:
    if len(text) >= MIN_STRING:
        yield f"{where}  {text.decode('ascii')}\n"


def _lacking(part: Part, in_file: bool) -> str:
    return f"{_where(part, 0, in_file)}  {part.why}, {plural(part.size, 'byte')}\n"


def _where(part: Part, at: int, in_file: bool) -> str:
    paddr = "-" if part.paddr is None else f"{part.paddr + at:#x}"
    return f"{part.offset + at:#x}  {paddr}" if in_file else paddr
