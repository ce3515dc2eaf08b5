"""Recovering content: what comes out is right, and nothing lands where it should not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kho_inspect.inspection import inspect_opened, open_inputs
from kho_inspect.model.identity import Owner, Subsystem
from kho_inspect.recover import extract as extraction
from kho_inspect.recover import selectors as selection
from kho_inspect.render.names import owner_name
from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.captures import Capture
from tests.support.cli import Result, kho_inspect
from tests.support.extracting import Case, files_in, luo_case, manifest
from tests.support.luo_builder import File, Session
from tests.support.running import in_process

PAGE = 4096


def rich(folder: Path) -> tuple[Case, dict[str, bytes]]:
    """A handover with one of everything, and the content under each selector."""
    image = Image()
    files = [
        File(0x1001, write.memfd(image, write.pattern(3 * PAGE + 5, 1))),
        File(7, write.memfd(image, write.pattern(9 * PAGE, 2), layout=[(0, 1), (6, 1)])),
    ]
    other = File(0x1001, write.memfd(image, write.pattern(2 * PAGE, 4)))
    write.luo_v5(image, [Session(b"vm/a", files), Session(b"vm", [other])])
    start, props = write.reserve_mem(image, 2)
    write.memblock(image, [(b"trace", props)])
    test = write.kho_test(image, [(0, b"one"), (1, b"two")])
    release = write.metadata(image, b"7.3.4", 1)
    contents = {
        "LUO/vm%2Fa/0x1001": files[0].memfd,
        "LUO/vm%2Fa/0x7": files[1].memfd,
        "LUO/vm/0x1001": other.memfd,
    }
    expected = {selector: memfd.content for selector, memfd in contents.items() if memfd}
    expected["reserve_mem/trace"] = image.read(start, 2 * PAGE)
    expected["blob/kexec-metadata"] = image.read(release, 73)
    for number, folio in enumerate(test.folios):
        expected[f"kho_test/{number}"] = image.read(folio.paddr, PAGE << folio.order)
    return Case(image, folder), expected


# -- real captures


def test_captures_give_back_every_memfd(capture: Capture, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ("extract", capture.dump, capture.dtb, "-o", out, "--base", hex(capture.base))
    assert in_process(*args).status == 0
    found = manifest(out)
    for item in found.values():
        assert not item["doubts"]
        assert {gap["why"] for gap in item["gaps"]} <= {"hole"}
    wanted: dict[str, tuple[str, int]] = {}
    for node in capture.truth["subnodes"]:
        blob = Owner(Subsystem.SUBNODE, (node["name"],))
        wanted[owner_name(blob)] = node["sha256"], node["size"]
        for session in node.get("luo", {"sessions": []})["sessions"]:
            for file in session["files"]:
                owner = Owner(Subsystem.LUO, (session["name"], file["token"]))
                wanted[owner_name(owner)] = file["memfd"]["sha256"], file["memfd"]["size"]
    for selector, (digest, size) in wanted.items():
        item = found.pop(selector)
        assert (item["sha256"], item["size"], item["file_size"]) == (digest, size, size)
        assert item["gaps"] == []
        assert sum(source["size"] for source in item["sources"]) == size
    others = {selector.split("/")[0] for selector in found}
    assert others == {"kho_test", "reserve_mem"}


# -- selectors


def test_everything_and_the_manifest(tmp_path: Path) -> None:
    case, expected = rich(tmp_path)
    found = case.extract()
    assert set(found) == {*expected, "blob/LUO", "blob/memblock", "blob/kho_test"}
    for selector, content in expected.items():
        assert case.content(found[selector]) == content
    item = found["LUO/vm%2Fa/0x7"]
    keys = ["selector", "given_name", "file", "size", "file_size", "sha256", "sources", "gaps"]
    assert list(item) == [*keys, "carved", "doubts"]
    assert not any(one["doubts"] for one in found.values())
    assert [(one["offset"], one["size"]) for one in item["sources"]] == [
        (0, 2 * PAGE),
        (6 * PAGE, 2 * PAGE),
    ]
    assert item["gaps"] == [
        {"start": 2 * PAGE, "end": 6 * PAGE, "why": "hole"},
        {"start": 8 * PAGE, "end": 9 * PAGE, "why": "hole"},
    ]
    image = case.files[0].read_bytes()
    for source in item["sources"]:
        content = expected["LUO/vm%2Fa/0x7"][source["offset"] :][: source["size"]]
        assert content in image
        assert source["paddr"].startswith("0x")


@pytest.mark.parametrize(
    ("selectors", "wanted"),
    [
        (["LUO/vm%2Fa/0x1001"], ["LUO/vm%2Fa/0x1001"]),
        (["LUO/vm%2Fa/4097"], ["LUO/vm%2Fa/0x1001"]),
        (["LUO/vm%2Fa"], ["LUO/vm%2Fa/0x1001", "LUO/vm%2Fa/0x7"]),
        (["LUO/vm/a/0x1001"], ["LUO/vm%2Fa/0x1001"]),
        (["LUO/vm/a/4097"], ["LUO/vm%2Fa/0x1001"]),
        (["LUO/vm/a"], ["LUO/vm%2Fa/0x1001", "LUO/vm%2Fa/0x7"]),
        (["LUO/vm"], ["LUO/vm/0x1001"]),
        (["LUO"], ["LUO/vm%2Fa/0x1001", "LUO/vm%2Fa/0x7", "LUO/vm/0x1001"]),
        (["reserve_mem"], ["reserve_mem/trace"]),
        (["reserve_mem/trace", "blob/LUO", "reserve_mem"], ["reserve_mem/trace", "blob/LUO"]),
        (["kho_test/1"], ["kho_test/1"]),
        (["range@0x100000-0x102000"], ["range@0x100000-0x102000"]),
        (["range@1M-1028K"], ["range@0x100000-0x101000"]),
        (["range@1M+4K"], ["range@0x100000-0x101000"]),
        (["1M-1028K"], ["range@0x100000-0x101000"]),
        (["0x100000+4K"], ["range@0x100000-0x101000"]),
        (["LUO/vm*"], ["LUO/vm%2Fa/0x1001", "LUO/vm%2Fa/0x7", "LUO/vm/0x1001"]),
        (["*/0x1001"], ["LUO/vm%2Fa/0x1001", "LUO/vm/0x1001"]),
        (["*/4097"], ["LUO/vm%2Fa/0x1001", "LUO/vm/0x1001"]),
        (["LUO/vm?a"], ["LUO/vm%2Fa/0x1001", "LUO/vm%2Fa/0x7"]),
        (["*/kexec-*", "?ho_test"], ["blob/kexec-metadata", "kho_test/0", "kho_test/1"]),
    ],
)
def test_selectors(tmp_path: Path, selectors: list[str], wanted: list[str]) -> None:
    case, expected = rich(tmp_path)
    found = case.extract(*selectors)
    assert list(found) == wanted
    for selector in wanted:
        if selector in expected:
            assert case.content(found[selector]) == expected[selector]


def test_a_vmalloc_area_by_its_first_chunk_or_its_descriptor(tmp_path: Path) -> None:
    image = Image()
    made = write.memfd(image, write.pattern(300 * PAGE, 3))
    table = b"".join(image.read(piece, PAGE) for piece in made.area.pieces)
    case = luo_case(tmp_path, Session(b"vm", [File(1, made)]), image=image)
    places = [made.area.chunks[0], made.fields["folios"]]
    for place in places:
        (item,) = case.extract(f"vmalloc@{place:#x}", "--force").values()
        assert case.content(item) == table
        (case.out / item["file"]).unlink()


@pytest.mark.parametrize(
    "selector",
    [
        "LUO/vm/b",
        "LUO/%FF",
        "LUO/vm/a/0x1002",
        "LUO/v",
        "LUO/vm/0x1001#2",
        "LUO/vm/0x1001#x",
        "LUO/vm/0x1001#\u0663",
        "LUO/vm/0x1001#",
        "LUO/vm/0x1001#" + "9" * 5000,
        "blob/",
        "",
        "/",
        "nothing",
        "kho_test/-1",
        "range@",
        "range@0x2000-0x1000",
        "range@0x1000",
        "range@a-b",
        "0x2000-0x1000",
        "0x1000",
        "range@1-2-3",
        "range@1+2-3",
        "range@0x1000+0",
        "range@2+0xffffffffffffffff",
        "LUO/wm*",
        "*x1001?",
        "LUO/[a-z]*",
        "vmalloc@",
        "vmalloc@0x100000",
        "vmalloc@0xffffffffffffffff",
        "vmalloc@x",
        "../../etc/passwd",
    ],
)
def test_an_unknown_selector_is_exit_2_and_writes_nothing(tmp_path: Path, selector: str) -> None:
    case, _ = rich(tmp_path)
    result = in_process("extract", *case.files, selector, "-o", case.out)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr.startswith("kho-inspect: ")
    assert not case.out.exists()


def test_an_unknown_name_hints_at_what_there_is(tmp_path: Path) -> None:
    case, _ = rich(tmp_path)
    result = in_process("extract", *case.files, "LUO/nobody", "-o", case.out)
    assert result.stderr.splitlines() == [
        "kho-inspect: no 'LUO/nobody' in this handover",
        "  try: there are blob/LUO, LUO/vm%2Fa/0x1001, LUO/vm%2Fa/0x7, LUO/vm/0x1001, "
        "blob/memblock, reserve_mem/trace, …",
    ]


def test_a_decimal_token_without_end_is_exit_2(tmp_path: Path) -> None:
    case, _ = rich(tmp_path)
    assert in_process("extract", *case.files, "LUO/vm/" + "9" * 5000, "-o", case.out).status == 2


def test_orphans_are_extracted_as_ranges(tmp_path: Path) -> None:
    image = Image()
    stray = image.alloc(2, 2 * PAGE)
    image.preserve(stray, 1)
    image.write(stray + PAGE, b"forgotten")
    case = Case(image, tmp_path)
    (item,) = case.extract().values()
    assert item["selector"] == f"range@{stray:#x}-{stray + 2 * PAGE:#x}"
    assert case.content(item) == bytes(PAGE) + b"forgotten" + bytes(PAGE - 9)


# -- overwriting


def test_what_exists_is_left_alone_without_force(tmp_path: Path) -> None:
    case, _ = rich(tmp_path)
    case.extract("blob")
    path = case.out / "blob" / "LUO"
    before = path.read_bytes()
    path.write_bytes(b"mine")
    result = in_process("extract", *case.files, "-o", case.out)
    assert result.status == 3
    assert "exists" in result.stderr
    assert "--force" in result.stderr
    assert path.read_bytes() == b"mine"
    assert not (case.out / "LUO").exists(), "written before the refusal"
    found = in_process("extract", *case.files, "-o", case.out, "--force")
    assert found.status == 0
    assert path.read_bytes() == before
    manifest(case.out)


def test_a_manifest_in_the_way_counts_too(tmp_path: Path) -> None:
    case, _ = rich(tmp_path)
    case.out.mkdir(parents=True)
    (case.out / "manifest.json").symlink_to(tmp_path / "elsewhere")
    result = in_process("extract", *case.files, "-o", case.out)
    assert result.status == 3
    assert "manifest.json exists" in result.stderr


def test_force_replaces_a_symbolic_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    case, _ = rich(tmp_path)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (case.out / "blob").mkdir(parents=True)
    for name in ("LUO", "LUO.partial"):
        (case.out / "blob" / name).symlink_to(victim)
    assert in_process("extract", *case.files, "blob/LUO", "-o", case.out, "--force").status == 0
    assert victim.read_bytes() == b"precious"
    assert not (case.out / "blob" / "LUO").is_symlink()


def refused_link(tmp_path: Path) -> tuple[Result, Path]:
    """Extracting where DIR/LUO is a symbolic link to a directory elsewhere."""
    case, _ = rich(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    case.out.mkdir(parents=True)
    (case.out / "LUO").symlink_to(elsewhere)
    result = in_process("extract", *case.files, "LUO", "-o", case.out, "--force")
    return result, elsewhere


def test_a_symbolic_link_inside_the_directory_is_not_followed(tmp_path: Path) -> None:
    result, elsewhere = refused_link(tmp_path)
    assert result.status == 3
    assert "is a symbolic link" in result.stderr
    assert [path for path in elsewhere.rglob("*") if not path.is_dir()] == []


def test_no_directory_is_made_behind_a_symbolic_link(tmp_path: Path) -> None:
    _, elsewhere = refused_link(tmp_path)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("target", ["file", "dangling"])
def test_something_else_where_a_directory_should_be(tmp_path: Path, target: str) -> None:
    case, _ = rich(tmp_path)
    case.out.mkdir(parents=True)
    if target == "file":
        (case.out / "LUO").write_bytes(b"mine")
    else:
        (case.out / "LUO").symlink_to(tmp_path / "nowhere")
    result = kho_inspect("extract", *case.files, "LUO", "-o", case.out, "--force")
    assert result.status == 3
    assert result.stderr.startswith("kho-inspect: ")
    assert not (tmp_path / "nowhere").exists()


def test_no_partial_file_is_left_after_an_interruption(tmp_path: Path) -> None:
    case, _ = rich(tmp_path)
    opened = open_inputs(str(case.files[0]), str(case.files[1]))
    items = selection.select(inspect_opened(opened), opened.memory, ["LUO/vm/0x1001"])

    def stop(size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extraction.Extractor(opened.memory, case.out, progress=stop).run(items)
    assert files_in(case.out) == set()


def test_no_partial_file_is_left_when_a_directory_is_in_the_way(tmp_path: Path) -> None:
    case, _ = rich(tmp_path)
    (case.out / "blob" / "LUO").mkdir(parents=True)
    result = kho_inspect("extract", *case.files, "blob/LUO", "-o", case.out, "--force")
    assert result.status == 3
    assert files_in(case.out) == set()


def test_a_blob_called_partial_survives_its_neighbour(tmp_path: Path) -> None:
    image = Image()
    for name in ("x.partial", "x"):
        image.subnode(name, image.blob(name.encode()), len(name))
    case = Case(image, tmp_path)
    found = case.extract()
    assert case.content(found["blob/x.partial"]) == b"x.partial"


def test_a_file_of_the_users_is_never_removed(tmp_path: Path) -> None:
    case, _ = rich(tmp_path)
    (case.out / "blob").mkdir(parents=True)
    mine = case.out / "blob" / "LUO.partial"
    mine.write_bytes(b"mine")
    in_process("extract", *case.files, "blob/LUO", "-o", case.out)
    assert mine.read_bytes() == b"mine"
