"""What is not preserved, or not what was handed over, is marked in the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kho_inspect import intervals
from kho_inspect.model.contents import Piece
from kho_inspect.recover.evidence import Evidence
from kho_inspect.rules.statements import Capture, CaptureState
from tests.support import luo_builder as write
from tests.support.broken import BROKEN
from tests.support.builder import Image
from tests.support.extracting import Case, luo_case, manifest
from tests.support.luo_builder import File, Session
from tests.support.reference import Reference
from tests.support.running import in_process

PAGE = 4096


def put(folder: Path, *damages: str) -> tuple[Reference, tuple[str, str]]:
    """The reference with damage, and its files."""
    it = Reference()
    for code in damages:
        BROKEN[code].damage(it)
    return it, it.write(folder)


def extract(
    folder: Path, files: tuple[str, str], *args: str, status: int
) -> dict[str, dict[str, Any]]:
    """Items by selector."""
    result = in_process("extract", *files, *args, "-o", folder / "out")
    assert result.status == status, result.stderr
    return manifest(folder / "out")


def unpreserved(item: dict[str, Any]) -> list[tuple[int, int]]:
    """The gaps that are not preserved; there are no others."""
    assert {gap["why"] for gap in item["gaps"]} <= {"not preserved"}
    return [(gap["start"], gap["end"]) for gap in item["gaps"]]


# -- not preserved


def test_a_folio_whose_bit_is_cleared_is_a_gap_and_exit_1(tmp_path: Path) -> None:
    it, files = put(tmp_path, "KHO522")
    owner = it.memfds[522].owner
    result = in_process("extract", *files, owner, "-o", tmp_path / "out")
    assert result.status == 1
    assert "4 KiB not preserved" in result.stdout
    (item,) = manifest(tmp_path / "out").values()
    assert unpreserved(item) == [(PAGE, 2 * PAGE)]
    content = (tmp_path / "out" / item["file"]).read_bytes()
    assert content == write.pattern(2 * PAGE, 522), "the bytes that are there are written"
    assert sum(source["size"] for source in item["sources"]) == 2 * PAGE
    assert item["doubts"] == []


@pytest.mark.parametrize(
    ("code", "selector", "marked"),
    [
        ("KHO408", "blob/x408", (0, 64)),
        ("KHO409", "blob/x409", (PAGE, 2 * PAGE)),
        ("KHO603", "reserve_mem/r603", (0, PAGE)),
        ("KHO612", "kho_test/1", (0, 2 * PAGE)),
    ],
)
def test_whatever_is_not_preserved_is_a_gap_and_exit_1(
    code: str, selector: str, marked: tuple[int, int], tmp_path: Path
) -> None:
    _, files = put(tmp_path, code)
    (item,) = extract(tmp_path, files, selector, status=1).values()
    assert unpreserved(item) == [marked]
    assert item["doubts"] == []


def test_neighbours_in_the_file_that_are_not_preserved_are_one_gap(tmp_path: Path) -> None:
    image = Image()
    made = write.memfd(image, write.pattern(6 * PAGE, 1), size=5 * PAGE + 7)
    for at in (1, 2, 5):
        image.preserved.discard((made.folios[at].paddr, 0))
    case = luo_case(tmp_path, Session(b"vm", [File(1, made)]), image=image)
    item = case.extract("LUO", status=1)["LUO/vm/0x1"]
    assert unpreserved(item) == [(PAGE, 3 * PAGE), (5 * PAGE, 5 * PAGE + 7)]


def test_the_rest_of_a_large_folio_whose_key_is_cleared_is_not_just_a_hole(tmp_path: Path) -> None:
    """The order of a folio is in its key alone."""
    image = Image()
    made = write.memfd(image, write.pattern(12 * PAGE, 1), layout=[(0, 2), (8, 2)])
    image.preserved.discard((made.folios[1].paddr, 2))
    case = luo_case(tmp_path, Session(b"vm", [File(1, made)]), image=image)
    item = case.extract("LUO", status=1)["LUO/vm/0x1"]
    assert item["gaps"] == [
        {"start": 4 * PAGE, "end": 8 * PAGE, "why": "hole"},
        {"start": 8 * PAGE, "end": 9 * PAGE, "why": "not preserved"},
        {"start": 9 * PAGE, "end": 12 * PAGE, "why": "hole or not preserved"},
    ]


def test_what_is_neither_stored_nor_preserved_is_not_stored(tmp_path: Path) -> None:
    image = Image()
    start = image.alloc(2)
    for at in range(2):
        image.write(start + at * PAGE, b"x")
    case = Case(image, tmp_path, start + PAGE)
    (item,) = case.extract(f"range@{start:#x}-{start + 2 * PAGE:#x}", status=1).values()
    assert item["gaps"] == [
        {"start": 0, "end": PAGE, "why": "not preserved"},
        {"start": PAGE, "end": 2 * PAGE, "why": "not stored"},
    ]


def test_a_range_is_marked_but_what_was_asked_for(tmp_path: Path) -> None:
    image = Image()
    start = image.alloc(4)
    image.write(start, write.pattern(4 * PAGE, 1))
    image.preserve(start + PAGE, 0)
    case = Case(image, tmp_path)
    (item,) = case.extract(f"range@{start + 1:#x}-{start + 4 * PAGE - 1:#x}").values()
    assert unpreserved(item) == [(0, PAGE - 1), (2 * PAGE - 1, 4 * PAGE - 2)]
    assert case.content(item) == write.pattern(4 * PAGE, 1)[1:-1]


def test_a_vmalloc_area_that_is_not_preserved_is_a_gap_and_exit_1(tmp_path: Path) -> None:
    it, files = put(tmp_path, "KHO415")
    (item,) = extract(tmp_path, files, f"vmalloc@{it.memfds[415].chunk:#x}", status=1).values()
    assert unpreserved(item) == [(0, PAGE)]


@pytest.mark.parametrize("code", ["KHO202", "KHO203"])
def test_what_an_unreadable_part_of_the_map_may_preserve_is_not_marked(
    code: str, tmp_path: Path
) -> None:
    it = Reference()
    name = f"r{code[3:]}"
    it.image.write(it.start(name), write.pattern(2 * PAGE, 1))
    BROKEN[code].damage(it)
    (item,) = extract(tmp_path, it.write(tmp_path), f"reserve_mem/{name}", status=1).values()
    assert (item["size"], item["gaps"]) == (2 * PAGE, [])


def test_without_a_map_nothing_is_marked_as_not_preserved(tmp_path: Path) -> None:
    it = Reference()
    it.image.write(it.image.root, bytes(PAGE))
    (item,) = extract(tmp_path, it.write(tmp_path), "blob/LUO", status=0).values()
    assert (item["gaps"], item["doubts"]) == ([], [])
    capture = json.loads((tmp_path / "out" / "manifest.json").read_text())["capture"]
    assert capture["state"] == "incomplete"
    assert "zero" in capture["reasons"][0]


# -- not what was handed over


def test_all_that_comes_from_a_recycled_capture_is_in_doubt(tmp_path: Path) -> None:
    it, files = put(tmp_path, "KHO201")
    args = ("extract", *files, "LUO", "blob", "range@0x200000-0x201000", "-o", tmp_path / "out")
    shown = in_process(*args)
    assert (shown.status, "capture recycled" in shown.stdout) == (4, True)
    found = manifest(tmp_path / "out")
    assert {"blob/LUO", it.memfds[522].owner, "range@0x200000-0x201000"} <= set(found)
    for item in found.values():
        assert item["doubts"] == ["capture recycled"]
        assert not [gap for gap in item["gaps"] if gap["why"] == "not preserved"]
    written = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert written["capture"]["state"] == "recycled"
    assert f"{it.image.root:#x}" in written["capture"]["reasons"][0]
    printed = json.loads(in_process(*args, "--force", "--json").stdout)
    assert (printed["capture"], printed["items"]) == (written["capture"], written["items"])


def test_all_that_comes_from_a_dump_that_does_not_fit_is_in_doubt(tmp_path: Path) -> None:
    _, (_, dtb) = put(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("What went wrong?\n" * 400_000)
    (item,) = extract(tmp_path, (str(text), dtb), "range@0-0x1000", status=4).values()
    assert item["doubts"] == ["capture mismatch"]


def test_a_sound_capture_is_complete_without_doubts(tmp_path: Path) -> None:
    _, files = put(tmp_path)
    found = extract(tmp_path, files, "LUO", "blob", "kho_test", status=0)
    assert len(found) > 10
    assert not any(item["gaps"] or item["doubts"] for item in found.values())
    capture = json.loads((tmp_path / "out" / "manifest.json").read_text())["capture"]
    assert capture == {"state": "complete", "reasons": []}


# -- page by page

spans = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), max_size=6)
pieces = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 640), st.integers(1, 70)))


@given(spans, pieces)
def test_what_is_not_preserved_is_what_each_byte_says(
    gone: list[tuple[int, int]], placed: list[tuple[int, int, int]]
) -> None:
    merged = intervals.merge(*intervals.from_pairs((at, at + size) for at, size in gone))
    evidence = Evidence(Capture(CaptureState.COMPLETE), 4, merged)
    found = [
        (offset + byte, paddr + byte)
        for offset, paddr, size in evidence.not_preserved([Piece(*one) for one in placed])
        for byte in range(size)
    ]
    pages = {page for at, size in gone for page in range(at, at + size)}
    assert found == [
        (offset + byte, paddr + byte)
        for offset, paddr, size in placed
        for byte in range(size)
        if (paddr + byte) >> 4 in pages
    ]
