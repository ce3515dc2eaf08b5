"""What is read from a pipe: a DTB, expectations, places; each once, and by no one else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.cli import DTB, DUMP, OUT_DTB, REPO, Result
from tests.support.running import in_process

TREE = (REPO / DTB).read_bytes()


@pytest.fixture(autouse=True)
def one_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as the processes that are compared with this one."""
    monkeypatch.setenv("COLUMNS", "80")


def piped(*args: str | Path, stdin: bytes | None = None) -> Result:
    """A run with bytes in a pipe as stdin; None: with stdin closed."""
    closed = [] if stdin is not None else ["bash", "-c", '"$@" <&-', "bash"]
    done = subprocess.run(
        [*closed, sys.executable, "-m", "kho_inspect", *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONIOENCODING": "utf-8", "COLUMNS": "80"},
        cwd=REPO,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_dtb_from_stdin_reads_as_from_its_file() -> None:
    named = in_process("check", REPO / DUMP, REPO / DTB)
    assert piped("check", REPO / DUMP, "-", stdin=TREE) == named
    shown = piped("show", DUMP, "-", stdin=TREE)
    assert (shown.status, shown.stderr) == (0, "")
    assert "bytes: stdin\n" in shown.stdout


@pytest.mark.parametrize("name", ["fifo", "/dev/stdin"])
def test_a_dtb_from_a_named_pipe_is_read(name: str, tmp_path: Path) -> None:
    path = name
    if name == "fifo":
        path = str(tmp_path / name)
        os.mkfifo(path)
        writer = threading.Thread(target=Path(path).write_bytes, args=(TREE,))
        writer.start()
    result = piped("tree", DUMP, path, stdin=TREE)
    assert result.stdout == in_process("tree", REPO / DUMP, REPO / DTB).stdout
    assert (result.status, result.stderr) == (0, "")


def test_a_dtb_that_debugfs_cut_short_is_completed_from_a_pipe_too() -> None:
    result = piped("show", DUMP, "-", "--json", stdin=(REPO / OUT_DTB).read_bytes())
    document = json.loads(result.stdout)
    assert (result.status, document["fdt"]["recovered"]) == (0, True)
    assert document["check"]["capture"]["reasons"][0].startswith("stdin holds only ")


@pytest.mark.parametrize("at", [0, 9, 40, 60])
def test_a_damaged_dtb_is_judged_from_a_pipe_as_from_its_file(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read a second time, to see how much of it there is."""
    bad = TREE[:at] + b"\xff" * 4 + TREE[at + 4 :]
    monkeypatch.chdir(tmp_path)
    Path("stdin").write_bytes(bad)
    assert piped("check", REPO / DUMP, "-", stdin=bad) == in_process("check", REPO / DUMP, "stdin")


def test_an_empty_pipe_and_a_closed_stdin_are_said() -> None:
    for stdin in (b"", None):
        result = piped("check", DUMP, "-", stdin=stdin)
        assert (result.status, result.stdout) == (3, "")
        assert result.stderr.startswith("kho-inspect: stdin is empty\n")
    result = piped("addr", DUMP, DTB, "-", stdin=None)
    assert (result.status, result.stdout, result.stderr) == (0, "", "")


def test_a_pipe_without_end_is_read_up_to_the_limit() -> None:
    command = [sys.executable, "-m", "kho_inspect", "check", DUMP, "-", "--max-fdt", "4K"]
    with subprocess.Popen(
        command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as done:
        assert done.stdin is not None
        try:
            while done.poll() is None:
                done.stdin.write(bytes(1 << 16))
        except BrokenPipeError:
            pass
        assert done.wait(60) == 3
        assert done.stderr is not None
        assert b"magic is 00000000" in done.stderr.read()
        done.stdin = None  # what is left of its buffer cannot be written


def test_stdin_is_one_input_only() -> None:
    for args, words in (
        (["addr", DUMP, "-", "-"], "cannot be both DTB and PLACE: name a file, or auto"),
        (["addr", DUMP, DTB, "-", "-"], "cannot be both PLACE and PLACE: name a file"),
        (["check", DUMP, "-", "--expect", "-"], "cannot be both DTB and --expect"),
        (["show", DUMP, "-", "--boot-dtb", "-"], "cannot be both DTB and --boot-dtb"),
        (["check", "-", DTB], "DUMP cannot be stdin: it is mapped"),
    ):
        result = in_process(*args)
        assert (result.status, result.stdout) == (2, "")
        assert words in " ".join(result.stderr.split())


def test_auto_is_the_root_fdt_in_the_dump() -> None:
    left_out = in_process("ranges", REPO / DUMP)
    assert in_process("ranges", REPO / DUMP, "auto") == left_out
    assert (left_out.status, left_out.stderr) == (0, "")
    assert in_process("addr", REPO / DUMP, "auto", "0x4a4000").status == 0
