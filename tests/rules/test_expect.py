"""Expectation files: what ``expect`` writes holds, what does not hold is told by its line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kho_inspect import inspect
from kho_inspect.rules.expectations import parse_expectations
from tests.support.captures import Capture
from tests.support.cli import DTB, DUMP, REPO
from tests.support.reference import Reference
from tests.support.running import document, in_process


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    dump, dtb = Reference().write(tmp_path_factory.mktemp("sound"))
    return Path(dump), Path(dtb)


def assert_met(files: tuple[Path | str, ...], folder: Path) -> str:
    written = in_process("expect", *files)
    assert (written.status, written.stderr) == (0, "")
    tomllib.loads(written.stdout)
    wishes = folder / "expect.toml"
    wishes.write_text(written.stdout)
    checked = in_process("check", *files, "--expect", wishes)
    assert (checked.status, checked.stderr) == (0, "")
    found = document("check", *files, "--expect", wishes)
    assert [one for one in found["findings"] if one["code"].startswith("KHO7")] == []
    return written.stdout


def test_a_capture_meets_what_expect_writes_of_it(capture: Capture, tmp_path: Path) -> None:
    text = assert_met((capture.dump, capture.dtb, "--base", hex(capture.base)), tmp_path)
    assert f'compatible = "{capture.truth["compatible"]}"' in text


def test_the_sample_meets_what_expect_writes_of_it(tmp_path: Path) -> None:
    assert "[[files]]" in assert_met((REPO / DUMP, REPO / DTB), tmp_path)


@pytest.mark.parametrize(
    "name", [b'a"b\\c', b"tab\tbell\x07del\x7f", "na\u00efve \u2013 \u202e".encode(), b"\xff"]
)
def test_awkward_names_are_written_and_met(name: bytes, tmp_path: Path) -> None:
    it = Reference()
    it.image.write(it.sessions[508].entry, name.ljust(64, b"\0"))
    assert_met(it.write(tmp_path), tmp_path)


def test_a_capture_does_not_meet_another_s(
    capture: Capture, tmp_path: Path, sound: tuple[Path, Path]
) -> None:
    wishes = tmp_path / "expect.toml"
    wishes.write_text(in_process("expect", *sound).stdout)
    files = (capture.dump, capture.dtb, "--base", hex(capture.base))
    result = document("check", *files, "--expect", wishes)
    assert {"KHO702", "KHO705"} <= {one["code"] for one in result["findings"]}
    assert in_process("check", *files, "--expect", wishes).status == 1


def test_expect_as_json(sound: tuple[Path, Path]) -> None:
    found = document("expect", *sound)
    assert found["expectations"]["compatible"] == "kho-v4"
    assert set(found) == {"schema_version", "expectations"}


UNMET = [
    ("KHO701", 'compatible = "kho-v2"', "compatible is 'kho-v4', should be 'kho-v2'"),
    ("KHO701", 'page_size = "64K"', "page_size is '4K', should be '64K'"),
    ("KHO702", '[subnodes]\nrequired = ["hugetlb"]', "subnode 'hugetlb' is missing"),
    ("KHO702", '[subnodes]\nforbidden = ["kho_test"]', "subnode 'kho_test' is present"),
    ("KHO702", '[sessions]\nrequired = ["vm"]', "session 'vm' is missing"),
    ("KHO702", '[sessions]\nforbidden = ["kho-508"]', "session 'kho-508' is present"),
    ("KHO703", '[[files]]\nsession = "kho-508"\ntoken = 1', "file 0x1 of session 'kho-508' is mi"),
    ("KHO703", '[[files]]\nsession = "x"\ntoken = "0x5080"', "file 0x5080 of session 'x' is mis"),
    (
        "KHO703",
        '[[files]]\nsession = "kho-508"\ntoken = "0x5080"\nsize = "1M"',
        "is 8,192 bytes, should be 1,048,576 bytes",
    ),
    ("KHO704", '[preserved]\nmin_bytes = "1T"', "should be at least 1 TiB"),
    ("KHO704", "[preserved]\nmax_bytes = 4096", "should be at most 4 KiB"),
    ("KHO704", '[owners]\nLUO = "4K"', "memory of LUO is"),
    ("KHO705", '[[ranges]]\nstart = "0x50000000"\nsize = "4K"', "range 0x50000000-0x50001000"),
    (
        "KHO705",
        '[[ranges]]\nname = "log"\nstart = "0x80000000"\nsize = "3G"',
        "log 0x80000000-0x140000000 is not preserved",
    ),
]


@pytest.mark.parametrize(("code", "text", "words"), UNMET)
def test_what_is_not_met_is_told_by_its_line(
    code: str, text: str, words: str, tmp_path: Path, sound: tuple[Path, Path]
) -> None:
    wishes = tmp_path / "expect.toml"
    wishes.write_text(f"# a comment\n\n{text}\n")
    found = document("check", *sound, "--expect", wishes)
    (finding,) = found["findings"]
    line = 3 + (text.startswith("[") and not text.startswith("[["))
    assert (finding["code"], finding["path"]) == (code, f"{wishes}:{line}")
    assert (finding["severity"], finding["about"]) == ("error", "expectation")
    assert (found["expectations"]["state"], found["integrity"]["state"]) == ("differ", "no-defect")
    assert words in finding["message"]
    assert in_process("check", *sound, "--expect", wishes).status == 1


def test_orphans_over_their_budget(tmp_path: Path) -> None:
    it = Reference()
    it.preserve(it.image.alloc())
    wishes = tmp_path / "expect.toml"
    wishes.write_text("max_orphan_bytes = 4095\n")
    found = document("check", *it.write(tmp_path), "--expect", wishes)
    assert [(one["code"], one["path"]) for one in found["findings"]] == [
        ("KHO704", f"{wishes}:1"),
        ("KHO308", ""),
    ]


def test_every_line_is_told_apart(tmp_path: Path, sound: tuple[Path, Path]) -> None:
    wishes = tmp_path / "expect.toml"
    entry = '[[ranges]]\nstart = {}\nsize = "4K"\n'
    wishes.write_text("".join(entry.format(hex(0x5000_0000 + at * 4096)) for at in range(3)))
    found = document("check", *sound, "--expect", wishes)
    assert [one["path"] for one in found["findings"]] == [f"{wishes}:{at}" for at in (1, 4, 7)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("compatible = \n", 1),
        ("\n\ncompatible = x\npage_size = 1\n", 3),
        ('\ncompatibel = "kho-v4"\n', 2),
        ("\n[subnode]\nrequired = []\n", 2),
        ("[subnodes]\nwanted = []\n", 2),
        ('[subnodes]\nrequired = "LUO"\n', 2),
        ("[sessions]\n\nrequired = [1]\n", 3),
        ("compatible = 4\n", 1),
        ("\nmax_orphan_bytes = -1\n", 2),
        ('max_orphan_bytes = "many"\n', 1),
        ("[preserved]\nmin_bytes = true\n", 2),
        ('[owners]\nLUO = "?"\n', 2),
        ('[owners]\n"LUO / session vm" = "1M"\n', 2),
        ("\n[[files]]\nsession = 'x'\n", 2),
        ("[[ranges]]\nstart = 1\n", 1),
        ("[[ranges]]\nstart = 1\nsize = 1\ncolour = 1\n", 1),
    ],
)
def test_files_that_cannot_be_understood(
    text: str, line: int, tmp_path: Path, sound: tuple[Path, Path]
) -> None:
    wishes = tmp_path / "expect.toml"
    wishes.write_text(text)
    result = in_process("check", *sound, "--expect", wishes)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr.startswith(f"kho-inspect: {wishes}")
    assert f":{line}: " in result.stderr or f"line {line}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "text",
    [
        "files = 1\n",
        pytest.param("ranges = [1]\n"),
        "files = ['x']\n",
        "subnodes = 1\n",
        "owners = 3\n",
        "[[preserved]]\nmin_bytes = 1\n",
        "[[files]]\nsession = 1\ntoken = 1\n",
        "[ranges]\nstart = 1\nsize = 1\n",
        "[compatible]\nx = 1\n",
        "subnodes.required = ['LUO', 'nope']\n",
        "[owners]\n'LUO' = {}\n",
        "[[ranges]]\nstart = 0\nsize = 0\n",
        "[[ranges]]\nstart = 18446744073709551615\nsize = 18446744073709551615\n",
        "[[ranges]]\nstart = '16777216T'\nsize = '1T'\n",
        "[[ranges]]\nstart = 0x7fffffffffffffff\nsize = 0x7fffffffffffffff\n",
        "\0",
    ],
)
def test_odd_files_come_to_a_finding_or_a_message(
    text: str, tmp_path: Path, sound: tuple[Path, Path]
) -> None:
    wishes = tmp_path / "expect.toml"
    wishes.write_text(text)
    result = in_process("check", *sound, "--expect", wishes)
    assert result.status in (0, 1, 2)
    assert bool(result.stderr) == (result.status == 2)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path, sound: tuple[Path, Path]) -> None:
    missing = in_process("check", *sound, "--expect", tmp_path / "none.toml")
    assert (missing.status, missing.stdout) == (3, "")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    binary = in_process("check", *sound, "--expect", tmp_path / "binary.toml")
    assert (binary.status, binary.stdout) == (3, "")
    assert "not UTF-8" in binary.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_orphan_bytes = " + "9" * 5000, "Exceeds the limit"),
        ("max_orphan_bytes = 0x" + "f" * 5000, "less than 2^64"),
        ("compatible = " + "[" * 20_000, "nested too deeply"),
        ("subnodes.required = [['a']]", "list of names"),
        (".".join("a" * 20_000) + " = 1", "more than 16 parts"),
        ("x = {" + ".".join(['"a"'] * 20_000) + " = 1}", "more than 16 parts"),
        ("", "expects nothing"),
        ("# only words\n", "expects nothing"),
        ("[subnodes]\nforbidden = []\n", "expects nothing"),
    ],
    ids=[
        "digits",
        "hex",
        "nested",
        "list",
        "parts",
        "quoted-parts",
        "empty",
        "comment",
        "no-names",
    ],
)
def test_a_hostile_or_empty_file_is_usage(
    text: str, words: str, tmp_path: Path, sound: tuple[Path, Path]
) -> None:
    wishes = tmp_path / "expect.toml"
    wishes.write_text(text)
    result = in_process("check", *sound, "--expect", wishes)
    assert (result.status, result.stdout) == (2, "")
    assert words in result.stderr


def test_a_line_of_blanks_after_a_bracket_is_read_once() -> None:
    """Backtracking took time that grew with the cube of the blanks."""
    text = 'compatible = """\n[' + " " * 200_000 + '\n"""\npage_size = "4K"\n'
    assert [one.line for one in parse_expectations(text, "x")] == [1, 4]


def test_expect_refuses_an_image_with_faults(tmp_path: Path) -> None:
    it = Reference()
    it.image.write(it.sessions[508].entry, b"\xff" * 4096)
    files = it.write(tmp_path)
    handover = inspect(*files)
    result = in_process("expect", *files)
    assert handover.faults
    assert (result.status, result.stdout) == (3, "")
    assert "not a good image" in result.stderr
    assert "at most" in in_process("expect", *files, "--force").stdout
