"""What cannot be read, or not be judged: what each command says of it, and in which form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kho_inspect.cli.main import COMMANDS
from kho_inspect.cli.options import Input
from kho_inspect.errors import UnreadableInputError
from kho_inspect.render import json as render_json
from kho_inspect.rules.engine import RULES
from tests.support.broken import BROKEN
from tests.support.builder import Image, Tree, fdt_blob, u32s
from tests.support.captures import Capture
from tests.support.cli import DTB, DUMP, Result
from tests.support.reference import Reference
from tests.support.running import document, in_process, save
from tests.support.sarif import check_log

READERS = [name for name in COMMANDS if name not in ("explain", "targets")]
WITHOUT_DTB = ("locate", "log", "carve")
HANDOVER_READERS = [name for name in READERS if name not in (*WITHOUT_DTB, "read", "find")]
FORMS = ("json", "junit", "sarif", "github")
AWKWARD = "a,b: 100%\n::error::<&\x1b[31m"
"""A file name that means something to every form of output."""


def run(command: str, dump: Path | str, dtb: Path | str, *more: str, out: Path) -> Result:
    files = [dump] if command in WITHOUT_DTB else [dump, dtb]
    own = {
        "addr": ["0x4a4000"],
        "read": ["blob/memblock"],
        "find": ["memblock"],
        "extract": ["-o", str(out), "--force"],
        "pack": ["-o", str(out / "packed.elf"), "--force"],
    }
    return in_process(command, *files, *own.get(command, []), *more)


def unread(result: Result, status: int = 3) -> dict[str, Any]:
    """The one JSON document of a run that could not read its input."""
    assert result.status == status
    found: dict[str, Any] = json.loads(result.stdout)
    error = found["error"]
    assert set(error) == {"message", "hint", "paddr", "path", "source"}
    lines = result.stderr.splitlines()
    assert lines[0] == f"kho-inspect: {error['message']}"
    assert lines[1:] == ([f"  try: {error['hint']}"] if error["hint"] else [])
    return found


# -- unreadable input, in the form that was asked for


@pytest.mark.parametrize("command", READERS)
def test_json_of_a_dump_that_cannot_be_opened(command: str, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    found = unread(run(command, nowhere, DTB, "--json", out=tmp_path))
    assert found["source"] == {"path": nowhere, "dtb": None if command in WITHOUT_DTB else DTB}
    assert found["error"]["source"] == nowhere
    assert "schema_version" in found
    plain = run(command, nowhere, DTB, out=tmp_path)
    assert (plain.status, plain.stdout) == (3, "")


@pytest.mark.parametrize("form", [["--json"], ["--format", "json"]])
def test_an_unreadable_dump_has_the_members_of_any_check(form: list[str]) -> None:
    result = in_process("check", "nowhere", DTB, "--target", "linux-7.3", *form)
    found = unread(result)
    assert set(found) == {*document("check", DUMP, DTB), "error"}
    assert found["capture"] == {
        "state": "incomplete",
        "reasons": [found["error"]["message"]],
        "suggestion": None,
    }
    assert found["decision"] == {"state": "unknown", "target": "linux-7.3", "reasons": []}
    (blocked,) = found["integrity"].pop("blocked")
    assert found["integrity"] == {"state": "undecided", "ran": 0, "not_applicable": 0}
    assert blocked["codes"] == [rule.code for rule in RULES]
    assert found["findings"] == []


def test_the_address_and_the_file_of_an_error(tmp_path: Path) -> None:
    image = Image()
    dump, boot = save(image, tmp_path, image.finish())
    props = [
        (b"linux,kho-fdt", u32s(0, 0x1000, 0, 4096)),
        (b"linux,kho-scratch", u32s(0, 0x2000, 0, 16)),
    ]
    cells = [(b"#address-cells", u32s(2)), (b"#size-cells", u32s(2))]
    boot.write_bytes(fdt_blob(Tree(b"", cells, [Tree(b"chosen", props)])))
    error = unread(in_process("tree", dump, boot, "--json"))["error"]
    assert (error["paddr"], error["source"], error["path"]) == ("0x1000", str(boot), None)


def test_junit_of_an_unreadable_dump_is_one_test_case_in_error() -> None:
    result = in_process("check", "nowhere", DTB, "--format", "junit")
    assert result.status == 3
    (suite,) = ElementTree.fromstring(result.stdout)
    cases = suite.findall("testcase")
    (failed,) = [case for case in cases if case.find("skipped") is None]
    (error,) = failed
    assert error.tag == "error"
    assert f"kho-inspect: {error.get('message')}\n" == result.stderr
    assert (suite.get("tests"), suite.get("errors")) == (str(len(RULES) + 1), "1")
    assert (suite.get("failures"), suite.get("skipped")) == ("0", str(len(RULES)))
    assert len(cases) == len(RULES) + 1


def test_sarif_of_an_unreadable_dump_is_an_invocation_that_failed() -> None:
    result = in_process("check", "nowhere", DTB, "--format", "sarif")
    assert result.status == 3
    log = json.loads(result.stdout)
    check_log(log)
    (run,) = log["runs"]
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], run["results"]) == (False, [])
    (notification,) = invocation["toolExecutionNotifications"]
    assert notification["level"] == "error"
    assert f"kho-inspect: {notification['message']['text']}\n" == result.stderr
    (location,) = notification["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "nowhere"


def test_github_of_an_unreadable_dump_is_an_error() -> None:
    result = in_process("check", "nowhere", DTB, "--format", "github")
    assert result.status == 3
    first, *statements = result.stdout.splitlines()
    assert first == f"::error file=nowhere,title=input::{result.stderr[13:-1]}"
    assert not any(line.startswith("::") for line in statements)


@pytest.mark.parametrize("form", FORMS)
def test_the_name_of_an_unreadable_file_is_escaped_in_every_form(form: str) -> None:
    result = in_process("check", AWKWARD, DTB, "--format", form)
    assert result.status == 3
    assert all(char.isprintable() or char == "\n" for char in result.stdout)
    assert "\n::error::" not in result.stdout
    if form == "junit":
        ElementTree.fromstring(result.stdout)
    elif form == "sarif":
        check_log(json.loads(result.stdout))
    elif form == "json":
        assert unread_source(result) == AWKWARD
    else:
        assert result.stdout.startswith(r"::error file=a%2Cb%3A 100%25\x0a%3A%3Aerror%3A%3A")


def unread_source(result: Result) -> object:
    return json.loads(result.stdout)["error"]["source"]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_expectations_that_cannot_be_read(form: str, tmp_path: Path) -> None:
    wishes = tmp_path / "expect.toml"
    wishes.write_bytes(b"\xff")
    result = in_process("check", DUMP, DTB, "--expect", wishes, "--format", form)
    assert (result.status, "not UTF-8" in result.stdout) == (2, True)


@pytest.mark.parametrize(
    "args", [["tree", "--json"], ["check", DUMP, "--json", "--select", "KHO999"]]
)
def test_a_usage_error_writes_no_document(args: list[str]) -> None:
    result = in_process(*args)
    assert (result.status, result.stdout) == (2, "")


def test_an_error_within_a_document_adds_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*given: object) -> dict[str, Any]:
        def items() -> Any:
            yield 1
            raise UnreadableInputError("the disk failed")

        return {"nodes": items()}

    monkeypatch.setattr(render_json, "tree_document", cut)
    result = in_process("tree", DUMP, DTB, "--json")
    assert result.status == 3
    assert result.stderr == "kho-inspect: the disk failed\n"
    assert "error" not in result.stdout
    assert result.stdout.startswith("{")


def test_out_of_memory_is_said_in_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(given: Input) -> object:
        raise MemoryError

    monkeypatch.setattr(Input, "inspect", inspect)
    found = unread(in_process("owners", DUMP, DTB, "--json"), 71)
    assert found["error"]["message"] == "out of memory"
    plain = in_process("owners", DUMP, DTB)
    assert (plain.status, plain.stdout) == (71, "")
    assert plain.stderr.startswith("kho-inspect: out of memory\n  try: ")


# -- a DTB that was one


@pytest.mark.parametrize("damage", ["magic", "structure", "cut"])
def test_show_says_of_a_damaged_dtb_what_check_says(damage: str, tmp_path: Path) -> None:
    whole = Path(DTB).read_bytes()
    dtb = tmp_path / "kho.dtb"
    dtb.write_bytes(
        {
            "magic": b"\0" + whole[1:],
            "structure": whole[:56] + b"\xff" * 4 + whole[60:],
            "cut": whole[:56] + b"\xff" * 20,
        }[damage]
    )
    checked, shown = in_process("check", DUMP, dtb), in_process("show", DUMP, dtb)
    assert checked.status == (4 if damage == "cut" else 1)
    assert shown == checked
    found = document("show", DUMP, dtb)
    assert found["fdt"] is None
    statements = document("check", DUMP, dtb)
    assert found["source"] == statements.pop("source")
    assert found["schema_version"] == statements.pop("schema_version")
    assert found["check"] == statements
    assert [one["code"] for one in statements["findings"]] == [
        "KHO102" if damage == "cut" else "KHO101"
    ]


# -- an ABI that is not known


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    it = Reference()
    BROKEN["KHO104"].damage(it)
    return it.write(tmp_path_factory.mktemp("foreign"))


@pytest.mark.parametrize("command", HANDOVER_READERS)
@pytest.mark.parametrize("options", [[], ["--assume-abi", "kho-v4"]], ids=["unknown", "assumed"])
def test_an_unknown_abi_is_shown_and_never_clean(
    command: str, options: list[str], foreign: tuple[str, str], tmp_path: Path
) -> None:
    result = run(command, *foreign, *options, out=tmp_path)
    assert result.status == 4
    if command not in ("show", "check"):  # which say it on stdout
        assert result.stderr.startswith("kho-inspect: caution: compatible is 'kho-v9'")
        assert "--assume-abi" in result.stderr
    machine = run(command, *foreign, *options, "--json", out=tmp_path)
    assert (machine.status, machine.stderr) == (4, result.stderr)
    if command == "expect":  # writes no file that would hold images to this one
        assert machine.stdout == ""
    else:
        assert "error" not in json.loads(machine.stdout)


def test_sub_nodes_of_an_unknown_abi_are_raw(foreign: tuple[str, str], tmp_path: Path) -> None:
    def blobs(*options: str) -> list[dict[str, Any]]:
        found = json.loads(in_process("blobs", *foreign, "--json", *options).stdout)
        assert found["faults"] == []
        return [*found["blobs"]]

    raw, assumed = blobs(), blobs("--assume-abi", "kho-v4")
    assert any(blob["decoded"] for blob in assumed)
    for one, other in zip(raw, assumed, strict=True):
        assert {one["decoded"], one["preserved"]} == {None}
        assert one["kind"] in ("fdt", "data")
        same = ("name", "paddr", "size", "sha256", "hex", "fdt")
        assert [one[name] for name in same] == [other[name] for name in same]
    assert run("extract", *foreign, out=tmp_path).status == 4
    for blob in raw:
        taken = tmp_path / "blob" / blob["name"]
        assert taken.read_bytes().hex() == blob["hex"]


def test_without_a_map_nothing_is_said_to_dangle(foreign: tuple[str, str]) -> None:
    found = json.loads(in_process("owners", *foreign, "--json").stdout)["ownership"]
    assert (found["dangling_bytes"], found["orphan_bytes"]) == (0, 0)
    (info,) = json.loads(in_process("addr", *foreign, "0x4a4000", "--json").stdout)["addresses"]
    assert info["preserved"] is None


# -- a map outside the dump


@pytest.mark.parametrize("command", HANDOVER_READERS)
def test_a_map_outside_the_dump_does_not_fit(
    command: str, capture: Capture, tmp_path: Path
) -> None:
    small = tmp_path / "small.raw"
    small.write_bytes(bytes(4096))
    result = run(command, small, capture.dtb, out=tmp_path)
    assert result.status == 4
    if command not in ("show", "check"):
        said = "kho-inspect: caution: capture mismatch: the map's root "
        assert result.stderr.startswith(said)
        assert "is outside the dump's memory (0x0-0x1000)" in result.stderr
