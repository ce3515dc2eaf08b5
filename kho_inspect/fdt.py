"""The only use of pyfdt: validated bytes in, nodes with raw property bytes out.

pyfdt checks almost nothing, so :func:`parse` first walks the whole blob itself, strictly and
iteratively, with bounds on everything that a hostile blob could inflate. Only then pyfdt's
token list (lossless, unlike its trees) is folded into :class:`~kho_inspect.model.fdt_node.FdtNode`.
Source of the rules: Devicetree Specification 0.4, chapter 5, and libfdt's ``fdt_check_full``.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, permutations
from typing import TYPE_CHECKING, Any, NoReturn

from pyfdt.pyfdt import FdtBlobParse

from kho_inspect.errors import FdtError, TruncatedFdtError
from kho_inspect.layouts import fdt as layout
from kho_inspect.layouts.views import format_of, offset_of, parse_record
from kho_inspect.limits import DEFAULT_LIMITS, exceeded
from kho_inspect.model.fdt_node import FdtNode, FdtProp, FdtStart, text_of

if TYPE_CHECKING:
    import struct
    from collections.abc import Iterable, Mapping, Sequence

MAX_DEPTH = 64
MAX_TOKENS = 1 << 18
MAX_NAME = 4096
MAX_NAME_BYTES = 2 << 20
"""Sum over all tokens: names are shared, so a small blob can spell a long one many times."""

_VERSION_17 = {"version": layout.FDT_LAST_SUPPORTED_VERSION, "last_comp_version": 16}
_START = format_of(layout.fdt_header_start)
_HEADER = format_of(layout.fdt_header)
_RESERVATION = format_of(layout.fdt_reserve_entry)
_TOKEN = format_of(layout.fdt_node_header)
_PROPERTY = format_of(layout.fdt_property)

START_SIZE = _START.size
"""Bytes that :func:`total_size` needs."""


def total_size(head: bytes | memoryview) -> int | None:
    """``totalsize`` of the FDT that ``head`` starts with, None when it does not start one."""
    if len(head) < START_SIZE:
        return None
    magic, size = _START.unpack_from(head)
    return size if magic == layout.FDT_MAGIC else None


@dataclass(slots=True, eq=False)
class Tokens:
    """Tokens of the structure block that may still be read: of one FDT, or of several together."""

    left: int = MAX_TOKENS


def parse(
    data: bytes | memoryview,
    *,
    source: str | None = None,
    limit: int = DEFAULT_LIMITS.fdt,
    tokens: Tokens | None = None,
) -> FdtNode:
    """The root node of the FDT at the start of ``data`` (bytes past its totalsize are ignored).

    ``limit`` is the most bytes that it may have, ``tokens`` are counted down.

    Raises TruncatedFdtError when only the end is missing, FdtError with the offset of the first
    violation otherwise.
    """
    header = check_header(data, source, limit)
    if len(data) < header.totalsize:
        raise TruncatedFdtError(totalsize=header.totalsize, have=len(data), source=source)
    blob = bytes(data[: header.totalsize])
    checker = _Checker(blob, header, source, tokens or Tokens())
    checker.run()
    # It refuses versions that are compatible with 17 all the same.
    as_v17 = _HEADER.pack(*(vars(header) | _VERSION_17).values()) + blob[_HEADER.size :]
    return _fold(FdtBlobParse(_Latin1Names(as_v17)).fdt_dt_tags, checker.node_names)


def parse_start(
    data: bytes | memoryview,
    names: Sequence[Mapping[str, int | None]],
    *,
    source: str | None = None,
    tokens: Tokens | None = None,
) -> FdtStart:
    """What stands of an FDT whose end is missing, or overwritten from some token on.

    The names of properties stand at the end: those in ``names`` (of the root's properties, of its
    children's, …, each with the size of its value, None: any) are inferred from where each begins,
    and how long all are together. One that cannot be is ``?…``.

    A property right before what was overwritten may be so itself, and is left out.

    Raises FdtError where not even a root node begins.
    """
    header = check_header(data, source, DEFAULT_LIMITS.fdt)
    blob = bytes(data[: header.totalsize])
    checker = _StartChecker(blob, header, source, tokens or Tokens())
    try:
        checker.run()
        stored = blob[header.off_dt_strings :]
    except FdtError:
        stored = b""
        if len(blob) == header.totalsize:
            checker.drop_last_property()
    end = min(checker.past, len(blob))
    if not checker.node_names:
        checker.refuse("no root node", end)
    strings = bytearray(b"?" * header.size_dt_strings + b"\0")
    for at, name in _infer_names(checker.seen, names, header.size_dt_strings, stored).items():
        strings[at : at + len(name) + 1] = name.encode() + b"\0"
    structure = blob[header.off_dt_struct : end]
    structure += bytes(-len(structure) % _TOKEN.size)
    structure += _TOKEN.pack(layout.FDT_END_NODE) * checker.depth + _TOKEN.pack(layout.FDT_END)
    at = _HEADER.size + _RESERVATION.size
    fields = {
        "off_dt_struct": at,
        "off_dt_strings": at + len(structure),
        "off_mem_rsvmap": _HEADER.size,
        "size_dt_strings": len(strings),
        "size_dt_struct": len(structure),
        "totalsize": at + len(structure) + len(strings),
    }
    made = _HEADER.pack(*(vars(header) | fields).values()) + bytes(_RESERVATION.size)
    root = parse(made + structure + strings, source=source, limit=2 * DEFAULT_LIMITS.fdt)
    opened = [text_of(name) for name in checker.opened]
    return FdtStart(root, end, header.totalsize, tuple(opened))


def _infer_names(
    seen: Sequence[tuple[int, int, int]],
    names: Sequence[Mapping[str, int | None]],
    size: int,
    stored: bytes,
) -> dict[int, str]:
    """Offset → name, for what was ``seen``; ``stored`` is what is known of the strings block."""
    known = tuple(dict.fromkeys(name for level in names for name in level))
    found: dict[int, set[str]] = {at: set() for _, at, _ in seen}

    def fits(depth: int, name: str | None, length: int) -> bool:
        level = names[depth - 1] if depth <= len(names) else {}
        return name is not None and level.get(name, -1) in (None, length)

    for block in _string_blocks(known, size):
        spelled = b"".join(name.encode() + b"\0" for name in block.values())
        if spelled.startswith(stored[:size]) and all(
            fits(depth, block.get(at), length) for depth, at, length in seen
        ):
            for at, fitting in found.items():
                fitting.add(block[at])
    return {at: fitting.pop() for at, fitting in found.items() if len(fitting) == 1}


@lru_cache(16)
def _string_blocks(names: tuple[str, ...], size: int) -> list[dict[int, str]]:
    """Every strings block of ``size`` bytes that some of the names make."""
    blocks = []
    for count in range(1, len(names) + 1):
        for order in permutations(names, count):
            ends = list(accumulate(len(name) + 1 for name in order))
            if ends[-1] == size:
                blocks.append(dict(zip([0, *ends], order, strict=False)))
    return blocks


def check_header(data: bytes | memoryview, source: str | None, limit: int) -> Any:
    """Validate magic, version and block ranges; returns the parsed header."""

    def refuse(message: str, offset: int) -> NoReturn:
        raise FdtError(f"not a usable FDT: {message}", offset=offset, source=source)

    if len(data) >= 4 and bytes(data[:4]) != layout.FDT_MAGIC_BYTES:
        refuse(f"magic is {bytes(data[:4]).hex()}, should be {layout.FDT_MAGIC:x}", 0)
    if len(data) < _HEADER.size:
        refuse(f"{len(data)} bytes are too few for the {_HEADER.size}-byte header", len(data))
    header = parse_record(layout.fdt_header, data)
    if header.version < 17 or header.last_comp_version > 17:
        versions = f"{header.version}, compatible with {header.last_comp_version}"
        at = offset_of(layout.fdt_header, "version")
        refuse(f"version is {versions}, should be 17, compatible with 16", at)
    at = offset_of(layout.fdt_header, "totalsize")
    if header.totalsize < _HEADER.size:
        refuse(f"totalsize is {header.totalsize}, less than the header", at)
    if header.totalsize > limit:
        refuse(f"totalsize is {header.totalsize:,}, {exceeded('bytes', 'fdt', limit)}", at)
    for name, start, size, align in (
        ("memory reservation block", header.off_mem_rsvmap, _RESERVATION.size, 8),
        ("structure block", header.off_dt_struct, header.size_dt_struct, 4),
        ("strings block", header.off_dt_strings, header.size_dt_strings, 1),
    ):
        if start % align:
            refuse(f"{name} at offset {start:#x} is not {align}-byte aligned", start)
        if start < _HEADER.size or start + size > header.totalsize:
            refuse(f"{name} {start:#x}+{size:#x} is not within totalsize", start)
    return header


class _Checker:
    """One strict pass over the reservation and structure blocks."""

    def __init__(self, blob: bytes, header: Any, source: str | None, tokens: Tokens) -> None:
        self.blob = blob
        self.header = header
        self.source = source
        self.tokens = tokens
        self.end = header.off_dt_struct + header.size_dt_struct
        self.name_bytes = 0
        self.node_names: list[bytes] = []
        """In blob order, as they stand: pyfdt calls every nameless node ``/``."""
        self.opened: list[bytes] = []
        """Names of the nodes that have not ended."""
        self.past = header.off_dt_struct
        """Where the last whole token ends."""

    @property
    def depth(self) -> int:
        """Nodes that have not ended."""
        return len(self.opened)

    def refuse(self, message: str, offset: int) -> NoReturn:
        raise FdtError(f"FDT offset {offset:#x}: {message}", offset=offset, source=self.source)

    def run(self) -> None:
        self.check_reservations()
        at = self.header.off_dt_struct
        roots = 0
        while self.tokens.left:
            self.past = at
            self.tokens.left -= 1
            (token,), start, at = self.cells(_TOKEN, at), at, at + _TOKEN.size
            if token == layout.FDT_BEGIN_NODE:
                roots += self.depth == 0
                if roots > 1:
                    self.refuse("a second root node", start)
                if self.depth == MAX_DEPTH:
                    self.refuse(f"nodes nest deeper than {MAX_DEPTH}", start)
                past = self.check_name(at, self.end, "node name")
                self.node_names.append(self.blob[at : past - 1])
                self.opened.append(self.node_names[-1])
                at = past + -past % _TOKEN.size
            elif token == layout.FDT_END_NODE:
                if self.depth == 0:
                    self.refuse("END_NODE without a node", start)
                self.opened.pop()
            elif token == layout.FDT_PROP:
                if self.depth == 0:
                    self.refuse("a property outside any node", start)
                at = self.check_property(start)
            elif token == layout.FDT_END:
                if self.depth or not roots:
                    self.refuse(f"the tree ends with {self.depth} nodes still open", start)
                return
            elif token != layout.FDT_NOP:
                self.refuse(f"unknown token {token:#x}", start)
        self.refuse(f"more than {MAX_TOKENS:,} tokens", at)

    def check_reservations(self) -> None:
        at = self.header.off_mem_rsvmap
        while at + _RESERVATION.size <= len(self.blob):
            if not any(_RESERVATION.unpack_from(self.blob, at)):
                return
            at += _RESERVATION.size
        self.refuse("the memory reservation block has no terminating entry", at)

    def check_property(self, at: int) -> int:
        _, length, name_offset = self.cells(_PROPERTY, at)
        value = at + _PROPERTY.size
        if length > self.end - value:
            at += offset_of(layout.fdt_property, "len")
            self.refuse(f"property of {length} bytes runs past the structure block", at)
        if name_offset >= self.header.size_dt_strings:
            at += offset_of(layout.fdt_property, "nameoff")
            self.refuse(f"property name at strings+{name_offset:#x} is past the strings", at)
        self.check_property_name(name_offset, length)
        end = value + length
        return end + -end % _TOKEN.size

    def check_property_name(self, offset: int, length: int) -> None:
        strings = self.header.off_dt_strings
        self.check_name(strings + offset, strings + self.header.size_dt_strings, "property name")

    def check_name(self, at: int, limit: int, what: str) -> int:
        """Offset just past the NUL of the name at ``at``."""
        nul = self.blob.find(b"\0", at, min(limit, at + MAX_NAME))
        if nul < 0:
            self.refuse(f"{what} does not end within {min(limit - at, MAX_NAME)} bytes", at)
        self.name_bytes += nul - at
        if self.name_bytes > MAX_NAME_BYTES:
            self.refuse(f"names add up to more than {MAX_NAME_BYTES} bytes", at)
        return nul + 1

    def cells(self, form: struct.Struct, at: int) -> tuple[int, ...]:
        if at + form.size > self.end:
            at += max(0, self.end - at) // _TOKEN.size * _TOKEN.size  # the cell that is not there
            self.refuse("the structure block ends in the middle of the tree", at)
        return form.unpack_from(self.blob, at)


class _StartChecker(_Checker):
    """The same for an FDT whose end is missing: the names of properties are not there."""

    def __init__(self, blob: bytes, header: Any, source: str | None, tokens: Tokens) -> None:
        super().__init__(blob, header, source, tokens)
        self.end = min(self.end, len(blob))
        self.seen: list[tuple[int, int, int]] = []
        """Of each property its depth (of the root: 1), its name's offset, and its value's size."""
        self.properties: list[tuple[int, int]] = []
        """Where each begins and ends."""

    def check_property(self, at: int) -> int:
        end = super().check_property(at)
        self.properties.append((at, end))
        return end

    def drop_last_property(self) -> None:
        if self.properties and self.properties[-1][1] == self.past:
            self.past = self.properties[-1][0]
            del self.seen[-1]

    def check_property_name(self, offset: int, length: int) -> None:
        self.seen.append((self.depth, offset, length))


class _Latin1Names(io.BytesIO):
    """Makes pyfdt, which decodes names byte by byte as ASCII, keep every byte of a name."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        return _Latin1Byte(data) if size == 1 else data


class _Latin1Byte(bytes):
    def decode(self, encoding: str = "latin-1", errors: str = "strict") -> str:
        return super().decode("latin-1")


def _fold(tags: Iterable[tuple[int, Any]], node_names: Iterable[bytes]) -> FdtNode:
    """pyfdt's flat token list (already known to balance) as a tree of ours."""
    names = iter(node_names)
    open_nodes: list[tuple[str, list[FdtProp], list[FdtNode]]] = [("", [], [])]
    for tag, value in tags:
        if tag == layout.FDT_BEGIN_NODE:
            open_nodes.append((text_of(next(names)), [], []))
        elif tag == layout.FDT_PROP:
            name = text_of(value[0].encode("latin-1"))
            open_nodes[-1][1].append(FdtProp(name, bytes(value[1])))
        elif tag == layout.FDT_END_NODE:
            name, props, children = open_nodes.pop()
            open_nodes[-1][2].append(FdtNode(name, tuple(props), tuple(children)))
    return open_nodes[0][2][0]
