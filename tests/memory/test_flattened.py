"""makedumpfile's flattened format: rearranged as if the records were written one by one."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.errors import UnreadableInputError
from kho_inspect.memory import open_memory
from kho_inspect.memory.files import MappedFile
from kho_inspect.memory.flattened import FlattenedFile
from kho_inspect.units import Extent
from tests.memory.test_kdump import PAGES, refused, text_page
from tests.support.builder import Image
from tests.support.captures import HOME, unpack
from tests.support.kdump_writer import flatten, write_flattened, write_kdump

PAGE = 4096


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump.kdump"
    write_kdump(path, PAGES, known=range(0x105, 0x110))
    return path


def test_a_flattened_dump_reads_as_the_plain_one(dump: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flatten(dump, flat)
    memory, plain = open_memory(str(flat)), open_memory(str(dump))
    assert (memory.format, memory.notes) == ("kdump (flattened)", ())
    assert (memory.stored, memory.declared) == (plain.stored, plain.declared)
    for pfn, page in PAGES.items():
        assert memory.read(pfn * PAGE, PAGE) == page
    assert open_memory(str(flat), format_name="kdump").format == memory.format


def test_an_elf_core_may_be_flattened_too(tmp_path: Path) -> None:
    image = Image(ram=(0x100000, 0x40000))
    image.write(0x101000, text_page(1))
    image.write_elf(tmp_path / "core")
    flatten(tmp_path / "core", tmp_path / "flat")
    memory = open_memory(str(tmp_path / "flat"))
    assert memory.format == "elf (flattened)"
    assert memory.read(0x101000, PAGE) == text_page(1)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=0, max_size=90)), min_size=1),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 100)), max_size=10),
)
def test_any_records_read_as_if_written_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[int, bytes]],
    asked: list[tuple[int, int]],
) -> None:
    records = [*records, (0, b"x")]
    model = bytearray(400)
    written: set[int] = set()
    for at, data in records:
        model[at : at + len(data)] = data
        written.update(range(at, at + len(data)))
    path = tmp_path_factory.mktemp("flat") / "flat"
    write_flattened(path, records)
    file = FlattenedFile(MappedFile(str(path)))
    assert file.notes == ()
    size = max(at + len(data) for at, data in records if data)
    assert file.size == size
    assert bytes(file.view[:size]) == model[:size]
    for at, length in asked:
        assert bytes(file.view[at : at + length]) == model[:size][at : at + length]
        extents = list(file.data_extents(at, at + length))
        inside = {byte for start, end in extents for byte in range(start, end)}
        assert inside == {byte for byte in written if at <= byte < at + length}
        assert all(a[1] < b[0] for a, b in itertools.pairwise(extents))
        file.forget(at, at + length)


@pytest.mark.parametrize("start", [0, 1 << 30])
def test_more_than_64_mib_without_a_record_are_refused_with_their_size(
    start: int, tmp_path: Path
) -> None:
    gap = 64 << 20
    write_flattened(tmp_path / "flat", [(start, b"x" * PAGE), (start + PAGE + gap, b"y" * PAGE)])
    file = FlattenedFile(MappedFile(str(tmp_path / "flat")))
    whole = bytes(file.view[start : start + gap + 2 * PAGE])
    assert (whole[:PAGE], len(whole)) == (b"x" * PAGE, gap + 2 * PAGE)
    assert (whole[-PAGE:], whole[gap : gap + PAGE]) == (b"y" * PAGE, bytes(PAGE))
    write_flattened(
        tmp_path / "wide", [(start, b"x" * PAGE), (start + PAGE + 2 * gap, b"y" * PAGE)]
    )
    file = FlattenedFile(MappedFile(str(tmp_path / "wide")))
    with pytest.raises(UnreadableInputError, match=f"no data for 128 MiB of .* {start:#x}"):
        file.view[start : start + 2 * gap + 2 * PAGE]


def test_a_flattened_file_of_neither_format_is_refused_with_its_first_8_bytes(
    tmp_path: Path,
) -> None:
    write_flattened(tmp_path / "flat", [(0, b"01234567" * 1024)])
    with pytest.raises(UnreadableInputError, match=r"it starts with 3031323334353637$"):
        open_memory(str(tmp_path / "flat"))


def test_a_flattened_file_cut_short_is_noted(dump: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    data = dump.read_bytes()
    records = [(at, data[at : at + 3000]) for at in range(0, len(data), 3000)]
    write_flattened(flat, records)
    whole = flat.stat().st_size
    for cut, why in ((16, "no end marker"), (20, "2.9 KiB|bytes of"), (4000, " of ")):
        os.truncate(flat, whole - cut)
        memory = open_memory(str(flat))
        assert "cut short or damaged after" in memory.notes[0], why
        assert memory.read(0x101000, PAGE) == PAGES[0x101]


@pytest.mark.parametrize(
    ("records", "match"),
    [
        ([], "no record"),
        ([(0, b"")], "no record"),
        ([(-5, b"x" * 20)], "no record"),
        ([(0, b"something else")], "neither a kdump nor an ELF core"),
        ([(4096, b"late")], "neither a kdump nor an ELF core"),
    ],
)
def test_a_flattened_file_of_nothing_is_refused(
    dump: Path, records: list[tuple[int, bytes]], match: str
) -> None:
    write_flattened(dump, records)
    refused(dump, match)


def test_a_flattened_file_of_another_kind_is_refused(dump: Path) -> None:
    write_flattened(dump, [(0, b"x")], kind=2)
    refused(dump, "type 2, version 1")
    os.truncate(dump, 4000)
    refused(dump, "ends within its header")


def test_records_of_hardly_any_bytes_are_not_all_read(dump: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    end = dump.stat().st_size
    write_flattened(flat, [(0, dump.read_bytes()), *((end + at, b"x") for at in range(75_000))])
    memory = open_memory(str(flat))
    assert "they are of hardly any bytes each" in memory.notes[0]
    assert memory.size < end + 75_000
    assert memory.read(0x101000, PAGE) == PAGES[0x101]


def test_a_gap_of_terabytes_is_not_filled_with_zeros(dump: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    write_flattened(flat, [(0, dump.read_bytes()), (1 << 50, b"far")])
    file = FlattenedFile(MappedFile(str(flat)))
    with pytest.raises(UnreadableInputError, match="no data for"):
        file.view[0 : 1 << 50]
    assert open_memory(str(flat)).read(0x101000, PAGE) == PAGES[0x101]


# -- the real one, and peers that read the same


@pytest.fixture
def real(tmp_path: Path) -> Path:
    packed = HOME / "x86_64-kho-v2" / "dump.kdump-zlib.xz"
    if not packed.is_file():
        pytest.skip(f"no capture at {packed}: set KHO_CAPTURES to the folder of captures")
    unpack(packed, tmp_path / "real.kdump")
    unpack(packed.with_name("dump.raw.xz"), tmp_path / "dump.raw")
    return tmp_path / "real.kdump"


def test_a_kdump_that_qemu_wrote_holds_what_its_raw_dump_does(real: Path) -> None:
    memory = open_memory(str(real))
    raw = open_memory(str(real.with_name("dump.raw")))
    assert (memory.format, memory.notes) == ("kdump (flattened)", ())
    low = Extent(0, raw.size)
    inside = [extent for extent in memory.stored if low.contains(extent.start, extent.size)]
    assert sum(extent.size for extent in inside) > 100 << 20
    for extent in inside:
        for at in range(extent.start, extent.end, 1 << 20):
            size = min(1 << 20, extent.end - at)
            assert memory.read(at, size) == raw.read(at, size)


def test_makedumpfile_rearranges_to_the_same(real: Path, tmp_path: Path) -> None:
    tool = shutil.which("makedumpfile")
    if tool is None:
        pytest.skip("no makedumpfile here (Debian: makedumpfile)")
    with real.open("rb") as flat:
        subprocess.run(
            [tool, "-R", tmp_path / "rearranged"], stdin=flat, check=True, capture_output=True
        )
    ours, theirs = FlattenedFile(MappedFile(str(real))), (tmp_path / "rearranged").read_bytes()
    assert bytes(ours.view[: ours.size]) == theirs[: ours.size]
    assert not any(theirs[ours.size :])
