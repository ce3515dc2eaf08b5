"""An independent writer of LiME, kdump-compressed and flattened files: struct and zlib only.

Like ``builder``: it never imports kho_inspect. Written from makedumpfile's ``diskdump_mod.h``,
QEMU's ``dump/dump.c`` and LiME's ``lime.h``; codecs other than zlib are the caller's.
"""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tests.support.dump_files import data_runs

ZLIB, LZO, SNAPPY, INCOMPLETE, ZSTD = 1, 2, 4, 8, 0x20

Codec = Callable[[bytes], bytes]


class Layout(NamedTuple):
    """File offsets of the parts of a kdump."""

    sub_header: int
    known: int
    dumped: int
    descriptors: int
    data: int


def _write_bitmap(file: BinaryIO, at: int, pfns: Iterable[int]) -> None:
    """The bytes that are not zero, in pieces: a bitmap of terabytes is a hole."""
    pieces: dict[int, bytearray] = {}
    for pfn in pfns:
        number, bit = divmod(pfn, 8 * 512)
        pieces.setdefault(number, bytearray(512))[bit // 8] |= 1 << bit % 8
    for number, piece in pieces.items():
        file.seek(at + 512 * number)
        file.write(piece)


def write_kdump(
    path: Path,
    pages: Mapping[int, bytes],
    *,
    block: int = 4096,
    known: Iterable[int] = (),
    version: int = 6,
    flag: int = ZLIB,
    codec: Codec = zlib.compress,
    signature: bytes = b"KDUMP   ",
    pages_max: int | None = None,
    split: tuple[int, int] | None = None,
    one_bitmap: bool = False,
    status: int | None = None,
    vmcoreinfo: bytes = b"",
) -> Layout:
    """``pages`` by page frame number; ``known`` ones exist, but are excluded.

    A page that does not shrink is stored as it is; all zero pages share one piece of data, as
    QEMU and makedumpfile do it.
    """
    existing = {*known, *pages}
    count = max(existing) + 1 if pages_max is None else pages_max
    size = -(-count // 8)
    blocks = -(-size // block)
    sub_header = block
    bitmaps = 2 * block
    descriptors = bitmaps + blocks * block * (1 if one_bitmap else 2)
    data_at = descriptors + 24 * len(pages)
    layout = Layout(
        sub_header, bitmaps, bitmaps + (0 if one_bitmap else blocks * block), descriptors, data_at
    )
    narrow = count if version < 6 else min(count, 0xFFFFFFFF)
    names = [b"Linux", b"kdump", b"7.1.0", b"#1", b"x86_64", b"(none)"]
    header = struct.pack(
        "<8si65s65s65s65s65s65s6xqqIiiIIIIIIi",
        *(signature, version, *names, 0, 0, flag if status is None else status, block, 1),
        *(blocks * (1 if one_bitmap else 2), narrow, 0, 0, 0, 0, 1),
    )
    start, end = split or (0, 0)
    sub = struct.pack("<Qii", 0, 31, int(split is not None)) + struct.pack(
        "<QQqQqQqQ", start, end, 0, 0, 0, 0, 0, 0
    )
    if version >= 6:
        sub += struct.pack("<QQQ", start, end, count)
    if signature == b"DISKDUMP":
        sub = b"\xff" * 104
    with path.open("wb") as file:
        file.write(header)
        file.seek(layout.sub_header)
        file.write(sub)
        _write_bitmap(file, layout.known, existing)
        if not one_bitmap:
            _write_bitmap(file, layout.dumped, pages)
        file.truncate(layout.data)
        at = layout.data
        shared: tuple[int, bytes, int] | None = None
        for index, pfn in enumerate(sorted(pages)):
            page = pages[pfn]
            assert len(page) == block
            zero = page.count(0) == block
            where, packed, used = shared or (at, b"", flag)
            if not (zero and shared):
                packed, used = (codec(page), flag) if flag else (page, 0)
                if len(packed) >= block:
                    packed, used = page, 0
                where, at = at, at + len(packed)
                if zero:
                    shared = where, packed, used
            file.seek(layout.descriptors + 24 * index)
            file.write(struct.pack("<qIIQ", where, len(packed), used, 0))
            file.seek(where)
            file.write(packed)
        if vmcoreinfo:
            file.seek(at)
            file.write(vmcoreinfo)
            file.seek(layout.sub_header + 32)
            file.write(struct.pack("<qQ", at, len(vmcoreinfo)))
    return layout


def pages_of(raw: Path, base: int = 0, block: int = 4096) -> dict[int, bytes]:
    """Every page of a raw dump, zero ones too, by page frame number."""
    size = raw.stat().st_size
    zero = bytes(block)
    pages = dict.fromkeys(range(base // block, (base + size) // block), zero)
    for offset, data in data_runs(raw):
        for at in range(0, len(data), block):
            pages[(base + offset + at) // block] = data[at : at + block]
    return pages


def write_flattened(
    path: Path, records: Sequence[tuple[int, bytes]], *, end: bool = True, kind: int = 1
) -> None:
    """A flattened file of (offset, bytes), in this order."""
    with path.open("wb") as file:
        file.write(struct.pack(">16sqq", b"makedumpfile", kind, 1).ljust(4096, b"\0"))
        for offset, data in records:
            file.write(struct.pack(">qq", offset, len(data)) + data)
        if end:
            file.write(struct.pack(">qq", -1, -1))


def flatten(source: Path, path: Path, size: int = 5000) -> None:
    """A file as makedumpfile writes it to a pipe: the header first, in a preliminary form, and
    once more at the end."""
    data = source.read_bytes()
    pieces = [(at, data[at : at + size]) for at in range(0, len(data), size)]
    write_flattened(path, [(0, b"\xff" * 464), *pieces[1:], (0, b"\xee" * 300), pieces[0]])


def lime_header(start: int, end: int, magic: int = 0x4C694D45, version: int = 1) -> bytes:
    """``end`` is the last byte."""
    return struct.pack("<IIQQ8x", magic, version, start, end)


def write_lime(path: Path, ranges: Iterable[tuple[int, bytes]]) -> None:
    """(paddr, bytes) each."""
    with path.open("wb") as file:
        for paddr, data in ranges:
            file.write(lime_header(paddr, paddr + len(data) - 1) + data)


def raw_to_lime(raw: Path, path: Path, base: int = 0, cuts: Sequence[int] = ()) -> None:
    """The same memory as LiME ranges that touch at ``cuts``, in a sparse file."""
    size = raw.stat().st_size
    bounds = [0, *cuts, size]
    with path.open("wb") as file, raw.open("rb") as source:
        at = 0
        for start, end in itertools.pairwise(bounds):
            file.seek(at)
            file.write(lime_header(base + start, base + end - 1))
            at += 32
            for offset, data in data_runs(raw):
                low, high = max(start, offset), min(end, offset + len(data))
                if low < high:
                    file.seek(at + low - start)
                    file.write(os.pread(source.fileno(), high - low, low))
            at += end - start
        file.truncate(at)
