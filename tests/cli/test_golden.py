"""What people see, to the letter; ``KHO_UPDATE_GOLDEN=1`` in the environment rewrites the files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.builder import Image
from tests.support.cli import DTB, DUMP, OUT_DTB, REPO, kho_inspect
from tests.support.luo_builder import File, Session, luo_v5, memfd, pattern
from tests.support.running import in_process

LOG = "samples/x86_64-refused.elf"
V1, V1_DTB = "samples/x86_64-kho-v1.elf", "samples/x86_64-kho-v1.dtb"
GOLDEN = REPO / "tests" / "golden"

VARIED: dict[str, list[str]] = {
    **{name: [DTB] for name in ("show", "check", "tree", "blobs", "owners", "ranges", "files")},
    "addr": [DTB, "LUO/vm-beta/0xfe*+0x2004"],
    "find": [DTB, "luo-session"],
    "locate": [],
}
"""Commands whose output is held at several widths, in a pipe, and in ASCII; and arguments."""

CASES: dict[str, tuple[int | None, list[str]]] = {
    "show": (80, [DUMP, DTB]),
    "show-wide": (200, [DUMP, DTB]),
    "show-recovered": (80, ["show", DUMP, OUT_DTB]),
    "show-json": (80, [DUMP, DTB, "--json"]),
    "check": (80, ["check", DUMP, DTB]),
    "check-json": (80, ["check", DUMP, DTB, "--json"]),
    "check-scratch": (80, ["check", DUMP, DTB, "--scratch", "0x6f0000+0x10000"]),
    "check-target": (80, ["check", DUMP, DTB, "--target", "linux-7.3"]),
    "check-github": (80, ["check", DUMP, DTB, "--target", "linux-7.3", "--format", "github"]),
    "check-junit": (80, ["check", DUMP, DTB, "--target", "linux-7.3", "--format", "junit"]),
    "check-sarif": (80, ["check", DUMP, DTB, "--target", "linux-7.3", "--format", "sarif"]),
    "expect": (80, ["expect", DUMP, DTB]),
    "explain": (80, ["explain", "KHO201", "KHO303"]),
    "explain-json": (80, ["explain", "KHO303", "--json"]),
    "tree": (80, ["tree", DUMP, DTB]),
    "tree-full": (80, ["tree", DUMP, DTB, "--full"]),
    "tree-json": (80, ["tree", DUMP, DTB, "--json"]),
    "ranges": (80, ["ranges", DUMP, DTB]),
    "ranges-by-order": (80, ["ranges", DUMP, DTB, "--by-order", "--limit", "5"]),
    "ranges-json": (80, ["ranges", DUMP, DTB, "--order", "1", "--json"]),
    "blobs": (80, ["blobs", DUMP, DTB]),
    "blobs-hexdump": (80, ["blobs", DUMP, DTB, "LUO", "--hexdump"]),
    "blobs-json": (80, ["blobs", DUMP, DTB, "kho_test", "--json"]),
    "owners": (80, ["owners", DUMP, DTB]),
    "owners-json": (80, ["owners", DUMP, DTB, "--json"]),
    "ranges-owners": (80, ["ranges", DUMP, DTB, "--owners"]),
    "addr": (80, ["addr", DUMP, DTB, "0x6d3010", "0x6f1000", "0x100000", "0x4a9000", "0x719004"]),
    "addr-json": (80, ["addr", DUMP, DTB, "0x719004", "--json"]),
    "addr-selector": (80, ["addr", DUMP, DTB, "LUO/vm-beta/0xfe*+0x2004", "pfn:0x719"]),
    "files": (80, ["files", DUMP, DTB]),
    "files-long": (120, ["files", DUMP, DTB, "*/0x1001", "LUO/vm-beta", "--long"]),
    "files-json": (80, ["files", DUMP, DTB, "--json", "--sha256"]),
    "read": (90, ["read", DUMP, DTB, "LUO/vm-alpha/0x1002+0x2fe0", "--length", "64"]),
    "read-u64": (80, ["read", DUMP, DTB, "0x6f0000+32", "--u64"]),
    "read-strings": (80, ["read", DUMP, DTB, "blob/LUO", "--strings"]),
    "read-json": (80, ["read", DUMP, DTB, "0x6f0000+32", "--json"]),
    "find": (80, ["find", DUMP, DTB, "luo-session"]),
    "find-json": (80, ["find", DUMP, DTB, "--u64", "0x6f0000", "--json"]),
    "show-v1": (80, [V1, V1_DTB]),
    "tree-v1": (80, ["tree", V1, V1_DTB]),
    "tree-v1-json": (80, ["tree", V1, V1_DTB, "--json"]),
    "addr-v1": (80, ["addr", V1, V1_DTB, "0x508000"]),
    "locate": (80, ["locate", DUMP]),
    "locate-kernels-json": (80, ["locate", LOG, "--json"]),
    "log-json": (80, ["log", LOG, "--kho", "--json"]),
    "show-located": (80, [DUMP]),
    **{
        f"{command}-{name}": (columns, [command, DUMP, *args])
        for command, args in VARIED.items()
        for name, columns in {"40": 40, "200": 200, "pipe": None, "ascii": 80}.items()
    },
    "help": (80, ["--help"]),
    "help-show": (80, ["show", "--help"]),
}


@pytest.mark.parametrize("name", CASES)
def test_output_and_exit_status(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, args = CASES[name]
    if name.endswith("-ascii"):
        result = kho_inspect(*args, columns=columns, env={"PYTHONIOENCODING": "ascii"})
        assert result.stdout.isascii() and "\\u" not in result.stdout
    else:
        monkeypatch.chdir(REPO)
        monkeypatch.setenv("COLUMNS", str(columns or ""))
        result = in_process(*args)
    assert result.stderr == ""
    seen = f"$ kho-inspect {' '.join(args)}\n{result.stdout}$ echo $?\n{result.status}\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("KHO_UPDATE_GOLDEN"):
        path.write_text(seen)
    assert seen == path.read_text()


def test_log_says_on_stderr_whose_it_is() -> None:
    result = kho_inspect("log", LOG, "--kho", "-x")
    seen = f"{result.stdout}--- stderr\n{result.stderr}--- {result.status}\n"
    path = GOLDEN / "log-kho.txt"
    if os.environ.get("KHO_UPDATE_GOLDEN"):
        path.write_text(seen)
    assert seen == path.read_text()


@pytest.mark.parametrize("name", sorted(CASES))
def test_no_line_is_wider_than_the_terminal(name: str) -> None:
    columns, args = CASES[name]
    if "--json" in args or "--format" in args:
        pytest.skip("for machines")
    if columns is None or args[0] == "read" or name.endswith("-ascii"):
        pytest.skip(
            "lines are not wrapped (a hexdump has its addresses in front), or marks are wider"
        )
    _, *lines, _, _ = (GOLDEN / f"{name}.txt").read_text().splitlines()
    assert [line for line in lines if len(line) > columns] == []


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("size", ["small", "large"])
def test_the_first_screen_of_any_handover(size: str, columns: int, tmp_path: Path) -> None:
    image = Image()
    sessions = [Session(b"vm-alpha", [_file(image, 1)])]
    if size == "large":
        sessions += [
            Session(b"bulk-%03d" % number, [_file(image, token) for token in range(4)])
            for number in range(61)
        ]
    luo_v5(image, sessions)
    (tmp_path / "kho.dtb").write_bytes(image.finish())
    image.write_elf(tmp_path / "dump.elf")
    result = kho_inspect("dump.elf", "kho.dtb", columns=columns, cwd=tmp_path)
    lines = result.stdout.splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= columns
    path = GOLDEN / f"first-{size}-{columns}.txt"
    if os.environ.get("KHO_UPDATE_GOLDEN"):
        path.write_text(result.stdout)
    assert (result.stdout, result.stderr, result.status) == (path.read_text(), "", 0)


def _file(image: Image, token: int) -> File:
    return File(token, memfd(image, pattern(4096, token)))
