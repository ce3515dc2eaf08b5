"""Expectation files: what ``expect`` writes holds, what does not hold is told by its line."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kho_inspect import inspect
from kho_inspect.errors import ExpectationError
from kho_inspect.rules.expectations import parse_expectations
from tests.support.captures import Capture
from tests.support.cli import DTB, DUMP, REPO
from tests.support.reference import Reference
from tests.support.running import document, flip_key, in_process


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    dump, dtb = Reference().write(tmp_path_factory.mktemp("sound"))
    return Path(dump), Path(dtb)


def refused(text: str, folder: Path, files: tuple[Path, Path]) -> str:
    """What is said of a file of expectations that is an error of usage."""
    wishes = folder / "expect.toml"
    wishes.write_text(text)
    result = in_process("check", *files, "--expect", wishes)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr.startswith(f"kho-inspect: {wishes}")
    return result.stderr


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


@pytest.mark.parametrize("form", ["toml", "json"])
def test_four_overwritten_bytes_of_a_memfd_are_seen(form: str, tmp_path: Path) -> None:
    it = Reference()
    files, wishes = it.write(tmp_path), tmp_path / "wishes"
    options = ["--json"] if form == "json" else []
    written = in_process("expect", *files, "--content", "-o", wishes, *options)
    assert (written.status, written.stdout, written.stderr) == (0, "", "")
    assert wishes.stat().st_mode & 0o777 == 0o600
    assert in_process("check", *files, "--expect", wishes).status == 0
    paddr = content_of(files, "LUO/kho-508/0x5080")
    it.image.write(paddr + 100, b"\xde\xad\xbe\xef")
    files = it.write(tmp_path)
    (finding,) = document("check", *files, "--expect", wishes)["findings"]
    assert finding["code"] == "KHO703"
    assert finding["message"].startswith("SHA-256 of file 0x5080 of session 'kho-508' is ")
    where, _, line = finding["path"].rpartition(":")
    lines = wishes.read_text().splitlines()
    assert where == str(wishes)
    assert "0x5080" in "".join(lines[int(line) - 1 : int(line) + 3])
    assert in_process("check", *files, "--expect", wishes).status == 1


def content_of(files: tuple[str, str], selector: str) -> int:
    """Where a file's content begins."""
    (one,) = document("addr", *files, selector)["addresses"]
    return int(one["paddr"], 16)


def test_content_that_the_dump_lacks_is_not_taken_for_the_expected(tmp_path: Path) -> None:
    it = Reference()
    files, wishes = it.write(tmp_path), tmp_path / "wishes"
    assert in_process("expect", *files, "--content", "-o", wishes).status == 0
    paddr = content_of(files, "LUO/kho-508/0x5080")
    it.image.drop(paddr)
    files = it.write(tmp_path)
    found = document("check", *files, "--expect", wishes)["findings"]
    assert [one["message"] for one in found if one["code"] == "KHO703"] == [
        "SHA-256 of file 0x5080 of session 'kho-508' is not known (content is lacking, or "
        f"holes are too large), should be {sha256_in(wishes, '0x5080')[:16]}…"
    ]
    refused = in_process("expect", *files, "--content")
    assert (refused.status, refused.stdout) == (3, "")
    assert "LUO/kho-508/0x5080 has no SHA-256: content is lacking" in refused.stderr
    forced = in_process("expect", *files, "--content", "--force")
    assert forced.status == 1
    assert "caution: " in forced.stderr
    assert forced.stdout.count("sha256 = ") == wishes.read_text().count("sha256 = ") - 1


def sha256_in(wishes: Path, token: str) -> str:
    files = tomllib.loads(wishes.read_text())["files"]
    return next(str(one["sha256"]) for one in files if one["token"] == token)


def test_what_expect_content_records_is_what_truth_has(capture: Capture, tmp_path: Path) -> None:
    files = (capture.dump, capture.dtb, "--base", hex(capture.base))
    wishes = tmp_path / "wishes"
    assert in_process("expect", *files, "--content", "-o", wishes).status == 0
    assert in_process("check", *files, "--expect", wishes).status == 0
    known = {
        file["memfd"]["sha256"]
        for node in capture.truth["subnodes"]
        for session in node.get("luo", {"sessions": []})["sessions"]
        for file in session["files"]
    }
    found = tomllib.loads(wishes.read_text()).get("files", [])
    assert {one["sha256"] for one in found} == known


def test_expect_json_is_taken_by_check_from_stdin(sound: tuple[Path, Path]) -> None:
    script = '"$0" -m kho_inspect expect "$1" "$2" --json | "$0" -m kho_inspect check "$1" "$2"'
    done = subprocess.run(
        ["bash", "-c", f"{script} --expect -", sys.executable, *sound],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "expected   met" in done.stdout


def test_a_finding_on_json_has_the_line_of_its_entry(
    tmp_path: Path, sound: tuple[Path, Path]
) -> None:
    wishes = tmp_path / "wishes.json"
    wishes.write_text(
        '{"schema_version": 2,\n"expectations": {\n"compatible": "x{",\n'
        '"subnodes": {\n"required": ["[", "nope"]},\n'
        '"owners": {\n"LUO": 1},\n"ranges": [\n'
        '{"start": 0, "size": 1},\n{"start": "0x1000", "size": 1}]}}\n'
    )
    found = document("check", *sound, "--expect", wishes)["findings"]
    assert sorted((one["code"], one["path"].rpartition(":")[2]) for one in found) == [
        ("KHO701", "3"),
        ("KHO702", "5"),
        ("KHO702", "5"),
        ("KHO704", "7"),
        ("KHO705", "10"),
        ("KHO705", "9"),
    ]


def test_expect_writes_over_no_file_and_no_input(tmp_path: Path, sound: tuple[Path, Path]) -> None:
    wishes = tmp_path / "wishes"
    wishes.write_text("mine")
    refused = in_process("expect", *sound, "-o", wishes)
    assert (refused.status, refused.stdout, wishes.read_text()) == (3, "", "mine")
    link = tmp_path / "link"
    link.hardlink_to(sound[1])
    before = link.read_bytes()
    refused = in_process("expect", *sound, "-o", link, "--force")
    assert "it is the input" in refused.stderr
    assert (refused.status, link.read_bytes()) == (3, before)
    assert in_process("expect", *sound, "-o", wishes, "--force", "--mode", "640").status == 0
    assert wishes.stat().st_mode & 0o777 == 0o640
    assert in_process("expect", *sound, "-o", "-").stdout == wishes.read_text()


def test_bounds_say_what_they_are(sound: tuple[Path, Path]) -> None:
    lines = in_process("expect", *sound).stdout.splitlines()
    assert "max_orphan_bytes = 0  # at most" in lines
    at = lines.index("[preserved]")
    bounds = [line for line in lines[at:] if "=" in line and "bytes" in line.split("=")[0]]
    assert [line.split("#")[1].split(";")[0] for line in bounds] == [" at least", " at most"]
    owners = lines[lines.index("[owners]") + 1 :]
    owners = owners[: owners.index("")]
    assert owners
    assert all("# at most; " in line for line in owners)


def test_expect_refuses_what_rules_find_damaged(tmp_path: Path) -> None:
    """No fault of reading: a memfd's folios are not preserved."""
    it = Reference()
    files = it.write(tmp_path)
    flip_key(it.image, content_of(files, "LUO/kho-508/0x5080"), 0)
    refused = in_process("expect", *it.write(tmp_path))
    assert (refused.status, refused.stdout) == (3, "")
    assert "is not a good image: it is damaged (KHO" in refused.stderr


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
    stderr = refused(text, tmp_path, sound)
    assert f":{line}: " in stderr or f"line {line}" in stderr
    assert "Traceback" not in stderr


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
    assert (binary.status, binary.stdout) == (2, "")
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
        ('compatible = "' + r"\"" * 200_000, "Unterminated string"),
        ('x = {a = """b"""", ' + ".".join("a" * 20_000) + " = 1}", "more than 16 parts"),
        ("x = {a = '''\n\"''', " + ".".join("a" * 20_000) + " = 1}", "more than 16 parts"),
        ("compatible = 'x'\n" + "#" * (1 << 20), "more than 1 MiB of TOML"),
        ('{"compatible": "kho-v4"}' + " " * (8 << 20), "more than 8 MiB"),
        ("[files]\nsession = 'x'", "[[files]]"),
        ("[[files]]\nsession = 'x'\ntoken = 1\nsha256 = 'ab'", "64 hex digits"),
        ("{" * 20_000, "Expecting property name"),
        ('{"compatible": ' + "[" * 200_000, "nested too deeply"),
        ('{"max_orphan_bytes": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"compatible": ["kho-v4"]}', "should be a string"),
        ('{"expectations": ["LUO"]}', "should be an object"),
        ('{"expectations": {}, "compatible": "kho-v4"}', "nothing is known of 'expectations'"),
        ('{"compatible": "kho-v4", "compatible": "kho-v4"}', "'compatible' is there twice"),
        ("{}", "expects nothing"),
        ("", "expects nothing"),
        ("# only words\n", "expects nothing"),
        ("[subnodes]\nforbidden = []\n", "expects nothing"),
    ],
    ids=lambda text: text[:24],
)
def test_a_hostile_or_empty_file_is_usage(
    text: str, words: str, tmp_path: Path, sound: tuple[Path, Path]
) -> None:
    assert words in refused(text, tmp_path, sound)


@pytest.mark.parametrize(("length", "cut"), [(198, False), (199, True)])
def test_a_name_of_the_file_is_cut_in_the_message_behind_200_characters(
    length: int, cut: bool
) -> None:
    name = "a" * length
    with pytest.raises(ExpectationError) as caught:
        parse_expectations(json.dumps({name: 1}), "x")
    quoted = f"'{'a' * 199}…" if cut else f"'{name}'"
    assert str(caught.value).endswith(f"nothing is known of {quoted}")


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
