"""Hazards of input that nobody vouches for, each test named after the symptom.

Here: budgets and their options, special files, paths that would steer a terminal. Elsewhere:

* budgets on nodes, runs, LUO's entries and vmalloc lists: ``test_limits``
* overlapping segments and ranges, headers without number; many names for one blob, many device
  trees in one memory: ``test_hostile_dumps``
* a dump that shrinks, Ctrl-C, closed pipes, full disks: ``test_endings``
* compressed bombs, a full TMPDIR: ``test_compressed``
* extraction (sizes, holes, names, links): ``test_extraction*``
* cycles of radix nodes, vmalloc chunks, blocks, kho-v1 chunks: ``test_radix``, ``test_vmalloc``,
  ``test_hostile_lists``, ``test_v1``
* many pointers to one thing: ``test_radix``, ``test_hostile_lists``
* counts up to 2^64, pointers that lie: ``test_hostile_contents``, ``test_vmalloc``, ``test_v1``
* names with escape sequences and markup: ``test_cli``, ``test_hostile_contents``,
  ``test_check_cli``
* device trees that are none, nesting, tokens, long names: ``test_fdt``
* damaged files of each dump format: ``test_formats_agree``, ``test_kdump``, ``test_flattened``,
  ``test_lime``
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import xml.etree.ElementTree as ET
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kho_inspect.cli.main import COMMANDS
from kho_inspect.limits import Limits
from kho_inspect.model.faults import FaultKind
from tests.support.builder import Image, Tree, fdt_blob, u32s
from tests.support.cli import DTB, DUMP, REPO
from tests.support.looking import look, messages
from tests.support.running import in_process

PAGE = 4096
BEGIN, END_NODE, PROP, NOP, END = (u32s(token) for token in (1, 2, 3, 4, 9))
ROOT = BEGIN + u32s(0)


# -- budgets


def test_every_budget_has_its_option() -> None:
    shown = in_process("show", "--help").stdout
    assert [f"--max-{budget.name} N" in shown for budget in fields(Limits)] == [True] * 6


@pytest.mark.parametrize("limit", ["100", "0x64"])
@pytest.mark.parametrize("command", [["show"], ["check"], ["addr", "0x1000"]])
def test_a_dtb_beyond_its_budget_names_the_option(command: list[str], limit: str) -> None:
    name, *more = command
    result = in_process(name, DUMP, DTB, *more, "--max-fdt", limit)
    assert (result.status, result.stdout) == (3, "")
    assert "more than 100 bytes; --max-fdt raises that" in result.stderr


def test_a_boot_dtb_beyond_its_budget_names_the_option(tmp_path: Path) -> None:
    boot = tmp_path / "boot.dtb"
    boot.write_bytes(fdt_blob(Tree(b"", [(b"filler", bytes(5000))])))
    result = in_process("check", DUMP, DTB, "--boot-dtb", boot, "--max-fdt", "4K")
    assert (result.status, "more than 4,096 bytes; --max-fdt" in result.stderr) == (3, True)
    assert "KHO115" in in_process("check", DUMP, DTB, "--boot-dtb", boot).stdout


@pytest.mark.parametrize("limit", ["plenty", "-1", "1X", "99999999999P"])
def test_a_budget_that_is_no_number_is_usage(limit: str) -> None:
    assert in_process("show", DUMP, DTB, "--max-blob", limit).status == 2


def test_a_budget_beyond_all_memory_costs_none() -> None:
    assert in_process("show", DUMP, DTB, "--max-fdt", "16384P", "--max-blob", "16384P").status == 0


def test_blobs_share_one_budget() -> None:
    image = Image()
    blobs = [image.blob(bytes(3 * PAGE)) for _ in range(3)]
    for number, paddr in enumerate(blobs):
        image.subnode(f"b{number}", paddr, 3 * PAGE)
    dtb = image.finish()
    enough = look(image, dtb, limits=Limits(blob=9 * PAGE))
    assert messages(enough, FaultKind.LIMIT) == []
    assert [blob.stored for blob in enough.blobs] == [True, True, True]
    short = look(image, dtb, limits=Limits(blob=8 * PAGE))
    assert [blob.stored for blob in short.blobs] == [True, True, False]
    (message,) = messages(short, FaultKind.LIMIT)
    assert "more than 32,768 bytes of blobs; --max-blob raises that" in message
    tiny = look(image, dtb, limits=Limits(blob=PAGE))
    assert len(messages(tiny, FaultKind.BLOB_TOO_LARGE)) == 3


def test_a_blob_that_is_too_large_a_tree_is_data_and_told() -> None:
    image = Image()
    inner = fdt_blob(Tree(b"", [(b"filler", bytes(5000))]))
    image.subnode("large", image.blob(inner), len(inner))
    dtb = image.finish()
    handover = look(image, dtb, limits=Limits(fdt=PAGE))
    assert (handover.blobs[0].stored, handover.blobs[0].fdt) == (True, None)
    (message,) = messages(handover, FaultKind.LIMIT)
    assert "more than 4,096 bytes; --max-fdt raises that" in message
    assert look(image, dtb).blobs[0].fdt is not None


# -- special files

KINDS = ["fifo", "socket", "folder", "/dev/zero", "/dev/full", "/dev/null", "tty", "block", "loop"]


def special(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(folder)  # its whole path may be too long for one
        socket.socket(socket.AF_UNIX).bind(kind)
    elif kind == "folder":
        path.mkdir()
    elif kind == "tty":
        path = Path(os.ttyname(os.openpty()[1]))
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "block":
        path.touch()
        real = os.stat
        made_up = os.stat_result([stat.S_IFBLK | 0o660, *[0] * 9])
        monkeypatch.setattr(
            os, "stat", lambda at, **k: made_up if at == str(path) else real(at, **k)
        )
    return path


PLACES = {
    "DUMP": ["show", "HERE", str(REPO / DTB)],
    "DTB": ["show", str(REPO / DUMP), "HERE"],
    "boot DTB": ["check", str(REPO / DUMP), str(REPO / DTB), "--boot-dtb", "HERE"],
    "expectations": ["check", str(REPO / DUMP), str(REPO / DTB), "--expect", "HERE"],
    "kcore": ["show", "--kcore", "HERE", "--debugfs", "DEBUGFS"],
}


def arguments(place: str, path: Path, folder: Path) -> list[str]:
    """The command line with the path in its place; a debugfs is made for ``--kcore``."""
    out = folder / "debug" / "kho" / "out"
    out.mkdir(parents=True)
    (out / "fdt").write_bytes((REPO / DTB).read_bytes())
    names = {"HERE": str(path), "DEBUGFS": str(folder / "debug")}
    return [names.get(arg, arg) for arg in PLACES[place]]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_special_file_is_refused_unopened(
    kind: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "fifo" and place not in ("DUMP", "kcore"):
        pytest.skip("what is read from its beginning to its end may be a pipe")
    path = special(kind, tmp_path, monkeypatch)
    args, real = arguments(place, path, tmp_path), os.open
    # Opening alone may block, rewind a tape, or take hold of a terminal.
    monkeypatch.setattr(
        os, "open", lambda at, *a, **k: real(at if at != str(path) else "", *a, **k)
    )
    result = in_process(*args)
    assert (result.status, result.stdout) == (3, "")
    assert len(result.stderr.splitlines()) <= 2
    why = {"folder": "is a directory", "loop": "Too many levels"}.get(kind, "not a regular file")
    assert why in result.stderr.splitlines()[0]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("place", PLACES)
def test_a_file_that_nobody_may_open_is_said(
    place: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "locked", os.open
    path.touch()
    args = arguments(place, path, tmp_path)

    def refuse(at: Any, *args: Any, **named: Any) -> int:
        if at == str(path):
            raise OSError(number, os.strerror(number))
        return real(at, *args, **named)

    monkeypatch.setattr(os, "open", refuse)
    result = in_process(*args)
    assert (result.status, result.stdout) == (3, "")
    assert f"{path}: {os.strerror(number)}" in result.stderr


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")
def test_a_file_that_only_says_it_is_empty_is_to_be_copied() -> None:
    result = in_process("show", "/proc/self/maps", DTB)
    assert result.status == 3
    assert "/proc/self/maps is empty" in result.stderr
    assert "Of /proc or /sys: copy it first" in result.stderr
    result = in_process("show", DUMP, "/proc/self/maps")
    assert (result.status, "magic is" in result.stderr) == (3, True)


# -- paths that would steer a terminal

ODD = "\x1b[31m[bold]\n\x9b2J‮\udcff.bin"


@pytest.fixture
def oddly_named(tmp_path: Path) -> tuple[Path, Path]:
    dump, dtb = tmp_path / f"dump{ODD}", tmp_path / f"dtb{ODD}"
    dump.write_bytes((REPO / DUMP).read_bytes())
    dtb.write_bytes((REPO / DTB).read_bytes())
    return dump, dtb


def assert_plain(text: str) -> None:
    assert [char for char in text if char != "\n" and not char.isprintable()] == []


@pytest.mark.parametrize(
    "args",
    [
        *([command] for command in COMMANDS if command != "explain"),
        *(["check", "--target", "v4", "--format", form] for form in ("sarif", "junit", "github")),
        ["check", "--expect", "DTB"],
        ["check", "--boot-dtb", "DUMP"],
        ["check", "--json"],
        ["show", "--json"],
        ["locate", "--json"],
        ["locate", "--write-dtb", "DUMP"],
        ["pack", "--json", "--force"],
        ["extract", ODD],
        ["blobs", ODD],
        ["ranges", ODD, "more"],
        ["ranges", f"--{ODD}"],
        ["ranges", "--base", ODD],
        ["ranges", "--map", ODD],
        ["ranges", "--dump-format", ODD],
    ],
    ids=lambda args: str(args).replace(repr(ODD)[1:-1], "ODD"),
)
def test_a_path_or_argument_reaches_no_terminal_as_it_is(
    args: list[str], oddly_named: tuple[Path, Path], tmp_path: Path
) -> None:
    dump, dtb = oddly_named
    command, *more = args
    given = {"DUMP": str(dump), "DTB": str(dtb)}
    files = [dump] if command == "locate" else [dump, dtb]
    out = ["-o", str(tmp_path / ODD)]
    needed: dict[str, list[str]] = {"extract": out, "pack": out, "addr": ["0x1000"]}
    needed |= {"read": ["0x6d3000"], "find": ["luo"]}
    result = in_process(
        command, *files, *(given.get(arg, arg) for arg in more), *needed.get(command, [])
    )
    assert result.stdout or result.stderr
    assert_plain(result.stdout.replace("\t", " "))  # between fields
    assert_plain(result.stderr)
    if "--json" in args or "sarif" in args:
        json.loads(result.stdout)
    if "junit" in args:
        ET.fromstring(result.stdout)


def test_unreadable_paths_are_escaped(tmp_path: Path) -> None:
    for files in ((tmp_path / ODD, DTB), (DUMP, tmp_path / ODD)):
        result = in_process("show", *files)
        assert result.status == 3
        assert_plain(result.stderr)
        assert len(result.stderr.splitlines()) == 1
