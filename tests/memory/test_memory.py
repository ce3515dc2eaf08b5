"""Where bytes come from: raw dumps, placed raw dumps and ELF cores, sound and odd."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kho_inspect.errors import NotStoredMemoryError, OutsideMemoryError, UnreadableInputError
from kho_inspect.memory import PhysicalMemory, Presence, RamBlock, mapped, open_memory, read_parts
from kho_inspect.memory.elf_core import notes_of
from kho_inspect.memory.files import MappedFile
from kho_inspect.memory.mapped import MappedMemory
from kho_inspect.units import Extent
from tests.fuzz.entries import BytesFile
from tests.support.builder import Image
from tests.support.dump_files import Segment, write_elf

PAGE = 4096
RAM = (0x100000, 0x40000)
U64 = np.dtype("<u8")


@pytest.fixture
def image() -> Image:
    """Three stored pages: two that touch, then a hole, then one more."""
    image = Image(ram=RAM)
    for paddr in (0x101000, 0x102000, 0x110000):
        image.write(paddr, paddr.to_bytes(8, "little") * (PAGE // 8))
    return image


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return tmp_path / "dump"


def words(*paddrs: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(paddrs, dtype=np.uint64)


def gather(memory: PhysicalMemory) -> None:
    page = np.dtype([("words", U64, PAGE // 8)])
    memory.gather(words(0x13F000), page)
    found = memory.gather(words(*range(0x101000, 0x103000, PAGE)), page)
    assert found["words"][:, 0].tolist() == [0x101000, 0x102000]


def read(memory: PhysicalMemory) -> None:
    assert memory.read(0x101000, 8) == (0x101000).to_bytes(8, "little")


def scan(memory: PhysicalMemory) -> None:
    chunks = memory.data_chunks(mapped.MAPPED, 0)
    assert any((0x101000).to_bytes(8, "little") in bytes(chunk) for _, chunk in chunks)


@pytest.mark.parametrize("use", [gather, read, scan])
def test_a_file_read_from_end_to_end_does_not_stay_resident(
    image: Image, dump: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[PhysicalMemory], None]
) -> None:
    monkeypatch.setattr(mapped, "MAX_MAPPED", 4 * mapped.MAPPED)
    image.write_raw(dump)
    memory = open_memory(str(dump))
    given_back: list[tuple[int, int]] = []
    monkeypatch.setattr(MappedFile, "forget", lambda _, *part: given_back.append(part))
    use(memory)
    assert given_back == []
    for _ in range(100):
        use(memory)
    assert given_back[0] == (0, sum(RAM))


def test_what_is_missing_of_a_range_is_told_page_by_page(image: Image, dump: Path) -> None:
    image.write_raw(dump)
    end = sum(RAM)
    parts = list(read_parts(open_memory(str(dump)), end - 0x1800, 0x3000))
    assert [(extent.start - end, extent.size, data is None) for extent, data in parts] == [
        (-0x1800, 0x800, False),
        (-0x1000, 0x1000, False),
        (0, 0x1000, True),
        (0x1000, 0x800, True),
    ]
    (whole,) = read_parts(open_memory(str(dump)), end - 0x1800, 0x1800)
    assert whole[0].size == len(whole[1] or b"") == 0x1800


# -- raw


def test_a_raw_offset_is_the_physical_address(image: Image, dump: Path) -> None:
    image.write_raw(dump)
    memory = open_memory(str(dump))
    assert (memory.format, memory.path, memory.size) == ("raw", str(dump), sum(RAM))
    assert memory.stored == memory.declared == (Extent(0, sum(RAM)),)
    assert bytes(memory.read(0x101FFC, 8)) == b"\0\0\0\0\x00\x20\x10\0"
    assert memory.read(0x103000, 16) == bytes(16)
    assert memory.notes == ()


def test_a_base_shifts_the_whole_file(image: Image, dump: Path) -> None:
    image.write_raw(dump, base=RAM[0])
    memory = open_memory(str(dump), base=RAM[0])
    assert memory.declared == (Extent(RAM[0], sum(RAM)),)
    assert bytes(memory.read(0x110000, 3)) == b"\0\0\x11"
    assert memory.presence(RAM[0] - 1, 2) is Presence.OUTSIDE
    assert memory.presence(0) is Presence.OUTSIDE


def test_reading_past_the_end_is_outside(image: Image, dump: Path) -> None:
    image.write_raw(dump)
    memory = open_memory(str(dump))
    with pytest.raises(OutsideMemoryError) as caught:
        memory.read(sum(RAM) - 4, 8)
    assert (caught.value.paddr, caught.value.size) == (sum(RAM) - 4, 8)
    assert memory.presence((1 << 64) - 1, 1 << 63) is Presence.OUTSIDE
    mask = memory.stored_mask(words(0, sum(RAM) - 8, sum(RAM) - 7, (1 << 64) - 1), 8)
    assert mask.tolist() == [True, True, False, False]


def test_an_item_that_ends_with_its_block_is_read_with_all_others(
    image: Image, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image.write_raw(dump)
    memory = open_memory(str(dump))
    ends = [extent.end - 8 for extent in memory.stored]
    wanted = [memory.read(paddr, 8) for paddr in ends]

    def one_by_one(self: MappedMemory, paddr: int, size: int) -> memoryview:
        raise AssertionError(f"{paddr:#x}")

    monkeypatch.setattr(MappedMemory, "read", one_by_one)
    found = memory.gather(np.array(ends, dtype=np.uint64), np.dtype("V8"))
    assert [bytes(item) for item in found] == [bytes(item) for item in wanted]


def test_a_base_too_high_for_the_file_is_refused(dump: Path) -> None:
    dump.write_bytes(bytes(2 * PAGE))
    assert open_memory(str(dump), base=(1 << 64) - 2 * PAGE).stored[0].end == 1 << 64
    with pytest.raises(UnreadableInputError, match="beyond 64 bits"):
        open_memory(str(dump), base=(1 << 64) - PAGE)


def test_the_last_of_several_blocks_too_high_for_64_bits_is_refused(dump: Path) -> None:
    dump.write_bytes(bytes(2 * PAGE))
    blocks = [RamBlock(0, 0, PAGE), RamBlock((1 << 64) - PAGE, PAGE, 2 * PAGE)]
    with pytest.raises(UnreadableInputError, match="8 KiB at 0xfffffffffffff000 end beyond 64"):
        open_memory(str(dump), blocks=blocks)


# -- blocks


def test_blocks_place_concatenated_ram(image: Image, dump: Path) -> None:
    placed = image.write_blocks(dump, [(0x101000, PAGE), (0x110000, PAGE)])
    memory = open_memory(str(dump), blocks=[RamBlock(*block) for block in placed])
    assert memory.stored == (Extent(0x101000, 0x102000), Extent(0x110000, 0x111000))
    assert bytes(memory.read(0x110000, 3)) == b"\0\0\x11"
    assert memory.presence(0x102000) is Presence.OUTSIDE


def test_reads_cross_blocks_that_touch_in_memory_but_not_in_the_file(
    image: Image, dump: Path
) -> None:
    placed = image.write_blocks(dump, [(0x102000, PAGE), (0x101000, PAGE)])
    memory = open_memory(str(dump), blocks=[RamBlock(*block) for block in placed])
    assert memory.stored == (Extent(0x101000, 0x103000),)
    assert bytes(memory.read(0x101FFC, 8)) == image.read(0x101FFC, 8)
    assert memory.read(0x101000, 2 * PAGE) == image.read(0x101000, 2 * PAGE)
    across = words(0x101000, 0x101FFC, 0x102FF8)
    assert memory.stored_mask(across, 8).all()
    expected = [int.from_bytes(image.read(paddr, 8), "little") for paddr in across.tolist()]
    assert memory.gather(across, U64).tolist() == expected


def test_gathering_memory_that_is_not_there_raises_as_reading_does(
    image: Image, dump: Path
) -> None:
    image.write_raw(dump)
    with pytest.raises(OutsideMemoryError):
        open_memory(str(dump)).gather(words(0x101000, 1 << 40), U64)


def test_a_block_past_the_end_of_the_file_is_noted_and_not_stored(dump: Path) -> None:
    dump.write_bytes(bytes(PAGE))
    blocks = [RamBlock(0, 0, PAGE // 2), RamBlock(0x10000, PAGE // 2, PAGE)]
    memory = open_memory(str(dump), blocks=blocks)
    assert len(memory.notes) == 1
    assert "0x10000" in memory.notes[0]
    assert memory.presence(0x10000, PAGE // 2) is Presence.STORED
    assert memory.presence(0x10000, PAGE) is Presence.NOT_STORED


def test_a_dump_that_stores_nothing_at_all_is_no_crash(dump: Path) -> None:
    dump.write_bytes(bytes(PAGE))
    memory = open_memory(str(dump), blocks=[RamBlock(0, 16 * PAGE, PAGE)])
    assert memory.presence(0) is Presence.NOT_STORED
    assert memory.stored_mask(words(0, PAGE), 8).tolist() == [False, False]


def test_overlapping_blocks_are_refused(dump: Path) -> None:
    dump.write_bytes(bytes(4 * PAGE))
    blocks = [RamBlock(0, 0, 2 * PAGE), RamBlock(PAGE, 2 * PAGE, PAGE)]
    with pytest.raises(UnreadableInputError, match="overlap at 0x1000"):
        open_memory(str(dump), blocks=blocks)


# -- ELF


def test_an_elf_core_goes_by_physical_address(image: Image, dump: Path) -> None:
    image.write_elf(dump, note=True)
    memory = open_memory(str(dump))
    assert memory.format == "elf"
    assert memory.stored == memory.declared
    assert memory.stored == (Extent(0x101000, 0x103000), Extent(0x110000, 0x111000))
    assert memory.read(0x101000, 2 * PAGE) == image.read(0x101000, 2 * PAGE)
    assert bytes(memory.read(0x110000, 3)) == b"\0\0\x11"


def test_memsz_beyond_filesz_is_declared_but_not_stored(image: Image, dump: Path) -> None:
    image.write_elf(dump, declare_ram=True)
    memory = open_memory(str(dump))
    assert memory.declared == (Extent(RAM[0], sum(RAM)),)
    assert memory.presence(0x101000, 2 * PAGE) is Presence.STORED
    assert memory.presence(0x103000) is Presence.NOT_STORED
    assert memory.presence(0x102FFF, 2) is Presence.NOT_STORED
    assert memory.presence(sum(RAM) - 1, 2) is Presence.OUTSIDE
    with pytest.raises(NotStoredMemoryError):
        memory.read(0x103000, 1)
    with pytest.raises(OutsideMemoryError):
        memory.read(sum(RAM), 1)
    assert memory.stored_mask(words(0x102000, 0x103000), PAGE).tolist() == [True, False]


def test_the_program_header_count_may_stand_in_section_0(image: Image, dump: Path) -> None:
    image.write_elf(dump, xnum=True)
    memory = open_memory(str(dump))
    assert len(memory.stored) == 2
    assert bytes(memory.read(0x110000, 3)) == b"\0\0\x11"


def test_an_extended_count_without_its_section_is_refused(image: Image, dump: Path) -> None:
    image.write_elf(dump)
    patch(dump, 56, b"\xff\xff")
    with pytest.raises(UnreadableInputError, match="PN_XNUM"):
        open_memory(str(dump))


def test_a_core_cut_short_says_so_and_keeps_what_is_there(image: Image, dump: Path) -> None:
    image.write_elf(dump)
    os.truncate(dump, dump.stat().st_size - PAGE)
    memory = open_memory(str(dump))
    assert len(memory.notes) == 1
    assert "cut short: 1 of 2" in memory.notes[0]
    assert memory.presence(0x110000) is Presence.NOT_STORED
    assert memory.read(0x101000, PAGE) == image.read(0x101000, PAGE)


def test_a_core_cut_short_in_its_headers_is_refused(image: Image, dump: Path) -> None:
    image.write_elf(dump)
    os.truncate(dump, 100)
    with pytest.raises(UnreadableInputError, match="run past the end"):
        open_memory(str(dump))
    os.truncate(dump, 40)
    with pytest.raises(UnreadableInputError, match="40 bytes"):
        open_memory(str(dump))


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        (5, b"\x02", "little-endian"),
        (4, b"\x01", "64-bit"),
        (16, b"\x02\0", "type 2"),
        (54, b"\x20\0", "e_phentsize"),
    ],
    ids=["big-endian", "ELF32", "ET_EXEC", "phentsize"],
)
def test_other_kinds_of_elf_are_refused(
    image: Image, dump: Path, offset: int, value: bytes, match: str
) -> None:
    image.write_elf(dump)
    patch(dump, offset, value)
    with pytest.raises(UnreadableInputError, match=match):
        open_memory(str(dump))


def test_an_elf_without_physical_memory_is_refused(dump: Path) -> None:
    write_elf(dump, [Segment((1 << 64) - 1, bytes(PAGE))], note=True)
    with pytest.raises(UnreadableInputError, match="no PT_LOAD"):
        open_memory(str(dump))


def test_of_overlapping_segments_the_lower_start_wins(dump: Path) -> None:
    segments = [Segment(0x1800, b"B" * 0x1000), Segment(0x1000, b"A" * 0x1000)]
    write_elf(dump, [*segments, Segment(0x1400, b"C" * 0x100)])
    memory = open_memory(str(dump))
    assert memory.stored == (Extent(0x1000, 0x2800),)
    assert memory.read(0x1000, 0x1800) == b"A" * 0x1000 + b"B" * 0x800
    assert memory.gather(words(0x1FFC), U64)[0].tobytes() == b"AAAABBBB"


def test_an_elf_core_of_declared_memory_alone_is_no_crash(dump: Path) -> None:
    write_elf(dump, [Segment(0x1000, b"", 0x1000)])
    memory = open_memory(str(dump))
    assert memory.presence(0x1000) is Presence.NOT_STORED
    assert memory.stored_mask(words(0x1000), 8).tolist() == [False]


def test_a_segment_at_the_top_of_the_address_space_is_clipped(dump: Path) -> None:
    write_elf(dump, [Segment((1 << 64) - 0x1000, b"T" * 0x2000)])
    memory = open_memory(str(dump))
    assert memory.stored == (Extent((1 << 64) - 0x1000, 1 << 64),)
    assert memory.gather(words((1 << 64) - 8), U64)[0].tobytes() == b"TTTTTTTT"
    assert memory.stored_mask(words((1 << 64) - 8, (1 << 64) - 7), 8).tolist() == [True, False]


def elf_of_notes(*segments: bytes) -> BytesFile:
    """An ELF core of nothing but note segments."""
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    fields = (ident, 4, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    headers, at = struct.pack("<16sHHIQQQIHHHHHH", *fields), 64 + 56 * len(segments)
    for data in segments:
        headers += struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(data), 0, 4)
        at += len(data)
    return BytesFile(headers + b"".join(segments))


def elf_note(name: bytes, desc: bytes) -> bytes:
    padded = [part + b"\0" * (-len(part) % 4) for part in (name, desc)]
    return struct.pack("<III", len(name), len(desc), 1) + b"".join(padded)


def test_notes_come_in_file_order_without_their_padding() -> None:
    notes = [(b"CORE\0", b"12345"), (b"", b""), (b"KHO-INSPECT\0", b"{}"), (b"abcd", b"x" * 8)]
    first, *others = (elf_note(*note) for note in notes)
    assert list(notes_of(elf_of_notes(first, b"", b"".join(others)))) == notes


def test_notes_that_run_past_their_segment_are_cut() -> None:
    for cut, desc in ((23, b"123"), (20, b""), (14, b"")):
        found = list(notes_of(elf_of_notes(elf_note(b"CORE\0", b"1234")[:cut])))
        assert found == [(b"CORE\0"[: cut - 12], desc)]
    huge = struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 1)
    assert list(notes_of(elf_of_notes(huge + b"CORE", bytes(11)))) == [(b"CORE", b"")]


def test_no_more_notes_are_read_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    note = elf_note(b"abcd", b"1234")
    monkeypatch.setattr("kho_inspect.memory.elf_core.MAX_NOTES", 2 * len(note) + 1)
    assert len(list(notes_of(elf_of_notes(note, note, note)))) == 2


# -- files


def test_a_sparse_file_of_terabytes_opens_and_reads(dump: Path) -> None:
    size = 4 << 40
    with dump.open("wb") as file:
        file.seek(size - PAGE)
        file.write(b"end.")
        file.truncate(size)
    memory = open_memory(str(dump))
    assert memory.size == size
    assert bytes(memory.read(size - PAGE, 4)) == b"end."
    chunks = list(memory.data_chunks(1 << 20, 0))
    assert [paddr for paddr, _ in chunks] == [size - PAGE]


def test_scanning_pieces_share_the_overlap(dump: Path) -> None:
    dump.write_bytes(bytes(range(256)) * 64)
    pieces = list(open_memory(str(dump), base=0x1000).data_chunks(PAGE, 7))
    assert [(paddr, len(data)) for paddr, data in pieces] == [
        (0x1000, PAGE + 7),
        (0x2000, PAGE + 7),
        (0x3000, PAGE + 7),
        (0x4000, PAGE),
    ]


@pytest.mark.parametrize("kind", ["fifo", "directory", "empty", "missing", "name with NUL"])
def test_what_is_no_dump_file_is_refused_in_words(dump: Path, kind: str) -> None:
    name = str(dump)
    if kind == "fifo":
        os.mkfifo(dump)
    elif kind == "directory":
        dump.mkdir()
    elif kind == "empty":
        dump.touch()
    elif kind == "name with NUL":
        name += "\0"
    with pytest.raises(UnreadableInputError) as caught:
        open_memory(name)
    assert caught.value.source == name
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"KDUMP   ", "kdump"),
        (b"makedumpfile\0", "kdump"),
        (b"EMiL\x02\0\0\0", "LiME"),
        (b"\xd0\x0d\xfe\xed\0\0\x01\0", "device tree"),
    ],
)
def test_a_known_other_format_is_not_taken_for_raw_memory(
    dump: Path, head: bytes, match: str
) -> None:
    dump.write_bytes(head.ljust(256, b"\0"))
    with pytest.raises(UnreadableInputError, match=match) as caught:
        open_memory(str(dump))
    assert caught.value.hint
    assert open_memory(str(dump), format_name="raw").size == 256


def test_ram_that_begins_with_a_device_tree_is_raw(dump: Path) -> None:
    dump.write_bytes(b"\xd0\x0d\xfe\xed\0\0\x01\0".ljust(1 << 20, b"\0"))
    assert open_memory(str(dump), base=0x40000000).format == "raw"


def test_a_base_for_an_elf_core_is_refused(image: Image, dump: Path) -> None:
    image.write_elf(dump)
    with pytest.raises(UnreadableInputError, match="--base"):
        open_memory(str(dump), base=0x1000)


def test_a_raw_dump_is_not_an_elf_core(image: Image, dump: Path) -> None:
    image.write_raw(dump)
    with pytest.raises(UnreadableInputError, match="not an ELF"):
        open_memory(str(dump), format_name="elf")


def patch(path: Path, offset: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value)
