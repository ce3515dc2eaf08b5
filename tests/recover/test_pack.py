"""Packed handovers: small, standard, and the same report."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kho_inspect.cli.main import COMMANDS
from kho_inspect.memory import open_memory
from kho_inspect.recover import pack as packing
from kho_inspect.units import Extent
from tests.support.captures import Capture
from tests.support.cli import DTB, DUMP, REPO, kho_inspect
from tests.support.dump_files import Segment, write_elf
from tests.support.kdump_writer import lime_header, write_lime
from tests.support.running import in_process


def _report(command: str, dump: Path | str, dtb: Path | str, *options: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        kho_inspect(command, dump, dtb, "--json", *options).stdout
    )
    document.pop("source")
    return document


@pytest.mark.parametrize("content", [False, True])
def test_reports_on_the_packed_file_are_equal(
    capture: Capture, tmp_path: Path, content: bool
) -> None:
    packed = tmp_path / "packed.elf"
    base = ("--base", hex(capture.base)) if capture.base else ()
    extra = ("--content",) if content else ()
    result = kho_inspect("pack", capture.dump, capture.dtb, *base, *extra, "-o", packed)
    assert result.status == 0, result.stderr
    for command in ("show", "check", "owners", "tree"):
        full = _report(command, capture.dump, capture.dtb, *base)
        assert _report(command, packed, capture.dtb) == full
    assert packed.stat().st_size < capture.dump.stat().st_size / 100


def test_packing_a_packed_file_changes_nothing(tmp_path: Path) -> None:
    first, second = tmp_path / "first.elf", tmp_path / "second.elf"
    kho_inspect("pack", DUMP, DTB, "-o", first)
    kho_inspect("pack", first, DTB, "-o", second)
    assert first.read_bytes() == second.read_bytes()


def test_content_left_out_is_not_stored_but_no_fault(tmp_path: Path) -> None:
    packed = tmp_path / "packed.elf"
    kho_inspect("pack", DUMP, DTB, "-o", packed)
    assert kho_inspect("check", packed, DTB).status == 0
    info = json.loads(kho_inspect("addr", packed, DTB, "0x719004", "--json").stdout)
    assert info["addresses"][0]["presence"] == "not stored"
    result = kho_inspect("extract", packed, DTB, "LUO", "-o", tmp_path / "out", "--json")
    assert result.status == 1
    gaps = [gap for item in json.loads(result.stdout)["items"] for gap in item["gaps"]]
    assert {gap["why"] for gap in gaps} == {"not stored"}


def test_content_comes_out_again(tmp_path: Path) -> None:
    packed = tmp_path / "packed.elf"
    kho_inspect("pack", DUMP, DTB, "--content", "-o", packed)
    digests = []
    for dump in (REPO / DUMP, packed):
        result = kho_inspect("extract", dump, DTB, "-o", tmp_path / dump.stem, "--json")
        digests.append(
            {item["selector"]: item["sha256"] for item in json.loads(result.stdout)["items"]}
        )
    assert digests[0] == digests[1]


def test_provenance_is_in_a_note(tmp_path: Path) -> None:
    packed = tmp_path / "packed.elf"
    kho_inspect("pack", DUMP, DTB, "-o", packed)
    data = packed.read_bytes()
    start = data.index(b"KHO-INSPECT\0") + 12
    facts = json.loads(data[start : data.index(b"}", start) + 1])
    assert (facts["compatible"], facts["fdt"]) == ("kho-v2", "0x4a4000")


def test_readelf_reads_the_packed_file(tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf here")
    packed = tmp_path / "packed.elf"
    kho_inspect("pack", DUMP, DTB, "-o", packed)
    done = subprocess.run(["readelf", "-lnW", packed], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "CORE (Core file)" in done.stdout
    assert "KHO-INSPECT" in done.stdout


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    packed = tmp_path / "packed.elf"
    packed.write_text("mine")
    result = kho_inspect("pack", DUMP, DTB, "-o", packed)
    assert (result.status, "--force" in result.stderr) == (3, True)
    assert packed.read_text() == "mine"
    assert kho_inspect("pack", DUMP, DTB, "-o", packed, "--force").status == 0


def test_more_runs_than_are_read_back_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MAX_SEGMENTS", 5)
    out = tmp_path / "packed.elf"
    result = in_process("pack", REPO / DUMP, REPO / DTB, "-o", out)
    assert result.status == 3
    assert "more than the 5 segments that are read back" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    result = kho_inspect("pack", DUMP, DTB, "-o", tmp_path / "nowhere" / "packed.elf")
    assert (result.status, result.stdout) == (3, "")
    assert "cannot write" in result.stderr


@pytest.mark.parametrize("form", ["lime", "elf"])
@pytest.mark.parametrize("start", [0, 0x1000, (1 << 64) - 0x1000])
def test_memory_up_to_the_last_address_made_pack_raise(
    tmp_path: Path, form: str, start: int
) -> None:
    dump, packed, last = tmp_path / "dump", tmp_path / "packed.elf", (1 << 64) - 1
    if form == "lime":
        dump.write_bytes(lime_header(start, last) + b"x" * 4096)
    else:
        write_elf(dump, [Segment(start, b"x" * 4096, last), Segment(last - 4095, b"", last)])
    for more in ((), ("--content",), ("--no-scratch",)):
        result = in_process("pack", dump, REPO / DTB, "-o", packed, "--force", *more)
        assert (result.status in (1, 4), packed.exists()) == (True, True), result.stderr
        assert open_memory(str(packed)).declared == (Extent(start, 1 << 64),)
        packed.unlink()


@pytest.mark.parametrize("form", ["lime", "elf"])
def test_memory_up_to_the_last_address_ends_no_command(tmp_path: Path, form: str) -> None:
    memory, dump, last = open_memory(str(REPO / DUMP)), tmp_path / "dump", (1 << 64) - 1
    parts = [(one.start, bytes(memory.read(one.start, one.size))) for one in memory.stored]
    top = parts[-1][0] + len(parts[-1][1])
    if form == "lime":
        write_lime(dump, parts)
        with dump.open("ab") as file:
            file.write(lime_header(top, last) + b"x" * 4096)
    else:
        write_elf(dump, [*(Segment(*part) for part in parts), Segment(top, b"x" * 4096, last)])
    for command in COMMANDS:
        more: dict[str, list[str | Path]] = {
            "addr": [hex(last)],
            "read": ["0xfffffffffffffff0+16"],
            "find": ["LUO"],
            "extract": ["-o", tmp_path / "out"],
            "pack": ["-o", tmp_path / "packed"],
        }
        dtb = [] if command in ("locate", "log", "carve") else [REPO / DTB]
        if command not in ("targets", "explain"):
            result = in_process(command, dump, *dtb, *more.get(command, []))
            assert result.status in (0, 1, 3, 4), result
            assert "internal error" not in result.stderr
