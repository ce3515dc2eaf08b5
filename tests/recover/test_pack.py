"""Packed handovers: small, standard, and the same report."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kho_inspect.recover import pack as packing
from tests.support.captures import Capture
from tests.support.cli import DTB, DUMP, REPO, kho_inspect
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
