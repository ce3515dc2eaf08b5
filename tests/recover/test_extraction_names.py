"""Names from the dump as file names: nothing outside the directory, nothing on top of another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kho_inspect.model.identity import Owner, Subsystem
from kho_inspect.render.names import owner_name
from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.extracting import Case, luo_case
from tests.support.luo_builder import File, Session

PAGE = 4096

SESSION_NAMES = [
    b"../../etc/x",
    b"a/b",
    b"a",
    b"",
    b".",
    b"..",
    b"%",
    b"%2E",
    b"/absolute",
    b"n" * 64,
    b"[bold]x[/]",
    b"\x1b[31mred",
    b"two\nlines",
    b"\xff\xfe",
    b"\\xff\\xfe\xff",
    "‮evil".encode(),
    b"con",
    b"-rf",
    b"~",
    b"manifest.json",
    b"..%2f..",
]


def file_in(session: str) -> Owner:
    return Owner(Subsystem.LUO, (session, 1))


def test_session_names_stay_inside_and_apart(tmp_path: Path) -> None:
    image = Image()
    sessions = [
        Session(name, [File(1, write.memfd(image, b"%d" % number))])
        for number, name in enumerate(SESSION_NAMES)
    ]
    case = luo_case(tmp_path, *sessions, image=image)
    found = case.extract()
    texts = [name.decode("utf-8", "backslashreplace") for name in SESSION_NAMES]
    for number, text in enumerate(texts):
        assert case.content(found[owner_name(file_in(text))]) == b"%d" % number
    for item in found.values():
        assert os.path.realpath(case.out / item["file"]) == str(case.out.resolve() / item["file"])
        assert item["file"].isascii()
        assert item["file"].isprintable()
        assert all(len(part) <= 255 for part in Path(item["file"]).parts)


@pytest.mark.parametrize("number", [0, 1, 5, 9, 12, 14])
def test_a_selector_of_the_manifest_selects_the_same_again(tmp_path: Path, number: int) -> None:
    image = Image()
    sessions = [
        Session(name, [File(1, write.memfd(image, b"%d" % at))])
        for at, name in enumerate(SESSION_NAMES)
    ]
    case = luo_case(tmp_path, *sessions, image=image)
    text = SESSION_NAMES[number].decode("utf-8", "backslashreplace")
    selector = owner_name(file_in(text))
    for given in (selector, f"LUO/{text}/0x1"):
        found = case.extract(given, "--force")
        assert list(found) == [selector]
        assert case.content(found[selector]) == b"%d" % number


BLOB_NAMES = [
    "x" * 250,
    "x" * 1000 + "a",
    "x" * 1000 + "b",
    "é" * 100,
    "..",
    ".",
    "../../../x",
    "a/b",
    "a",
    "LUO/a/0x1",
    "manifest.json",
    "\x1b]0;title\x07",
]


def test_blob_names_stay_inside_and_apart(tmp_path: Path) -> None:
    image = Image()
    for name in BLOB_NAMES:
        data = b"blob " + name.encode()
        image.subnode(name, image.blob(data), len(data))
    case = Case(image, tmp_path)
    found = case.extract()
    for name in BLOB_NAMES:
        item = found[owner_name(Owner(Subsystem.SUBNODE, (name,)))]
        assert case.content(item) == b"blob " + name.encode()
        assert all(len(part) <= 255 for part in Path(item["file"]).parts)
        assert len(Path(item["file"]).parts) == 2


def test_region_names_stay_inside_and_apart(tmp_path: Path) -> None:
    image = Image()
    names = [b"../../x", b"a/b", b"..", b"\x1b[2J"]
    regions = [(name, write.reserve_mem(image, 1)) for name in names]
    write.memblock(image, [(name, props) for name, (_, props) in regions])
    case = Case(image, tmp_path)
    found = case.extract("reserve_mem")
    for name, (start, _) in regions:
        selector = owner_name(Owner(Subsystem.RESERVE_MEM, (name.decode(),)))
        assert case.content(found[selector]) == write.pattern(PAGE, start)


def test_two_files_with_one_token_both_come_out(tmp_path: Path) -> None:
    image = Image()
    files = [File(5, write.memfd(image, write.pattern(100, seed))) for seed in range(3)]
    case = luo_case(tmp_path, Session(b"vm", files), image=image)
    found = case.extract("LUO")
    assert list(found) == ["LUO/vm/0x5", "LUO/vm/0x5#2", "LUO/vm/0x5#3"]
    assert [case.content(item) for item in found.values()] == [
        write.pattern(100, seed) for seed in range(3)
    ]


def test_two_sessions_with_one_name_both_come_out(tmp_path: Path) -> None:
    image = Image()
    sessions = [Session(b"vm", [File(5, write.memfd(image, b"%d" % seed))]) for seed in range(2)]
    case = luo_case(tmp_path, *sessions, image=image)
    found = case.extract("LUO/vm/0x5", "LUO/vm/0x5#2")
    assert [case.content(item) for item in found.values()] == [b"0", b"1"]


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (("x", "x", "x#2"), ["x", "x#3", "x%232"]),
        (("x#2", "x", "x"), ["x%232", "x", "x#3"]),
        (("x", "y", "x"), ["x", "y", "x#2"]),
        (("x", "x", "x#2", "x#3"), ["x", "x#4", "x%232", "x%233"]),
    ],
)
def test_a_numbered_duplicate_collides_with_nobody(
    names: tuple[str, ...], called: list[str], tmp_path: Path
) -> None:
    image = Image()
    for number, name in enumerate(names):
        image.subnode(name, image.blob(b"%d" % number), 1)
    case = Case(image, tmp_path)
    found = case.extract()
    assert {name: case.content(item) for name, item in found.items()} == {
        f"blob/{name}": b"%d" % number for number, name in enumerate(called)
    }
