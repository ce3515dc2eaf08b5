"""Text in pipes, in logs of CI, and in any encoding."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from kho_inspect.cli.door import Door
from kho_inspect.render.findings import _intervals
from kho_inspect.rules.engine import RULES
from tests.support.builder import Image
from tests.support.cli import DTB, DUMP, kho_inspect
from tests.support.luo_builder import File, Session, luo_v5, memfd, pattern


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
