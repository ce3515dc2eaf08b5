"""Writing dump files: ELF cores from segments, and raw dumps turned into other forms.

Like ``builder``: standard library only, never kho_inspect.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ELF_PAGE = 4096
GRAIN = 65536
"""The largest page: a hole in the middle of one is zeros, not memory that is missing."""
PT_LOAD, PT_NOTE, PN_XNUM = 1, 4, 0xFFFF


class Segment(NamedTuple):
    """One PT_LOAD: the stored bytes, and how much memory it declares (0: as much)."""

    paddr: int
    data: bytes
    memsz: int = 0


def write_elf(
    path: Path, segments: Sequence[Segment], *, note: bool | bytes = False, xnum: bool = False
) -> None:
    """An ELF64 little-endian core; ``xnum`` keeps the header count in section header 0.

    ``note``: bytes of notes, True for any.
    """
    any_note = struct.pack("<III5s3x4s", 5, 4, 1, b"CORE\0", b"kho\0")
    note_data = note if isinstance(note, bytes) else any_note if note else b""
    count = len(segments) + bool(note)
    at_notes = 64 + 56 * count + (64 if xnum else 0)
    offset = -(-(at_notes + len(note_data)) // ELF_PAGE) * ELF_PAGE
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(ident, 4, 62, 1, 0, 64, 64 + 56 * count if xnum else 0, 0, 64, 56),
        *(PN_XNUM if xnum else count, 64 if xnum else 0, 1 if xnum else 0, 0),
    )
    phdr = struct.Struct("<IIQQQQQQ")
    headers = []
    if note:
        headers.append(phdr.pack(PT_NOTE, 0, at_notes, 0, 0, len(note_data), 0, 4))
    with path.open("wb") as file:
        for paddr, data, memsz in segments:
            size = len(data)
            file.seek(offset)
            file.write(data)
            headers.append(
                phdr.pack(PT_LOAD, 7, offset, paddr, paddr, size, memsz or size, ELF_PAGE)
            )
            offset += -(-size // ELF_PAGE) * ELF_PAGE
        section = struct.pack("<IIQQQQIIQQ", *(0, 0, 0, 0, 0, 0, 0, count, 0, 0)) if xnum else b""
        file.seek(0)
        file.write(head + b"".join(headers) + section + note_data)


def data_runs(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of the parts of a sparse file that are not holes, in whole 64K pages."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            start -= start % GRAIN
            at = min(size, -(-at // GRAIN) * GRAIN)
            yield start, os.pread(file.fileno(), at - start, start)


def raw_to_elf(raw_path: Path, elf_path: Path, base: int = 0) -> None:
    """The same memory as an ELF core that stores no hole, but declares all of RAM."""
    runs = [(base + offset, data) for offset, data in data_runs(raw_path)]
    end = base + raw_path.stat().st_size
    ends = [paddr for paddr, _ in runs[1:]] + [end]
    segments = [Segment(*run, stop - run[0]) for run, stop in zip(runs, ends, strict=True)]
    if runs[0][0] > base:
        segments.insert(0, Segment(base, b"", runs[0][0] - base))
    write_elf(elf_path, segments)


def raw_to_blocks(
    raw_path: Path, out_path: Path, split: int, base: int = 0
) -> list[tuple[int, int, int]]:
    """The same memory as two RAM blocks, the one from ``split`` right behind what is below it."""
    size = raw_path.stat().st_size
    runs = [(base + offset, data) for offset, data in data_runs(raw_path)]
    low_end = max(min(paddr + len(data), split) for paddr, data in runs if paddr < split)
    shift = low_end - split
    with out_path.open("wb") as file:
        for paddr, data in runs:
            below = data[: max(0, split - paddr)]
            file.seek(paddr - base)
            file.write(below)
            file.seek(max(paddr, split) + shift - base)
            file.write(data[len(below) :])
        file.truncate(size + shift)
    return [(base, 0, low_end - base), (split, low_end - base, base + size - split)]
