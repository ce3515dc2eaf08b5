"""``--live`` on synthetic kcore and debugfs trees."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from kho_inspect.cli.main import run
from kho_inspect.memory.kcore import open_kcore
from tests.support.cli import DTB, DUMP, OUT_DTB, REPO, kho_inspect


@pytest.fixture
def kcore(tmp_path: Path) -> Path:
    """The sample's memory as /proc/kcore lays it out: with segments that are virtual only."""
    data = (REPO / DUMP).read_bytes()
    phnum = struct.unpack_from("<H", data, 56)[0]
    table = data[64 : 64 + 56 * phnum]
    shift = 56 * 2
    loads = b""
    for at in range(0, len(table), 56):
        kind, flags, offset, *rest = struct.unpack_from("<IIQQQQQQ", table, at)
        loads += struct.pack("<IIQQQQQQ", kind, flags, offset + shift, *rest)
    vmalloc = struct.pack("<IIQ2Q3Q", 1, 7, 64, 0xFFFFC90000000000, 2**64 - 1, 1 << 20, 1 << 20, 0)
    head = bytearray(data[:64])
    head[56:58] = struct.pack("<H", phnum + 2)
    path = tmp_path / "kcore"
    path.write_bytes(bytes(head) + vmalloc + loads + vmalloc + data[64 + 56 * phnum :])
    return path


@pytest.fixture
def debugfs(tmp_path: Path) -> Path:
    """A debugfs in which a kernel was handed the sample's handover."""
    root = tmp_path / "debug"
    (root / "kho" / "in").mkdir(parents=True)
    (root / "kho" / "out").mkdir()
    (root / "kho" / "in" / "fdt").write_bytes((REPO / DTB).read_bytes())
    (root / "kho" / "out" / "fdt").write_bytes((REPO / OUT_DTB).read_bytes())
    return root


def test_live_reads_like_the_dump(kcore: Path, debugfs: Path) -> None:
    for command in ("show", "check", "owners", "ranges"):
        live = json.loads(kho_inspect(command, "--live", kcore, debugfs, "--json").stdout)
        dump = json.loads(kho_inspect(command, DUMP, DTB, "--json").stdout)
        assert {**live, "source": None} == {**dump, "source": None}


def test_provenance_is_kept_wherever_its_note_stands(
    kcore: Path, debugfs: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "packed.elf"
    result = kho_inspect("pack", "--live", kcore, debugfs, "-o", packed)
    assert result.status == 0, result.stderr
    assert b'"source": "x86_64-kho-v2' in packed.read_bytes()


def test_the_outgoing_fdt_serves_where_nothing_came_in(kcore: Path, debugfs: Path) -> None:
    (debugfs / "kho" / "in" / "fdt").unlink()
    result = kho_inspect("--live", kcore, debugfs, "--json")
    document = json.loads(result.stdout)
    assert (result.status, document["fdt"]["recovered"]) == (0, True)


def test_virtual_segments_are_passed_over(kcore: Path) -> None:
    assert open_kcore(str(kcore)).declared[-1].end == 128 << 20


def test_nothing_is_written(kcore: Path, debugfs: Path) -> None:
    for path in (kcore, debugfs / "kho" / "in" / "fdt"):
        path.chmod(0o444)
    before = {path: path.stat().st_mtime_ns for path in debugfs.rglob("*")}
    assert kho_inspect("--live", kcore, debugfs).status == 0
    assert {path: path.stat().st_mtime_ns for path in debugfs.rglob("*")} == before


def _complaint(*args: object) -> str:
    result = kho_inspect("--live", *map(str, args))
    assert (result.status, result.stdout) == (3, "")
    return " ".join(result.stderr.split())


def test_debugfs_that_is_not_mounted_is_said(kcore: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "try: mount -t debugfs" in _complaint(kcore, tmp_path / "empty")
    assert "try: mount -t debugfs" in _complaint(kcore, tmp_path / "nowhere")


def test_a_kernel_without_kho_is_said(kcore: Path, tmp_path: Path) -> None:
    (tmp_path / "debug" / "bdi").mkdir(parents=True)
    assert "boot with kho=on" in _complaint(kcore, tmp_path / "debug")


def test_no_handover_at_all_is_said(kcore: Path, debugfs: Path) -> None:
    for name in ("in", "out"):
        (debugfs / "kho" / name / "fdt").unlink()
    assert "neither in/fdt nor out/fdt" in _complaint(kcore, debugfs)


def test_no_kcore_is_said(tmp_path: Path, debugfs: Path) -> None:
    assert "CONFIG_PROC_KCORE" in _complaint(tmp_path / "kcore", debugfs)


@pytest.mark.parametrize(
    ("errno", "hint"), [(13, "sudo kho-inspect --live"), (1, "kernel lockdown forbids it")]
)
def test_permission_and_lockdown_are_told_apart(
    kcore: Path,
    debugfs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    errno: int,
    hint: str,
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno, os.strerror(errno))

    monkeypatch.setattr(os, "pread", refuse)
    assert run(["--live", str(kcore), str(debugfs)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert hint in captured.err
