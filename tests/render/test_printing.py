"""Text in pipes, in logs of CI, and in any encoding."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.text import Text

from kho_inspect.cli.door import Door
from kho_inspect.cli.params import RamMap
from kho_inspect.render.console import cropped, folded
from kho_inspect.render.findings import _intervals
from kho_inspect.rules.engine import RULES
from tests.support.broken import BROKEN
from tests.support.builder import Image
from tests.support.cli import DTB, DUMP, REPO, kho_inspect
from tests.support.luo_builder import File, Session, luo_v5, memfd, pattern
from tests.support.reference import Reference
from tests.support.running import in_process, save


def _many(folder: Path) -> tuple[Path, Path]:
    image = Image()
    names = [b"::stop-commands::x", b"##[error]y", *(b"bulk-%02d" % n for n in range(60))]
    luo_v5(
        image,
        [
            Session(name, [File(t, memfd(image, pattern(4096, t))) for t in range(4)])
            for name in names
        ],
    )
    (folder / "kho.dtb").write_bytes(image.finish())
    image.write_elf(folder / "dump.elf")
    return folder / "dump.elf", folder / "kho.dtb"


COMMANDS = (["show"], ["show", "--full"], ["blobs"], ["owners"], ["files"], ["ranges", "--owners"])


@pytest.mark.parametrize("columns", [40, None])
@pytest.mark.parametrize("command", [*COMMANDS, ["show", "--json"], ["owners", "--json"]])
def test_a_session_named_like_a_workflow_command_commands_no_runner(
    command: list[str], columns: int | None, tmp_path: Path
) -> None:
    result = kho_inspect(command[0], *_many(tmp_path), *command[1:], columns=columns)
    for line in result.stdout.splitlines():
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
    if command == ["show", "--json"]:
        assert "##[error]y" in json.dumps(json.loads(result.stdout))


@pytest.mark.parametrize("pieces", [["::x"], [" ", ":", ":x"], ["a\n:", ":x"], ["#", "#", "[x"]])
def test_a_command_in_pieces_is_found(pieces: list[str]) -> None:
    out = io.StringIO()
    Door(out).writelines(pieces)
    assert not out.getvalue().splitlines()[-1].lstrip().startswith("::")
    assert "##[" not in out.getvalue()
    assert "\\x" in out.getvalue()


def test_colons_within_a_line_stay() -> None:
    out = io.StringIO()
    Door(out).writelines(["a", "::b", " :", ":c\n"])
    assert out.getvalue() == "a::b ::c\n"


def test_owners_in_a_pipe_lists_bulk_05(tmp_path: Path) -> None:
    dump, dtb = _many(tmp_path)
    piped = kho_inspect("owners", dump, dtb, columns=None).stdout
    assert "LUO/bulk-05/0x3\t" in piped
    assert all(line == line.rstrip() for line in piped.splitlines())
    shown = kho_inspect("owners", dump, dtb).stdout
    assert "more owners: --limit 0 lists them all" in shown
    assert "LUO/bulk-59/0x3" in kho_inspect("owners", dump, dtb, "--limit", "0").stdout


def test_a_session_that_is_cut_says_so(tmp_path: Path) -> None:
    shown = kho_inspect("blobs", *_many(tmp_path)).stdout
    assert "more: a pipe or --json lists them all" in shown
    assert "more: a pipe" not in kho_inspect("blobs", *_many(tmp_path), columns=None).stdout


def test_tree_in_a_pipe_has_order_and_address_in_one_line() -> None:
    tree = kho_inspect("tree", DUMP, DTB, columns=None).stdout
    assert any("order 0" in line and "0x4a4000" in line for line in tree.splitlines())


def test_format_line_is_a_finding_a_line() -> None:
    result = kho_inspect("check", DUMP, DTB, "--target", "linux-7.3", "--format", "line")
    assert result.status == 1
    for line in result.stdout.splitlines():
        code, severity, *rest = line.split("\t")
        assert code.startswith("KHO") and severity and len(rest) == 3


def test_json_and_another_format_is_usage() -> None:
    assert kho_inspect("check", DUMP, DTB, "--json", "--format", "junit").status == 2


def test_an_order_without_blocks_is_said() -> None:
    result = kho_inspect("ranges", DUMP, DTB, "--order", "5")
    assert (result.stdout, result.status) == ("", 0)
    assert "order 5" in result.stderr


def test_an_interval_of_codes_names_no_rule_that_ran() -> None:
    codes = [rule.code for rule in RULES[:6]]
    assert _intervals([*codes[:3], *codes[4:]]) == f"{codes[0]}…{codes[2]} {codes[4]} {codes[5]}"


def test_explain_takes_a_group_and_a_list_without_backticks() -> None:
    text = kho_inspect("explain", "KHO2,KHO303").stdout
    assert "\nKHO202  " in text and "\nKHO303  " in text
    assert "``" not in kho_inspect("explain", "--all", "--json").stdout


HOSTILE = (b"::stop-commands::x", b"##[error]y", b"a\r::x", b"b%0A::y")
EVERY = (
    *COMMANDS,
    *(["tree"], ["tree", "--full"], ["check"], ["expect"], ["addr", "LUO"], ["find", "error"]),
    *(["check", "--format", form] for form in ("line", "junit", "sarif", "json")),
    *(["blobs", "--hexdump"], ["ranges", "--by-order"], ["locate"], ["carve"], ["blobs", "nosuch"]),
    *(["read", "blob/LUO"], ["read", "blob/LUO", "--u64"], ["extract", "-o", "x"]),
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Commands in the names of sessions, of sub-nodes and of the files."""
    folder = tmp_path_factory.mktemp("hostile")
    image = Image()
    luo_v5(
        image, [Session(name, [File(1, memfd(image, pattern(4096, 1)))]) for name in HOSTILE[:3]]
    )
    for name in HOSTILE:
        image.subnode(name.decode(), image.blob(b"\1unknown"), 8)
    (folder / "##[error]k.dtb").write_bytes(image.finish())
    image.write_elf(folder / "::add-mask::d.elf")
    return folder / "::add-mask::d.elf", folder / "##[error]k.dtb"


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_no_output_has_a_command_of_the_runner_or_blanks_at_an_end(
    command: list[str], hostile: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile[0].parent)
    monkeypatch.delenv("COLUMNS", raising=False)
    files = [path.name for path in hostile[: 1 if command[0] in ("locate", "carve") else 2]]
    force = ["--force"] if command[0] in ("extract", "expect") else []
    result = in_process(command[0], *files, *command[1:], *force)
    assert result.status in (0, 1, 2)
    for line in (result.stdout + result.stderr).replace("\r", "\n").split("\n"):
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
        assert line == line.rstrip()


def test_expectations_of_a_session_named_like_a_command_hold(
    hostile: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "e.toml").write_text(in_process("expect", *hostile, "--force").stdout)
    checked = in_process("check", *hostile, "--expect", tmp_path / "e.toml")
    assert "expected   met" in checked.stdout


@pytest.mark.parametrize(
    "command", [["owners"], ["blobs"], ["carve"], ["tree"], ["show", "--full"], ["addr", "LUO/*"]]
)
def test_at_40_columns_no_address_breaks_in_two(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    args = [command[0], DUMP, *([] if command[0] == "carve" else [DTB]), *command[1:]]
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = set(re.findall(r"0x[0-9a-f]*", in_process(*args).stdout))
    monkeypatch.setenv("COLUMNS", "40")
    narrow = in_process(*args).stdout
    assert set(re.findall(r"0x[0-9a-f]*", narrow)) <= whole
    assert max(map(len, narrow.splitlines())) <= 40


@pytest.mark.parametrize("width", range(12, 40))
def test_a_line_that_is_cut_has_an_address_whole_or_not_at_all(width: int) -> None:
    line = "scratch 0x6400000-0x7400000, 0x5400000"
    cut = cropped(Text(line), width).plain
    assert len(cut) <= width
    assert set(re.findall(r"0x[0-9a-f]*-?", cut)) <= {"0x6400000-", "0x7400000", "0x5400000"}
    assert not cut.endswith("-…")


def test_a_long_word_breaks_behind_a_slash() -> None:
    lines = folded(Text("at LUO/a-session/0xfeedfacecafebeef here"), 20).plain.split("\n")
    assert lines == ["at LUO/a-session/", "0xfeedfacecafebeef", "here"]


def test_the_first_screen_names_what_shows_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    monkeypatch.setenv("COLUMNS", "80")
    shown = in_process("show", DUMP, DTB).stdout
    assert "1 more: --full" in shown and "3 more: --full" in shown
    full = in_process("show", DUMP, DTB, "--full").stdout
    assert "more: --full" not in full and "0x4400000-0x5400000" in full


def test_one_finding_that_the_first_screen_leaves_out_is_no_findings(tmp_path: Path) -> None:
    image = Reference()
    for code in ("KHO504", "KHO505", "KHO506", "KHO508", "KHO511", "KHO512"):
        BROKEN[code].damage(image)
    dump, dtb = image.write(tmp_path)
    shown = in_process("show", dump, dtb).stdout
    assert "1 more finding: check" in shown


@pytest.mark.parametrize(
    "command",
    [
        *(["blobs"], ["blobs", "--json"], ["owners", "--json"], ["ranges", "--json"], ["tree"]),
        *(["files"], ["addr", "0x1000"], ["read", "blob/LUO"], ["find", "luo-"]),
        *(["extract", "-o", "x", "--json"], ["pack", "-o", "p.elf"]),
    ],
    ids=" ".join,
)
def test_a_status_of_1_has_its_reason_on_stderr(command: list[str], tmp_path: Path) -> None:
    image = Image()
    luo_v5(image, [Session(b"vm", [File(1, memfd(image, pattern(4096, 1)))])])
    image.subnode("gone", 1 << 50, 64)
    dtb = image.finish()
    files = save(image, tmp_path, dtb)
    output = [tmp_path / word if word in ("x", "p.elf") else word for word in command[1:]]
    result = in_process(command[0], *files, *output)
    assert result.status == 1
    assert "kho-inspect: damaged: " in result.stderr


def test_extract_says_on_stderr_that_content_is_lacking(tmp_path: Path) -> None:
    v1 = (REPO / "samples/x86_64-kho-v1.elf", REPO / "samples/x86_64-kho-v1.dtb")
    result = in_process("extract", *v1, "-o", tmp_path / "x")
    assert (result.status, "content is lacking" in result.stderr) == (1, True)


def test_every_value_of_addr_in_json_has_one_type() -> None:
    result = in_process("addr", REPO / DUMP, REPO / DTB, "0x719004", "0x100000", "--json")
    paths = [path for one in json.loads(result.stdout)["addresses"] for path in one["paths"]]
    assert {type(step["value"]) for path in paths for step in path["steps"]} == {str}


@pytest.mark.parametrize("where", ["0x1000:0:0x2000", "0x1000-0x3000:0", "0x1000+8K:0"])
def test_map_takes_ranges_in_each_form(where: str) -> None:
    assert RamMap().convert(where, None, None) == (0x1000, 0, 0x2000)


def test_a_kernel_that_is_not_known_is_usage_for_targets() -> None:
    result = in_process("targets", "linux-7.3", "linux-9.9")
    assert (result.status, result.stdout) == (2, "")
