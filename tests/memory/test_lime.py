"""LiME dumps: sound ones, broken chains of headers, and the variants without any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kho_inspect.errors import UnreadableInputError
from kho_inspect.memory import Presence, open_memory
from kho_inspect.memory.lime import MAX_RANGES
from kho_inspect.units import Extent
from tests.support.kdump_writer import lime_header, write_lime

PAGE = 4096
RANGES = [(0x1000, b"A" * 0x9EC00), (0x100000, b"B" * PAGE), (0x101000, b"C" * PAGE)]


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump.lime"
    write_lime(path, RANGES)
    return path


def test_ranges_are_placed_by_their_headers(dump: Path) -> None:
    memory = open_memory(str(dump))
    assert (memory.format, memory.notes) == ("lime", ())
    assert memory.stored == memory.declared
    assert memory.stored == (Extent(0x1000, 0x9FC00), Extent(0x100000, 0x102000))
    assert bytes(memory.read(0x100FFC, 8)) == b"BBBBCCCC"
    assert bytes(memory.read(0x9FBFF, 1)) == b"A"
    assert memory.presence(0x9FC00) is Presence.OUTSIDE
    assert open_memory(str(dump), format_name="lime").stored == memory.stored


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 300), st.binary(min_size=1, max_size=4)),
        min_size=1,
        max_size=8,
    )
)
def test_any_ranges_read_back(
    tmp_path_factory: pytest.TempPathFactory, shape: list[tuple[int, int, bytes]]
) -> None:
    at, ranges = 0, []
    for gap, length, pattern in shape:
        at += gap
        ranges.append((at, (pattern * length)[:length]))
        at += length
    dump = tmp_path_factory.mktemp("lime") / "dump"
    write_lime(dump, ranges)
    memory = open_memory(str(dump))
    assert [(e.start, e.size) for e in memory.stored] == [(at, len(data)) for at, data in ranges]
    assert all(bytes(memory.read(at, len(data))) == data for at, data in ranges)


def test_a_range_may_end_with_the_address_space(dump: Path) -> None:
    write_lime(dump, [((1 << 64) - PAGE, b"T" * PAGE)])
    assert open_memory(str(dump)).stored == (Extent((1 << 64) - PAGE, 1 << 64),)


def test_a_last_range_cut_short_is_noted(dump: Path) -> None:
    os.truncate(dump, dump.stat().st_size - 1000)
    memory = open_memory(str(dump))
    assert len(memory.notes) == 1
    assert "cut short: of the range at 0x101000, 3.0 KiB of 4 KiB" in memory.notes[0]
    assert memory.presence(0x101000, PAGE) is Presence.NOT_STORED
    assert bytes(memory.read(0x101000, 3096)) == b"C" * 3096


HEADER_2 = 2 * 32 + 0x9EC00 + PAGE
"""File offset of the third header."""


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (lime_header(0, 4095, magic=0x4C694D46), "magic of the range header .* is 0x4c694d46"),
        (lime_header(0x101000, 0x101FFF, version=2), "is of version 2, should be 1"),
        (lime_header(0x101000, 0x100FFF), "ends at 0x100fff, before it starts"),
        (b"EMiL", "is cut short"),
    ],
    ids=["magic", "version", "backwards", "half a header"],
)
def test_a_broken_chain_is_noted_and_what_came_before_is_read(
    dump: Path, header: bytes, why: str
) -> None:
    if len(header) == 4:
        os.truncate(dump, HEADER_2 + 4)
    with dump.open("r+b") as file:
        file.seek(HEADER_2)
        file.write(header)
    memory = open_memory(str(dump))
    assert len(memory.notes) == 1
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(memory.notes[0])
    assert f"{HEADER_2:#x}" in memory.notes[0]
    assert "after 2 ranges" in memory.notes[0]
    assert memory.stored == (Extent(0x1000, 0x9FC00), Extent(0x100000, 0x101000))


@pytest.mark.parametrize(
    "content",
    [b"EMiL", lime_header(5, 4), lime_header(0, 9, 1, 1)],
    ids=["magic alone", "backwards", "no magic"],
)
def test_what_only_looks_like_lime_is_refused(dump: Path, content: bytes) -> None:
    dump.write_bytes(content)
    with pytest.raises(UnreadableInputError, match="LiME") as caught:
        open_memory(str(dump), format_name="lime")
    assert "padded format is a raw dump" in (caught.value.hint or "")
    assert "/proc/iomem with --map" in (caught.value.hint or "")


def test_a_file_of_nothing_but_headers_ends_somewhere(dump: Path) -> None:
    one = lime_header(0, 0) + b"x"
    dump.write_bytes(lime_header(0, 4095) + bytes(4096) + one * (MAX_RANGES + 10))
    memory = open_memory(str(dump))
    assert "more than 16,384 ranges" in memory.notes[0]


def test_a_base_for_a_lime_file_is_refused(dump: Path) -> None:
    with pytest.raises(UnreadableInputError, match="--base and --map"):
        open_memory(str(dump), base=PAGE)


def test_avml_with_compression_is_named(dump: Path) -> None:
    dump.write_bytes(b"AVML\x02\0\0\0".ljust(4096, b"\0"))
    with pytest.raises(UnreadableInputError, match="AVML") as caught:
        open_memory(str(dump))
    assert "avml-convert" in (caught.value.hint or "")
