"""Sizes, holes and missing memory: what a dump says costs no more than what it holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.support import luo_builder as write
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.extracting import Case, manifest
from tests.support.kdump_writer import write_kdump
from tests.support.luo_builder import File, Session
from tests.support.running import in_process, save

PAGE = 4096
HUGE = [1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def one_memfd(folder: Path, image: Image, memfd: write.Memfd, *drop: int) -> Case:
    write.luo_v5(image, [Session(b"vm", [File(1, memfd)])])
    return Case(image, folder, *drop)


def disk_use(out: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in out.rglob("*") if path.is_file())


def gaps_of(item: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(gap["start"], gap["end"], gap["why"]) for gap in item["gaps"]]


def test_a_sparse_file_is_sparse(tmp_path: Path) -> None:
    image, size = Image(), 64 << 20
    made = write.memfd(image, write.pattern(PAGE, 1), size=size)
    case = one_memfd(tmp_path, image, made)
    item = case.extract()["LUO/vm/0x1"]
    path = case.out / item["file"]
    assert path.stat().st_size == item["size"] == item["file_size"] == size
    assert path.stat().st_blocks * 512 <= 64 << 10
    assert gaps_of(item) == [(PAGE, size, "hole")]
    expected = hashlib.sha256(write.pattern(PAGE, 1) + bytes(size - PAGE)).hexdigest()
    assert item["sha256"] == expected


def test_a_size_in_the_middle_of_a_page_cuts_the_last_folio(tmp_path: Path) -> None:
    image = Image()
    made = write.memfd(image, write.pattern(8 * PAGE, 1), layout=[(0, 3)], size=5 * PAGE + 7)
    case = one_memfd(tmp_path, image, made)
    item = case.extract("LUO")["LUO/vm/0x1"]
    assert case.content(item) == write.pattern(8 * PAGE, 1)[: 5 * PAGE + 7]
    assert item["gaps"] == []


def test_folios_in_any_order_and_beyond_the_size(tmp_path: Path) -> None:
    image = Image()
    content = write.pattern(4 * PAGE, 1)
    made = write.memfd(image, content, layout=[(3, 0), (0, 0), (2, 0), (1, 0)], size=3 * PAGE)
    case = one_memfd(tmp_path, image, made)
    item = case.extract("LUO")["LUO/vm/0x1"]
    assert case.content(item) == content[: 3 * PAGE]


@pytest.mark.parametrize("size", HUGE)
def test_a_size_beyond_all_disks_costs_none(tmp_path: Path, size: int) -> None:
    image = Image()
    made = write.memfd(image, write.pattern(2 * PAGE, 1), size=size)
    case = one_memfd(tmp_path, image, made)
    item = case.extract()["LUO/vm/0x1"]
    assert item["size"] == size
    assert item["file_size"] in (size, 2 * PAGE)
    assert item["sha256"] is None or item["file_size"] != size
    assert gaps_of(item) == [(2 * PAGE, size, "hole")]
    with (case.out / item["file"]).open("rb") as file:
        assert file.read(2 * PAGE) == write.pattern(2 * PAGE, 1)
    assert disk_use(case.out) < 1 << 20


def test_an_index_beyond_all_disks_costs_none(tmp_path: Path) -> None:
    """A folio at 2^50 in a file of 2^60: where no disk has such a file, the item cannot be."""
    image = Image()
    made = write.memfd(image, write.pattern(PAGE, 1), size=1 << 60)
    image.write_u64(made.area.pieces[0] + 8, 1 << 38)
    case = one_memfd(tmp_path, image, made)
    result = in_process("extract", *case.files, "LUO", "-o", case.out)
    assert result.status in (0, 1)
    assert disk_use(case.out) < 1 << 20


@pytest.mark.parametrize("what", ["region", "blob", "kho_test", "memfd"])
def test_one_impossible_size_does_not_cost_the_others(tmp_path: Path, what: str) -> None:
    image = Image()
    start, props = write.reserve_mem(image, 1)
    size = props[2] if what != "region" else (b"size", write.u64(-1))
    write.memblock(image, [(b"trace", [*props[:2], size])])
    if what == "blob":
        image.subnode("vast", image.blob(b"x"), (1 << 64) - 1)
    elif what == "kho_test":
        made = write.kho_test(image, [(0, b"y")])
        assert made.area is not None
        image.write_u64(made.area.pieces[0], start | 52)
    elif what == "memfd":
        memfd = write.memfd(image, write.pattern(PAGE, 1), size=(1 << 64) - 1)
        image.write_u64(memfd.area.pieces[0] + 8, (1 << 51) + 5)
        write.luo_v5(image, [Session(b"vm", [File(1, memfd)])])
    write.metadata(image, b"7.3.4", 1)
    case = Case(image, tmp_path)
    result = in_process("extract", *case.files, "-o", case.out)
    assert result.status in (0, 1)
    assert (case.out / "blob" / "kexec-metadata").stat().st_size == 73
    assert (case.out / "manifest.json").exists()
    if what == "memfd":
        item = manifest(case.out)["LUO/vm/0x1"]
        assert item["sha256"] is None and item["file_size"] < item["size"]


def test_one_block_named_thousands_of_times_stays_within_the_budget(tmp_path: Path) -> None:
    image = Image()
    big = image.alloc(256, 256 * PAGE)
    image.preserve(big, 8)
    extra = [(big >> 12 | 3 << 52, 256 * number) for number in range(5000)]
    made = write.memfd(image, b"", size=5000 * 256 * PAGE, extra=extra)
    case = one_memfd(tmp_path, image, made)
    dump = case.files[0].stat().st_size
    item = case.extract("LUO", status=1)["LUO/vm/0x1"]
    assert item["size"] == 5000 << 20
    assert sum(source["size"] for source in item["sources"]) <= 2 * dump + (4 << 20)
    assert disk_use(case.out) <= 2 * dump + (8 << 20)
    assert {gap["why"] for gap in item["gaps"]} == {"more than the dump holds"}
    taken = [(source["offset"], source["offset"] + source["size"]) for source in item["sources"]]
    lost = [(start, end) for start, end, _ in gaps_of(item)]
    reach = 0
    for start, end in sorted([*taken, *lost]):
        assert start == reach  # each byte of the file is in the dump, or in one gap
        reach = end
    assert reach == item["size"]


def test_a_test_folio_named_thousands_of_times_is_one_file(tmp_path: Path) -> None:
    image = Image()
    page = image.alloc()
    image.preserve(page, 0)
    info = image.vmalloc(write.u64(*[page] * 5000))
    data = [(b"nr_folios", u32(5000)), (b"folios_info", info), (b"csum", u32(0))]
    root = [(b"compatible", b"kho-test-v1\0"), (b"magic", u32(write.KHO_TEST_MAGIC))]
    blob = fdt_blob(Tree(b"", root, [Tree(b"data", data)]))
    image.subnode("kho_test", image.blob(blob), len(blob))
    dump, dtb = save(image, tmp_path, image.finish())
    out = tmp_path / "out"
    in_process("extract", dump, dtb, "kho_test", "-o", out)
    assert [path.name for path in (out / "kho_test").iterdir()] == ["0"]


def test_many_large_holes_are_not_all_hashed(tmp_path: Path) -> None:
    """Of 256 MiB at the most; a file with more of them costs the others none of it."""
    image = Image()
    sizes = [4 << 30, 100 << 20, 100 << 20, 100 << 20]
    made = [write.memfd(image, b"", size=size) for size in sizes]
    write.luo_v5(image, [Session(b"vm", [File(token, one) for token, one in enumerate(made)])])
    found = Case(image, tmp_path).extract("LUO")
    zeros = hashlib.sha256(bytes(100 << 20)).hexdigest()
    assert [item["sha256"] for item in found.values()] == [None, zeros, zeros, None]


# -- memory that the dump does not hold


def test_folios_that_are_not_stored_are_gaps_and_exit_1(tmp_path: Path) -> None:
    image = Image()
    content = write.pattern(4 * PAGE, 1)
    made = write.memfd(image, content)
    case = one_memfd(tmp_path, image, made, made.folios[1].paddr, made.folios[3].paddr)
    found = case.extract(status=1)
    item = found["LUO/vm/0x1"]
    assert gaps_of(item) == [(PAGE, 2 * PAGE, "not stored"), (3 * PAGE, 4 * PAGE, "not stored")]
    assert item["size"] == item["file_size"] == 4 * PAGE
    data = case.content(item)
    assert data[:PAGE] == content[:PAGE]
    assert data[2 * PAGE : 3 * PAGE] == content[2 * PAGE : 3 * PAGE]
    assert [source["offset"] for source in item["sources"]] == [0, 2 * PAGE]
    others = [one for selector, one in found.items() if not selector.startswith("LUO/")]
    assert not any(one["gaps"] for one in others)


def test_a_folio_that_does_not_unpack_is_a_gap_and_costs_no_other(tmp_path: Path) -> None:
    image = Image()
    content = write.pattern(4 * PAGE, 1)
    made = write.memfd(image, content, layout=[(3, 0), (0, 0), (2, 0), (1, 0)])
    case = one_memfd(tmp_path, image, made)
    layout = write_kdump(case.files[0], {at // PAGE: bytes(it) for at, it in image.pages.items()})
    with case.files[0].open("r+b") as dump:
        dump.seek(layout.descriptors + 24 * sorted(image.pages).index(made.folios[2].paddr))
        dump.seek(int.from_bytes(dump.read(8), "little"))
        dump.write(b"no zlib stream")
    item = case.extract("LUO", status=1)["LUO/vm/0x1"]
    assert gaps_of(item) == [(2 * PAGE, 3 * PAGE, "not stored")]
    assert case.content(item) == content[: 2 * PAGE] + bytes(PAGE) + content[3 * PAGE :]


def test_folios_outside_memory_are_gaps_and_exit_1(tmp_path: Path) -> None:
    image = Image()
    wild = [((1 << 40) | 3 << 52, 1), ((1 << 52) - 1, 2)]
    made = write.memfd(image, write.pattern(PAGE, 1), size=3 * PAGE, extra=wild)
    case = one_memfd(tmp_path, image, made)
    item = case.extract("LUO", status=1)["LUO/vm/0x1"]
    assert gaps_of(item) == [(PAGE, 3 * PAGE, "outside")]
    assert case.content(item) == write.pattern(PAGE, 1) + bytes(2 * PAGE)


def test_a_range_outside_memory_is_a_gap_and_exit_1(tmp_path: Path) -> None:
    case = Case(Image(), tmp_path)
    for text in (
        "range@0x10000000000-0x10000001000",
        "range@0xfffffffffffff000-0xffffffffffffffff",
    ):
        item = case.extract(text, "--force", status=1)[text]
        assert len(item["gaps"]) == 1
        assert item["sources"] == []
        (case.out / item["file"]).unlink()


@pytest.mark.parametrize("order", [3, 5])
def test_only_the_missing_page_of_a_folio_is_missing(tmp_path: Path, order: int) -> None:
    image = Image()
    content = write.pattern(PAGE << order, 1)
    made = write.memfd(image, content, layout=[(0, order)])
    case = one_memfd(tmp_path, image, made, made.folios[0].paddr + 2 * PAGE)
    item = case.extract("LUO", status=1)["LUO/vm/0x1"]
    assert gaps_of(item) == [(2 * PAGE, 3 * PAGE, "not stored")]
    expected = content[: 2 * PAGE] + bytes(PAGE) + content[3 * PAGE :]
    assert case.content(item) == expected


def test_a_folio_not_stored_at_all_in_a_large_file(tmp_path: Path) -> None:
    """A block larger than what is copied at once: every part of it is one gap or the other."""
    image = Image()
    big = image.alloc(2048, 2048 * PAGE)
    image.preserve(big, 11)
    made = write.memfd(image, b"", size=2048 * PAGE, extra=[(big >> 12 | 3 << 52, 0)])
    lost = [big + at * PAGE for at in range(1024, 2048)]
    case = one_memfd(tmp_path, image, made, *lost)
    item = case.extract("LUO", status=1)["LUO/vm/0x1"]
    assert gaps_of(item) == [(1024 * PAGE, 2048 * PAGE, "not stored")]
    assert [(one["offset"], one["size"]) for one in item["sources"]] == [(0, 1024 * PAGE)]


def test_a_blob_that_is_not_stored_is_a_gap(tmp_path: Path) -> None:
    image = Image()
    blob = write.metadata(image, b"7.3.4", 1)
    case = Case(image, tmp_path, blob)
    item = case.extract(status=1)["blob/kexec-metadata"]
    assert gaps_of(item) == [(0, 73, "not stored")]
    assert (item["size"], item["sources"]) == (73, [])
