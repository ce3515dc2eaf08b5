"""What carving finds in built images whose map is gone, and how far it trusts it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kho_inspect.carve.carver import carve
from kho_inspect.model.identity import ClaimKind
from kho_inspect.model.provenance import DoubtKind, Trust
from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.carving import by_name, carved, content, doubts, lose, lose_map, sha256
from tests.support.cli import REPO
from tests.support.extracting import manifest
from tests.support.looking import open_image
from tests.support.luo_builder import File, Luo, Memfd, Session, pattern
from tests.support.running import document, in_process

SHIFTS = {"4K": 12, "16K": 14, "64K": 16}
WRITERS: dict[str, Callable[[Image, list[Session]], Luo]] = {
    "luo-v1": write.luo_v1,
    "luo-v5": write.luo_v5,
}


def memfd(image: Image, pages: int = 5, seed: int = 1, version: int = 2, **more: object) -> Memfd:
    size = pages * image.page_size - 100
    return write.memfd(image, pattern(size, seed), version=version, pos=seed, **more)  # type: ignore[arg-type]


def one_session(image: Image, *memfds: Memfd) -> Luo:
    files = [File(number, found) for number, found in enumerate(memfds, 1)]
    return write.luo_v5(image, [Session(b"vm", files)])


@pytest.mark.parametrize("page_size", SHIFTS)
@pytest.mark.parametrize("luo", WRITERS)
@pytest.mark.parametrize("version", [1, 2])
def test_files_come_back_without_a_map(page_size: str, luo: str, version: int) -> None:
    image = Image(SHIFTS[page_size])
    held = {
        (b"vm-%d" % session, token): memfd(image, 1 + 3 * token, 16 * session + token, version)
        for session in (1, 2)
        for token in (1, 2, 3)
    }
    sessions = [
        Session(name, [File(token, held[name, token]) for token in (1, 2, 3)])
        for name in (b"vm-1", b"vm-2")
    ]
    WRITERS[luo](image, sessions)
    lose_map(image)
    carving = carved(image)
    assert carving.geometry.page_size == image.page_size
    found = by_name(carving)
    assert set(found) == {
        "carved/blob/LUO",
        *(f"carved/LUO/{name.decode()}/{token:#x}" for name, token in held),
    }
    for (name, token), file in held.items():
        item = found[f"carved/LUO/{name.decode()}/{token:#x}"]
        assert content(image, item) == file.content
        assert item.provenance is not None
        assert item.provenance.trust is Trust.CONFIRMED
        assert item.provenance.doubts == ()
    assert [file.folios for file in carving.files] == [len(file.folios) for file in held.values()]


@pytest.mark.parametrize("luo", WRITERS)
def test_long_lists_of_sessions_files_and_folios_are_followed(luo: str) -> None:
    image = Image()
    many = [
        Session(b"s%d" % number, [File(at, memfd(image, 1, number << 8 | at)) for at in range(3)])
        for number in range(120)
    ]
    many.append(Session(b"wide", [File(at, memfd(image, 1, 1 << 20 | at)) for at in range(100)]))
    many.append(Session(b"large", [File(7, memfd(image, 600, 1 << 21))]))
    WRITERS[luo](image, many)
    lose_map(image)
    found = by_name(carved(image))
    assert len(found) == 1 + sum(len(session.files) for session in many)
    for session in many:
        for file in session.files:
            item = found[f"carved/LUO/{session.name.decode()}/{file.token:#x}"]
            assert item.provenance is not None
            assert item.provenance.doubts == ()
            assert file.memfd is not None
            assert content(image, item) == file.memfd.content


@pytest.mark.parametrize("luo", WRITERS)
def test_without_its_blob_a_session_is_likely(luo: str) -> None:
    image = Image()
    written = WRITERS[luo](image, [Session(b"vm", [File(1, memfd(image))])])
    lose_map(image)
    lose(image, written.blob)
    (item,) = by_name(carved(image)).values()
    assert item.provenance is not None
    assert item.provenance.trust is Trust.LIKELY
    kinds = [one.kind for one in item.provenance.structures]
    assert kinds[0] in (ClaimKind.SESSION_BLOCK, ClaimKind.SESSION_ARRAY)


@pytest.mark.parametrize("luo", WRITERS)
def test_without_sessions_the_list_names_its_files_and_without_it_the_descriptors(luo: str) -> None:
    image = Image()
    held = [memfd(image, 3, seed) for seed in (1, 2)]
    files = [File(0x10 + number, file) for number, file in enumerate(held)]
    written = WRITERS[luo](image, [Session(b"vm", files)])
    lose_map(image)
    lose(image, written.blob, *written.sessions.pages)
    found = by_name(carved(image))
    at = written.files[0].first
    assert set(found) == {f"carved/LUO@{at:#x}/0x10", f"carved/LUO@{at:#x}/0x11"}
    lose(image, *written.files[0].pages)
    alone = by_name(carved(image))
    assert set(alone) == {f"carved/LUO@{file.paddr:#x}" for file in held}
    for item in [*found.values(), *alone.values()]:
        assert item.provenance is not None
        assert item.provenance.trust is Trust.DOUBTFUL
        assert doubts(item) == {DoubtKind.UNNAMED}
    wanted = {sha256(file.content) for file in held}
    for some in (found, alone):
        assert {sha256(content(image, item)) for item in some.values()} == wanted


@pytest.mark.parametrize("luo", WRITERS)
@pytest.mark.parametrize("before", [1, 2])
def test_a_list_without_session_is_found_behind_files_of_unknown_handlers(
    luo: str, before: int
) -> None:
    image = Image()
    held = memfd(image)
    others = [File(number, data=0x77, compatible=b"vfio-pci-v9") for number in range(before)]
    written = WRITERS[luo](image, [Session(b"vm", [*others, File(0x10, held)])])
    lose_map(image)
    lose(image, written.blob, *written.sessions.pages)
    (item,) = [item for name, item in by_name(carved(image)).items() if "0x10" in name]
    assert content(image, item) == held.content
    assert doubts(item) == {DoubtKind.UNNAMED}
    image.write(written.files[0].entries[0], b"\x80")
    assert list(by_name(carved(image))) == [f"carved/LUO@{held.paddr:#x}"], "no name of a handler"


def test_large_folios_get_their_order_from_their_neighbours() -> None:
    image = Image()
    layout = [(0, 2), (4, 2), (8, 3), (16, 0), (17, 0), (18, 1), (20, 2)]
    file = memfd(image, 22, layout=layout)
    one_session(image, file)
    lose_map(image)
    item = by_name(carved(image))["carved/LUO/vm/0x1"]
    assert content(image, item) == file.content
    assert doubts(item) == {DoubtKind.FOLIO_LENGTH}
    assert item.provenance is not None
    assert item.provenance.trust is Trust.LIKELY


def test_a_hole_that_no_folio_fits_in_is_a_hole_and_a_doubt() -> None:
    image = Image()
    image.alloc(1)
    # Behind a page at an odd address no larger folio can begin.
    layout = [(1, 0), (5, 0), (6, 0)]
    file = memfd(image, 7, layout=layout)
    one_session(image, file)
    lose_map(image)
    item = by_name(carved(image))["carved/LUO/vm/0x1"]
    assert content(image, item) == file.content
    assert DoubtKind.HOLE in doubts(item)
    assert item.provenance is not None
    assert item.provenance.trust is Trust.DOUBTFUL


def test_a_folio_ends_where_another_folio_stands() -> None:
    """The gap in the file would fit an order of 2, but the next page is the file's as well."""
    image = Image()
    image.alloc(1, align=4 * image.page_size)
    image.alloc(3)
    file = memfd(image, 6, layout=[(0, 0), (4, 0), (5, 0)])
    assert file.folios[0].paddr % (4 * image.page_size) == 0
    one_session(image, file)
    lose_map(image)
    item = by_name(carved(image))["carved/LUO/vm/0x1"]
    assert content(image, item) == file.content


def test_a_copy_of_the_sessions_gives_each_file_once() -> None:
    image = Image()
    file = memfd(image)
    written = one_session(image, file)
    copy = image.alloc()
    image.write(copy, image.read(written.sessions.first, image.page_size))
    lose_map(image)
    lose(image, written.blob)
    (item,) = by_name(carved(image)).values()
    assert doubts(item) == {DoubtKind.COPY}
    assert content(image, item) == file.content


def test_two_sessions_for_one_list_leave_it_without_a_name() -> None:
    image = Image()
    written = one_session(image, memfd(image))
    copy = image.alloc()
    image.write(copy, image.read(written.sessions.first, image.page_size))
    image.write(copy + 16, b"other")
    lose_map(image)
    assert "carved/LUO/vm/0x1" in by_name(carved(image)), "the blob tells which is the right one"
    lose(image, written.blob)
    found = by_name(carved(image))
    assert list(found) == [f"carved/LUO@{written.files[0].first:#x}/0x1"]
    assert doubts(*found.values()) == {DoubtKind.AMBIGUOUS}


def test_two_lists_for_one_descriptor_leave_it_without_a_name() -> None:
    image = Image()
    file = memfd(image)
    write.luo_v5(image, [Session(b"a", [File(1, file)]), Session(b"b", [File(2, file)])])
    lose_map(image)
    found = by_name(carved(image))
    files = [name for name in found if "LUO" in name and "blob" not in name]
    assert len(files) == 1
    assert content(image, found[files[0]]) == file.content


def test_what_shares_folios_with_a_named_file_is_none() -> None:
    image = Image()
    file = memfd(image, 4)
    one_session(image, file)
    # A descriptor left over from an earlier try, whose folios were handed over since.
    stale = b"".join(write.u64(one.paddr >> 12 | 3 << 52, one.index) for one in file.folios)
    area = image.vmalloc(stale)
    image.blob(write.u64(0, 4 * 4096, 0, 4) + area)
    lose_map(image)
    carving = carved(image)
    assert set(by_name(carving)) == {"carved/blob/LUO", "carved/LUO/vm/0x1"}
    assert carving.rejected == {"has memory of what is more trusted": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 1), ("nr_folios", 3), ("nr_folios", 6), ("total_pages", 2), ("folios", 0x1234)],
)
def test_a_descriptor_whose_figures_disagree_is_none(name: str, value: int) -> None:
    image = Image()
    good, bad = memfd(image, 5, 1), memfd(image, 5, 2)
    if name == "total_pages":
        image.write(bad.fields[name], value.to_bytes(4, "little"))
    else:
        image.write_u64(bad.fields[name], value)
    one_session(image, good, bad)
    lose_map(image)
    found = by_name(carved(image))
    assert set(found) == {"carved/blob/LUO", "carved/LUO/vm/0x1"}


@pytest.mark.parametrize("what", ["table", "chunk"])
def test_what_stands_behind_the_last_entry_makes_a_descriptor_none(what: str) -> None:
    image = Image()
    good, bad = memfd(image, 5, 1), memfd(image, 5, 2)
    image.write(bad.area.pieces[0] + 4088 if what == "table" else bad.area.chunks[0] + 4088, b"x")
    one_session(image, good, bad)
    lose_map(image)
    carving = carved(image)
    assert set(by_name(carving)) == {"carved/blob/LUO", "carved/LUO/vm/0x1"}
    assert carving.rejected == {"memfd: table or chunk list goes on behind its end": 1}


@pytest.mark.parametrize("entry", [(1 << 51, 9), (0, 9), (5, 1)])
def test_a_table_with_a_folio_that_cannot_be_is_none(entry: tuple[int, int]) -> None:
    image = Image()
    good, bad = memfd(image, 5, 1), memfd(image, 10, 2, layout=[(0, 0), (1, 0)], extra=[entry])
    one_session(image, good, bad)
    lose_map(image)
    assert set(by_name(carved(image))) == {"carved/blob/LUO", "carved/LUO/vm/0x1"}


@pytest.mark.parametrize(
    ("word", "value"), [(0, 1 << 51 | 3 << 52), (0, 0), (0, 7 << 60), (1, 1 << 60), (1, 1), (1, 15)]
)
def test_a_few_damaged_entries_of_a_folio_table_cost_their_own_pages(word: int, value: int) -> None:
    image = Image()
    file = memfd(image, 16)
    one_session(image, file)
    at = file.area.pieces[0] + 16 * 5 + 8 * word
    image.write_u64(at, value)
    lose_map(image)
    item = by_name(carved(image))["carved/LUO/vm/0x1"]
    wanted = bytearray(file.content)
    wanted[5 * 4096 : 6 * 4096] = bytes(4096)
    assert content(image, item) == wanted
    assert {DoubtKind.FAULT, DoubtKind.HOLE} <= doubts(item)
    assert item.provenance is not None
    assert item.provenance.trust is Trust.DOUBTFUL
    for entry in (9, 12):
        image.write_u64(file.area.pieces[0] + 16 * entry + 8, 1 << 60)
    assert by_name(carved(image)) == {}, "too many are damaged"


def test_an_empty_file_is_believed_beside_others_only() -> None:
    image = Image()
    empty = write.memfd(image, b"")
    one_session(image, empty)
    lose_map(image)
    assert by_name(carved(image)) == {}
    image = Image()
    one_session(image, memfd(image), write.memfd(image, b""))
    lose_map(image)
    item = by_name(carved(image))["carved/LUO/vm/0x2"]
    assert item.size == 0
    assert doubts(item) == {DoubtKind.EMPTY}


def everything(image: Image) -> set[str]:
    """One of each kind; the selectors of all of it."""
    one_session(image, memfd(image))
    _, props = write.reserve_mem(image, 4)
    write.memblock(image, [(b"trace", props)])
    write.metadata(image, b"7.3.4", 2)
    write.kho_test(image, [(0, pattern(4096, 5)), (2, pattern(4 * 4096, 6))])
    blobs = {f"carved/blob/{name}" for name in ("LUO", "memblock", "kexec-metadata", "kho_test")}
    others = {"carved/reserve_mem/trace", "carved/kho_test/0", "carved/kho_test/1"}
    return {"carved/LUO/vm/0x1", *others, *blobs}


def test_blobs_regions_and_test_folios_come_back_too() -> None:
    image = Image()
    wanted = everything(image)
    image.finish()
    lose(image, *image.nodes)
    found = by_name(carved(image))
    assert set(found) == wanted
    for item in found.values():
        assert item.provenance is not None
        assert item.provenance.trust is Trust.CONFIRMED
    lose(image, image.fdt_paddr)
    found = by_name(carved(image))
    assert set(found) == wanted
    trust = {name: item.provenance and item.provenance.trust for name, item in found.items()}
    assert trust["carved/kho_test/0"] is Trust.LIKELY, "its checksum fits"
    assert trust["carved/blob/LUO"] is Trust.LIKELY, "it leads to sessions"
    assert trust["carved/reserve_mem/trace"] is Trust.DOUBTFUL


def test_test_folios_with_another_checksum_are_doubtful() -> None:
    image = Image()
    test = write.kho_test(image, [(0, pattern(4096, 5))])
    image.write(test.folios[0].paddr, b"reused")
    lose_map(image)
    found = by_name(carved(image))
    assert DoubtKind.CHECKSUM in doubts(found["carved/kho_test/0"])


def test_a_blob_whose_lists_are_recycled_comes_back_alone() -> None:
    image = Image()
    test = write.kho_test(image, [(0, pattern(4096, 5))])
    image.finish()
    assert test.area is not None
    lose(image, *test.area.chunks, *test.area.pieces)
    found = by_name(carved(image))
    assert list(found) == ["carved/blob/kho_test"]
    assert doubts(found["carved/blob/kho_test"]) == {DoubtKind.RECYCLED}


def save(image: Image, folder: Path) -> Path:
    image.write_elf(folder / "dump.elf", declare_ram=True)
    return folder / "dump.elf"


def test_what_is_not_in_the_dump_is_a_gap_and_speaks_against_nothing(tmp_path: Path) -> None:
    image = Image()
    file = memfd(image)
    one_session(image, file)
    lose_map(image)
    image.drop(file.folios[2].paddr)
    out = tmp_path / "out"
    result = in_process("extract", "--carved", save(image, tmp_path), "-o", out)
    assert result.status == 1
    item = manifest(out)["carved/LUO/vm/0x1"]
    assert item["gaps"] == [{"start": 8192, "end": 12288, "why": "not stored"}]
    assert item["doubts"] == ["1 folio not in the dump"]
    assert item["trust"] == "confirmed"


def test_selectors_choose_among_what_was_carved(tmp_path: Path) -> None:
    image = Image()
    wanted = everything(image)
    lose_map(image)
    dump = save(image, tmp_path)
    for number, (selectors, names) in enumerate(
        [
            ([], wanted),
            (["carved/LUO"], {"carved/LUO/vm/0x1"}),
            (["LUO/vm/1", "reserve_mem"], {"carved/LUO/vm/0x1", "carved/reserve_mem/trace"}),
            (["carved/kho_test/1"], {"carved/kho_test/1"}),
        ]
    ):
        out = tmp_path / str(number)
        result = in_process("extract", "--carved", dump, "auto", *selectors, "-o", out)
        assert result.status == 0, result.stderr
        assert set(manifest(out)) == names
    (one,) = (tmp_path / "1").glob("carved/LUO/vm/*")
    args = ["extract", "--carved", str(dump), "auto", "LUO/vm/1", "-o", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "kho_inspect", *args], cwd=REPO, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, one.read_bytes())
    result = in_process("extract", "--carved", dump, "auto", "LUO/none", "-o", tmp_path / "none")
    assert result.status == 2
    assert "nothing that was carved is called" in result.stderr
    assert not (tmp_path / "none").exists()


def test_what_a_tree_vouches_for_is_not_marked_as_carved(tmp_path: Path) -> None:
    image = Image()
    everything(image)
    dtb = tmp_path / "kho.dtb"
    dtb.write_bytes(image.finish())
    out = tmp_path / "out"
    assert in_process("extract", save(image, tmp_path), dtb, "-o", out).status == 0
    for name, item in manifest(out).items():
        assert not item["carved"]
        assert item["doubts"] == []
        assert not name.startswith("carved")


def test_carve_lists_files_with_their_sums_and_trust(tmp_path: Path) -> None:
    image = Image()
    file = memfd(image)
    one_session(image, file)
    lose_map(image)
    dump = save(image, tmp_path)
    found = document("carve", dump)
    assert found["source"]["page_size"] == 4096
    (entry,) = found["files"]
    assert entry["provenance"][-2] == {"structure": "memfd descriptor", "paddr": hex(file.paddr)}
    del entry["provenance"]
    assert entry == {
        "selector": "carved/LUO/vm/0x1",
        "size": len(file.content),
        "sha256": sha256(file.content),
        "carved": True,
        "trust": "confirmed",
        "doubts": [],
        "handler": "memfd-v2",
        "folios": 5,
    }
    assert [item["selector"] for item in found["items"]] == ["carved/blob/LUO"]
    shown = in_process("carve", dump)
    assert shown.status == 0
    assert "carved/LUO/vm/0x1" in shown.stdout
    assert "confirmed" in shown.stdout


def test_a_dump_without_any_of_it_yields_nothing(tmp_path: Path) -> None:
    image = Image()
    lose(image, *(image.alloc() for _ in range(64)))
    dump = save(image, tmp_path)
    result = in_process("carve", dump)
    assert result.status == 3
    assert "nothing in" in result.stdout
    result = in_process("extract", "--carved", dump, "-o", tmp_path / "out")
    assert result.status == 3
    assert not (tmp_path / "out").exists()


def test_a_session_that_the_user_knows_is_followed_though_it_counts_wrongly() -> None:
    image = Image()
    written = one_session(image, memfd(image))
    image.write_u64(written.sessions.entries[0] + 72, 9)
    lose_map(image)
    assert "carved/LUO/vm/0x1" not in by_name(carved(image))
    (item,) = by_name(carve(open_image(image, elf=True), sessions=written.sessions.first)).values()
    assert doubts(item) == {DoubtKind.SESSION_INCOMPLETE}
