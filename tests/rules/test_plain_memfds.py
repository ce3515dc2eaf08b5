"""Which memfds the rules look into one by one: those alone that are not as writers make them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kho_inspect.inspection import examine
from kho_inspect.rules.case import Case
from tests.support.builder import Image
from tests.support.luo_builder import DIRTY, UPTODATE, File, Memfd, Session, luo_v5, memfd, pattern
from tests.support.running import save

PAGE = 4096
BOTH = (DIRTY | UPTODATE) << 52


def case_of(image: Image, files: list[Memfd], folder: Path) -> Case:
    """A session with the files; their tokens are numbers from 0 on."""
    luo_v5(image, [Session(b"vm", [File(at, one) for at, one in enumerate(files)])])
    dump, dtb = save(image, folder, image.finish())
    return examine(str(dump), str(dtb))


def looked_into(image: Image, files: list[Memfd], folder: Path) -> list[int]:
    """Tokens of the files that are."""
    return [file.token for file, _ in case_of(image, files, folder).memfds.odd()]


def of_pages(image: Image, pages: int, short: int = 0) -> Memfd:
    """A memfd in folios of 4 pages, and of one for the rest; its end lacks ``short`` bytes."""
    large = [(index, 2) for index in range(0, pages - 3, 4)]
    layout = large + [(index, 0) for index in range(4 * len(large), pages)]
    return memfd(image, pattern(pages * PAGE, pages), layout=layout, size=pages * PAGE - short)


@pytest.mark.parametrize("step", [1, -1], ids=["rising", "falling"])
def test_no_memfd_of_a_writer_is_looked_into(step: int, tmp_path: Path) -> None:
    image = Image()
    files = [of_pages(image, pages, short) for pages in (1, 2, 4, 7, 8) for short in (0, 1, 4095)]
    files.append(memfd(image, b"x" * PAGE, layout=[(0, 2)]))
    assert looked_into(image, files[::step], tmp_path) == []


@pytest.mark.parametrize(
    ("entry", "word", "index"),
    [
        *((1, flags << 52, 4) for flags in (0, DIRTY, UPTODATE, 7)),
        *((1, BOTH, index) for index in (0, 3, 5, 6, 8, 1 << 51, (1 << 64) - 4)),
        *((0, BOTH, index) for index in (1, 4)),
        *((2, BOTH, index) for index in (0, 7, 9, 11, 12)),
    ],
)
def test_an_entry_unlike_a_writer_s_has_its_memfd_looked_into(
    entry: int, word: int, index: int, tmp_path: Path
) -> None:
    """Of 11 pages in folios of 4, 4 and three of 1."""
    image = Image()
    files = [of_pages(image, 11) for _ in range(3)]
    place = files[1].area.pieces[0] + 16 * entry
    pfn = image.read_u64(place) & ((1 << 52) - 1)
    image.write_u64(place, word | pfn, index)
    assert looked_into(image, files, tmp_path) == [1]


def test_a_folio_of_two_memfds_has_the_second_looked_into(tmp_path: Path) -> None:
    image = Image()
    files = [of_pages(image, 11) for _ in range(3)]
    image.write_u64(files[0].area.pieces[0] + 16, BOTH | files[1].folios[1].paddr // PAGE)
    assert looked_into(image, files, tmp_path) == [1]


@pytest.mark.parametrize("at", [1, 1 << 40])
def test_a_folio_of_no_block_has_its_memfd_looked_into(at: int, tmp_path: Path) -> None:
    image = Image()
    files = [of_pages(image, 11) for _ in range(3)]
    image.write_u64(files[1].area.pieces[0] + 16, BOTH | files[1].folios[1].paddr // PAGE + at)
    assert looked_into(image, files, tmp_path) == [1]


@pytest.mark.parametrize("size", [0, 1, 10 * PAGE, 11 * PAGE + 1, 12 * PAGE, (1 << 64) - 1])
def test_a_size_unlike_its_folios_has_its_memfd_looked_into(size: int, tmp_path: Path) -> None:
    image = Image()
    files = [of_pages(image, 11) for _ in range(3)]
    image.write(files[1].fields["size"], struct.pack("<Q", size))
    assert looked_into(image, files, tmp_path) == [1]


@pytest.mark.parametrize(("field", "bits", "found"), [("seals", 1 << 31, [2]), ("flags", -1, [1])])
def test_memfds_are_chosen_by_the_bits_that_are_asked_for(
    field: str, bits: int, found: list[int], tmp_path: Path
) -> None:
    image = Image()
    files = [
        memfd(image, b"x", seals=1),
        memfd(image, b"x", seals=2, flags=1 << 31),
        memfd(image, b"x", seals=1 << 31 | 1),
        memfd(image, b"x", version=1),
    ]
    case = case_of(image, files, tmp_path)
    assert [file.token for file, _ in case.memfds.with_bits(field, bits)] == found


@pytest.mark.parametrize(
    ("word", "index"),
    [(BOTH | 1 << 40, 0), (1 << 54 | 0x200, 0), (BOTH | 0x200, 1 << 52), (0, 0)],
    ids=["beyond RAM", "flags", "index", "zeros"],
)
@pytest.mark.parametrize("bad", [0, 2, 3, 4])
def test_a_table_of_mostly_impossible_entries_is_no_table(
    word: int, index: int, bad: int, tmp_path: Path
) -> None:
    image = Image()
    files = [memfd(image, pattern(4 * PAGE, 1)) for _ in range(2)]
    for entry in range(bad):
        image.write_u64(files[1].area.pieces[0] + 16 * entry, word, index)
    case = case_of(image, files, tmp_path)
    assert [file.token for file, _ in case.memfds.junk()] == [1] * (bad > 2)


def test_a_table_of_one_entry_is_a_table(tmp_path: Path) -> None:
    image = Image()
    file = memfd(image, b"x")
    image.write_u64(file.area.pieces[0], BOTH | 1 << 40)
    assert list(case_of(image, [file], tmp_path).memfds.junk()) == []
