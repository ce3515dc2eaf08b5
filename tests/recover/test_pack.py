"""Packed handovers: small, standard, and the same report."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kho_inspect.cli.main import COMMANDS
from kho_inspect.memory import Presence, open_memory
from kho_inspect.recover import pack as packing
from kho_inspect.units import Extent
from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.captures import Capture, unpack
from tests.support.carving import lose, lose_map, went_wrong
from tests.support.cli import DTB, DUMP, REPO, kho_inspect
from tests.support.dump_files import Segment, write_elf
from tests.support.extracting import manifest
from tests.support.kdump_writer import lime_header, write_lime
from tests.support.luo_builder import File, Luo, Session, pattern
from tests.support.reference import PAGE, Reference
from tests.support.running import document, in_process


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


# -- handovers that went wrong

BARE = ("locate", "log", "carve")
"""Reports that take no DTB."""
REPORTS = (
    ["check"],
    ["check", "--root", "outgoing"],
    ["show"],
    ["owners"],
    ["tree"],
    ["blobs"],
    ["ranges"],
    ["files", "--long", "--sha256"],
    ["locate"],
    ["log"],
    ["carve"],
    ["carve", "--page-size", "16K"],
)


def _said(dump: Path, *report: str) -> tuple[int, str]:
    """What a report says of a dump, without the name and the format of the file."""
    dtb = [] if report[0] in BARE else ["auto"]
    result = in_process(report[0], dump, *dtb, *report[1:], "--json")
    found = json.loads(result.stdout) if result.stdout else {}
    page_size = found.pop("source", {}).get("page_size")
    text = json.dumps([page_size, found])
    return result.status, (text + result.stderr).replace(str(dump), "DUMP")


def _taken_out(dump: Path, folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    status = in_process("extract", "--carved", dump, "-o", folder, *options).status
    return status, manifest(folder) if folder.exists() else {}


def assert_packed_says_the_same(dump: Path, folder: Path, sessions: str) -> None:
    """With --content, each report; without it, all but what needs the contents."""
    reports = [*REPORTS, ["carve", "--sessions", sessions]]
    whole, less = folder / "whole.elf", folder / "less.elf"
    for packed, options in ((whole, ["--content"]), (less, [])):
        assert in_process("pack", dump, "-o", packed, *options).status in (0, 1, 4)
        assert packed.stat().st_size < dump.stat().st_size
    for report in reports:
        wanted = _said(dump, *report)
        assert _said(whole, *report) == wanted, report
        if report[0] not in ("files", "carve"):
            assert _said(less, *report) == wanted, report
    for number, options in enumerate(([], ["--sessions", sessions])):
        found, again = (
            _taken_out(path, folder / f"{path.name}-{number}", *options) for path in (dump, whole)
        )
        assert again == found
        assert found[1] or options, "carving yields something; there may be no sessions"
    same, left = document("carve", dump), document("carve", less)
    lacking = 0
    for one, other in zip(
        [*same["files"], *same["items"]], [*left["files"], *left["items"]], strict=True
    ):
        if other["sha256"] is None:
            lacking += 1
            one["sha256"] = None
        other["doubts"] = [text for text in other["doubts"] if "not in the dump" not in text]
        assert other == one
    assert lacking
    for name in ("source", "files", "items"):
        del same[name], left[name]
    assert left == same


@pytest.mark.parametrize("name", ["late-v3", "refused-v4-by-7.1"])
def test_a_real_handover_that_went_wrong_packed_says_the_same(name: str, tmp_path: Path) -> None:
    given = went_wrong(name) / "dump.raw.xz"
    if not given.is_file():
        pytest.skip(f"no dump at {given}: set KHO_CAPTURES to the folder of captures")
    dump = tmp_path / "dump.raw"
    unpack(given, dump)
    sessions = {"late-v3": "0x700000", "refused-v4-by-7.1": "0x73d000"}[name]
    assert_packed_says_the_same(dump, tmp_path, sessions)
    assert (tmp_path / "less.elf").stat().st_size < 2 << 20


def _lost(folder: Path) -> tuple[Path, Luo]:
    """A dump without map and root FDT, of sessions one of which counts wrongly."""
    image = Image()
    files = [
        File(number, write.memfd(image, pattern(9000 * number, number))) for number in (1, 2, 3)
    ]
    luo = write.luo_v5(image, [Session(b"vm", files[:2]), Session(b"other", files[2:])])
    image.write_u64(luo.sessions.entries[1] + 72, 9)
    write.memblock(image, [(b"trace", write.reserve_mem(image, 4)[1])])
    write.kho_test(image, [(0, pattern(4096, 5))])
    write.metadata(image, b"7.3.4", 2)
    lose(image, *(image.alloc() for _ in range(64)))
    lose_map(image)
    image.write_elf(folder / "dump.elf", declare_ram=True)
    return folder / "dump.elf", luo


def test_a_dump_without_a_root_fdt_is_packed_with_what_carving_yields(tmp_path: Path) -> None:
    dump, luo = _lost(tmp_path)
    assert_packed_says_the_same(dump, tmp_path, hex(luo.sessions.first))
    assert "carved/LUO/other/0x3" not in _taken_out(dump, tmp_path / "by-itself")[1]
    options = ("--sessions", hex(luo.sessions.first))
    known = _taken_out(tmp_path / "whole.elf", tmp_path / "known", *options)
    assert "carved/LUO/other/0x3" in known[1]
    result = in_process("pack", dump, "-o", tmp_path / "again.elf")
    assert result.status == 4
    assert "caution" in result.stderr
    assert "holds no KHO root FDT" in result.stderr


def test_content_of_carved_files_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    dump, _ = _lost(tmp_path)
    packed = tmp_path / "packed.elf"
    in_process("pack", dump, "-o", packed)
    content = pattern(9000, 1)[:64]
    assert content in dump.read_bytes()
    assert content not in packed.read_bytes()
    assert in_process("pack", dump, "-o", tmp_path / "none.elf", "--no-scratch").status == 3


def test_a_dump_that_yields_nothing_is_not_packed(tmp_path: Path) -> None:
    image = Image()
    lose(image, *(image.alloc() for _ in range(16)))
    image.write_elf(tmp_path / "dump.elf", declare_ram=True)
    result = in_process("pack", tmp_path / "dump.elf", "-o", tmp_path / "packed.elf")
    assert result.status == 3
    assert "holds no KHO root FDT" in result.stderr
    assert not (tmp_path / "packed.elf").exists()


SAID = ("decision", "integrity", "findings")
"""What does not name the file."""


def test_what_leads_to_the_handover_is_packed(tmp_path: Path) -> None:
    it, packed = Reference(), tmp_path / "packed.elf"
    dump, dtb = it.write(tmp_path)
    assert in_process("pack", dump, dtb, "-o", packed).status == 0
    memory = open_memory(str(packed))
    for paddr in (it.setup_data, it.scratch_table, it.fdt):
        assert memory.presence(paddr, PAGE - paddr % PAGE) is Presence.STORED
    before, after = (document("check", path, dtb) for path in (dump, packed))
    assert [after[name] for name in SAID] == [before[name] for name in SAID]
