"""One word of a dump's headers changed at a time: all that is said of it stays as it was."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kho_inspect.errors import KhoError
from kho_inspect.memory import open_memory
from tests.memory.test_kdump import text_page
from tests.support.dump_files import Segment, write_elf
from tests.support.kdump_writer import flatten, write_kdump, write_lime

PAGE = 4096
PLAIN = b"A" * PAGE
PACKED = bytes.fromhex("789cedc1010d000000c2a06cef5fca1e0e28000000e0dd00ffad103d")
"""As zlib packs it: its implementations do not agree on what is not as simple."""
PAGES = {0x101: PLAIN, 0x102: text_page(2), 0x103: bytes(PAGE), 0x110: PLAIN}
Places = Iterator[int]
"""Offsets of words in a file that was written."""


def elf(path: Path) -> Places:
    segments = [
        Segment(0x100000, text_page(1) + text_page(2)),
        Segment(0x102000, b"", 0x3000),
        Segment(0x110000, text_page(3), 0x2000),
    ]
    write_elf(path, segments, note=True)
    return iter(range(0, 64 + 56 * 4 + 24, 4))


def many_segments(path: Path) -> Places:
    write_elf(path, [Segment(0x100000, text_page(1)), Segment(0x110000, text_page(3))], xnum=True)
    return iter(range(0, 64 + 56 * 2 + 64, 4))


def lime(path: Path) -> Places:
    write_lime(path, [(0x100000, text_page(1)), (0x102000, text_page(2) * 2)])
    yield from range(0, 32, 4)
    yield from range(32 + PAGE, 64 + PAGE, 4)


def kdump(path: Path) -> Places:
    def pack(data: bytes) -> bytes:
        return PACKED if data == PLAIN else data

    release = b"OSRELEASE=7.3.4\n"
    layout = write_kdump(path, PAGES, known=range(0x105, 0x110), codec=pack, vmcoreinfo=release)
    yield from range(0, 8, 4)
    yield from range(400, 464, 4)
    yield from range(layout.sub_header, layout.sub_header + 112, 4)
    yield from (area + 0x100 // 8 for area in (layout.known, layout.dumped))
    yield from range(layout.descriptors, layout.descriptors + 24 * len(PAGES), 4)
    yield from range(layout.data, layout.data + 16, 4)


def flattened(path: Path) -> Places:
    plain = path.with_suffix(".plain")
    places = list(kdump(plain))
    flatten(plain, path)
    yield from range(0, 32, 4)
    yield from range(PAGE, PAGE + 32, 4)
    yield from (PAGE + 16 + at for at in places[:20])


def said_of(path: Path) -> str:
    """What the dump holds, at the ends of its first extents; or why it is refused."""
    try:
        memory = open_memory(str(path))
    except KhoError as error:
        return f"{error.message}\n{error.hint}"
    held = [str(one) for one in (memory.format, memory.notes, memory.stored, memory.declared)]
    for extent in memory.stored[:4]:
        for at in (extent.start, extent.end - PAGE):
            try:
                held.append(memory.read(at, PAGE)[:64].hex())
            except KhoError as error:
                held.append(f"{error.message}\n{error.hint}")
    return "\n".join(held)


@pytest.mark.parametrize("write", [elf, many_segments, lime, kdump, flattened])
def test_what_is_said_of_a_dump_with_one_word_changed_is_as_reviewed(
    write: Callable[[Path], Places], tmp_path: Path, as_reviewed: Callable[..., None]
) -> None:
    path, rng = tmp_path / "dump", random.Random(3)
    places = list(write(path))
    whole = path.read_bytes()
    for at in places:
        (old,) = struct.unpack_from("<I", whole, at)
        for new in (0, 1, (1 << 32) - 1, old + 1, old ^ 1 << rng.randrange(32)):
            path.write_bytes(whole[:at] + struct.pack("<I", new % (1 << 32)) + whole[at + 4 :])
            as_reviewed(said_of(path))
