"""Capture, decision and integrity: what is claimed, and that no more is."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import pytest

from kho_inspect.inspection import examine
from kho_inspect.rules.base import Subject
from kho_inspect.rules.engine import ASKED_FOR, RULES, judge
from tests.support import luo_builder as write
from tests.support.broken import BROKEN
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.captures import HOME, Capture
from tests.support.reference import Reference
from tests.support.running import document, in_process, save

PAGE = 4096
LATE = HOME.parent / "went-wrong" / "late-v3"
DUMP, DTB = "samples/x86_64-kho-v2.elf", "samples/x86_64-kho-v2.dtb"


def states(found: dict[str, Any]) -> tuple[str, str, str]:
    """Of capture, decision and integrity."""
    return found["capture"]["state"], found["decision"]["state"], found["integrity"]["state"]


def put(folder: Path, *damages: str) -> tuple[Path, Path]:
    """The reference with damage."""
    it = Reference()
    for code in damages:
        BROKEN[code].damage(it)
    dump, dtb = it.write(folder)
    return Path(dump), Path(dtb)


def test_a_sound_handover(tmp_path: Path) -> None:
    files = put(tmp_path)
    found = document("check", *files)
    assert states(found) == ("complete", "accepts", "no-defect")
    assert (found["expectations"]["state"], found["capture"]["suggestion"]) == ("none", None)
    assert in_process("check", *files).status == 0


def test_no_rule_ran_is_not_sound(tmp_path: Path) -> None:
    files = put(tmp_path)
    found = document("check", *files, "--ignore", "KHO")
    assert (found["integrity"]["state"], found["integrity"]["ran"]) == ("undecided", 0)
    assert in_process("check", *files, "--ignore", "KHO").status == 4


@pytest.mark.parametrize("options", [[], ["--select", "KHO5"], ["--ignore", "KHO201"]])
def test_a_dump_taken_after_boot_is_not_judged(options: list[str], tmp_path: Path) -> None:
    files = put(tmp_path, "KHO201")
    assert states(document("check", *files, *options)) == ("recycled", "unknown", "undecided")
    assert in_process("check", *files, *options).status == 4
    assert in_process("show", *files).status == 4
    assert in_process("check", *files, "--fail-on", "never").status == 0


def test_a_real_dump_taken_after_boot(tmp_path: Path) -> None:
    if not LATE.exists():
        pytest.skip("the captures are not here")
    dump = tmp_path / "dump.raw"
    with lzma.open(LATE / "dump.raw.xz") as packed, dump.open("wb") as out:
        shutil.copyfileobj(packed, out)
    found = document("check", dump, LATE / "kho.dtb")
    assert states(found) == ("recycled", "unknown", "undecided")
    assert in_process("check", dump, LATE / "kho.dtb").status == 4


def test_captures_are_complete_and_accepted(capture: Capture) -> None:
    found = document("check", capture.dump, capture.dtb, "--base", hex(capture.base))
    assert states(found) == ("complete", "accepts", "no-defect")


def test_an_all_zero_root_page_is_not_recycled_memory(tmp_path: Path) -> None:
    it = Reference()
    it.image.write(it.image.root, bytes(PAGE))
    files = it.write(tmp_path)
    found = document("check", *files)
    assert states(found) == ("incomplete", "unknown", "undecided")
    (reason,) = found["capture"]["reasons"]
    assert "cleared in the old kernel, or left out" in reason
    assert in_process("check", *files).status == 4


def test_a_text_file_is_no_late_dump(tmp_path: Path) -> None:
    _, dtb = put(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("What went wrong?\n" * 400_000)
    found = document("check", text, dtb)
    assert states(found) == ("mismatch", "unknown", "undecided")
    assert in_process("check", text, dtb).status == 4


def test_another_dumps_dtb_does_not_fit(tmp_path: Path) -> None:
    dump, _ = put(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = Image(ram=(0x10_0000_0000, 64 << 20))
    stranger.subnode("x", stranger.blob(b"x" * 16), 16)
    _, dtb = save(stranger, tmp_path / "other", stranger.finish())
    found = document("check", dump, dtb)
    assert states(found) == ("mismatch", "unknown", "undecided")
    assert in_process("check", dump, dtb).status == 4


def test_an_unknown_abi_read_as_another_is_undecided(tmp_path: Path) -> None:
    files = put(tmp_path, "KHO104")
    found = document("check", *files, "--assume-abi", "kho-v4")
    assert states(found) == ("complete", "unknown", "undecided")
    assert in_process("check", *files, "--assume-abi", "kho-v4").status == 4
    assert in_process("check", *files).status == 4
    refused = document("check", *files, "--target", "linux-7.3")
    (reason,) = refused["decision"].pop("reasons")
    assert reason.startswith("KHO105: fdt_node_check_compatible() in kho_populate()")
    assert refused["decision"] == {"state": "refuses", "target": "linux-7.3"}
    assert in_process("check", *files, "--target", "linux-7.3").status == 1


def test_a_truncated_dump_is_incomplete(tmp_path: Path) -> None:
    data = Path(DUMP).read_bytes()
    cut = tmp_path / "cut.elf"
    cut.write_bytes(data[: len(data) // 2])
    found = document("check", cut, DTB)
    assert found["capture"]["state"] == "incomplete"
    assert found["decision"]["state"] == "unknown"
    assert in_process("check", cut, DTB).status in (1, 4)


def test_a_raw_dump_that_was_cut_short_is_not_complete(capture: Capture, tmp_path: Path) -> None:
    if capture.base:
        pytest.skip("one machine is enough")
    cut = tmp_path / "dump.raw"
    shutil.copyfile(capture.dump, cut)
    with cut.open("r+b") as file:
        file.truncate(64 << 20)
    found = document("check", cut, capture.dtb)
    assert states(found)[:2] == ("incomplete", "unknown")
    assert "cut short" in found["capture"]["reasons"][0]
    assert in_process("check", cut, capture.dtb).status == 4


def test_a_missed_expectation_is_no_damage(tmp_path: Path) -> None:
    files = put(tmp_path)
    wishes = tmp_path / "expect.toml"
    wishes.write_text('[subnodes]\nrequired = ["nowhere"]\n')
    found = document("check", *files, "--expect", wishes)
    assert states(found) == ("complete", "accepts", "no-defect")
    assert found["expectations"] == {"state": "differ"}
    assert {finding["about"] for finding in found["findings"]} == {"expectation"}
    assert in_process("check", *files, "--expect", wishes).status == 1


@pytest.mark.parametrize("luo", [False, True])
def test_rules_on_what_is_not_there_do_not_pass(luo: bool, tmp_path: Path) -> None:
    """Without LUO; with a file in it that is no memfd."""
    image = Image()
    image.subnode("x", image.blob(b"x" * 16), 16)
    if luo:
        write.luo_v5(image, [write.Session(b"s", [write.File(1, compatible=b"opaque", data=1)])])
    dump, dtb = save(image, tmp_path, image.finish())
    verdict = judge(examine(str(dump), str(dtb)))
    present = {None, Subject.RADIX, *([Subject.LUO] if luo else [])}
    asked = [rule for rule in RULES if ASKED_FOR.isdisjoint(rule.needs)]
    absent = {rule.code for rule in asked if rule.subject not in present}
    assert set(verdict.not_applicable) == absent - verdict.blocked_codes
    assert len(absent) > 20


def test_what_is_required_must_not_be_blocked(tmp_path: Path) -> None:
    image = Image()
    image.subnode("x", image.blob(b"x" * 16), 16)
    dump, dtb = save(image, tmp_path, image.finish())
    assert in_process("check", dump, dtb).status == 0
    assert in_process("check", dump, dtb, "--require", "KHO303").status == 4  # no scratch table
    assert in_process("check", dump, dtb, "--require", "all").status == 4
    assert in_process("check", dump, dtb, "--require", "KHO204").status == 0


def test_an_error_of_the_program_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("kho_inspect.inspection.examine", fail)
    result = in_process("check", *put(tmp_path))
    assert (result.status, result.stdout) == (70, "")
    assert result.stderr.startswith("kho-inspect: internal error: ZeroDivisionError")


def test_the_first_screen_is_twenty_lines(capture: Capture) -> None:
    result = in_process("show", capture.dump, capture.dtb, "--base", hex(capture.base))
    assert len(result.stdout.splitlines()) <= 20


def test_a_forgotten_base_is_named(tmp_path: Path) -> None:
    image = Image(ram=(0x4000_0000, 64 << 20))
    for name in ("x", "y"):
        image.subnode(name, image.blob(fdt_blob(Tree(b"", [(b"compatible", b"x\0")]))), 4096)
    dtb, dump = tmp_path / "kho.dtb", tmp_path / "dump.raw"
    dtb.write_bytes(image.finish())
    image.write_raw(dump, 0x4000_0000)
    found = document("check", dump, dtb)
    assert states(found) == ("mismatch", "unknown", "undecided")
    assert found["capture"]["suggestion"] == "--base 0x40000000"
    assert in_process("check", dump, dtb).status == 4
    assert in_process("check", dump, dtb, "--base", "0x40000000").status == 0


def test_ram_around_a_pci_hole_that_was_concatenated_is_no_late_dump(tmp_path: Path) -> None:
    image = Image(ram=(1 << 20, 5 << 30))
    text = fdt_blob(Tree(b"", [(b"compatible", b"x\0")]))
    image.subnode("below", image.blob(text), 4096)
    image._next = (4 << 30) + (64 << 20)
    for name in ("x", "y"):
        image.alloc(2)
        image.subnode(name, image.blob(text), 4096)
    dtb, dump = tmp_path / "kho.dtb", tmp_path / "dump.raw"
    dtb.write_bytes(image.finish())
    image.write_blocks(dump, [(0, 2 << 30), (4 << 30, 1 << 30)])
    found = document("check", dump, dtb)
    assert states(found) == ("mismatch", "unknown", "undecided")
    around_hole = "--map 0x0:0x0:0x80000000 --map 0x100000000:0x80000000:0x40000000"
    assert found["capture"]["suggestion"] == around_hole
    assert in_process("check", dump, dtb).status == 4
    assert in_process("check", dump, dtb, *around_hole.split()).status == 0


@pytest.mark.parametrize("size", ["4K", "16K", "64K"])
def test_a_wrong_page_size_is_named(size: str, capture: Capture) -> None:
    if capture.truth["compatible"] != "kho-v4":
        pytest.skip("one ABI is enough")
    args: list[str | Path] = ["check", capture.dump, capture.dtb]
    args += ["--base", hex(capture.base), "--page-size", size]
    found = document(*args)
    right = f"{capture.truth['page_size'] // 1024}K"
    if size == right:
        assert found["capture"]["state"] == "complete"
    else:
        assert states(found) == ("mismatch", "unknown", "undecided")
        assert found["capture"]["suggestion"] == f"--page-size {right}"
        assert in_process(*args).status == 4


@pytest.mark.parametrize("command", ["tree", "ranges", "owners", "blobs"])
def test_other_commands_caution_on_a_dump_taken_after_boot(command: str, tmp_path: Path) -> None:
    result = in_process(command, *put(tmp_path, "KHO201"))
    assert result.status == 4
    assert result.stderr.startswith("kho-inspect: caution: capture recycled: ")


@pytest.mark.parametrize("args", [["blobs"], ["show", "--full"]])
def test_a_map_that_is_none_does_not_say_that_a_blob_is_not_preserved(
    args: list[str], tmp_path: Path
) -> None:
    files = put(tmp_path, "KHO201")
    rows = in_process(*args, *files).stdout.splitlines()
    (row,) = [row for row in rows if row.split()[:1] == ["memblock"] and "0x" in row]
    assert "NO" not in row.split()
    assert "?" in row.split()


@pytest.mark.parametrize("command", ["show", "blobs"])
def test_preserved_is_null_in_json_where_the_map_is_none(command: str, tmp_path: Path) -> None:
    found = json.loads(in_process(command, *put(tmp_path, "KHO201"), "--json").stdout)
    assert {blob["preserved"] for blob in found["blobs"]} == {None}


def test_addr_does_not_know_on_a_dump_taken_after_boot(tmp_path: Path) -> None:
    files = put(tmp_path, "KHO201")
    result = in_process("addr", *files, "0x200000")
    assert result.status == 4
    assert "unknown whether preserved" in result.stdout
    assert "overwritten" not in result.stdout
    (found,) = json.loads(in_process("addr", *files, "0x200000", "--json").stdout)["addresses"]
    assert found["preserved"] is None


@pytest.mark.parametrize(("raw", "state"), [(True, "incomplete"), (False, "complete")])
def test_owned_memory_outside_ram_is_lacking_only_where_no_header_names_the_ram(
    raw: bool, state: str, tmp_path: Path
) -> None:
    image = Image()
    image.preserve(1 << 34, 0)
    made = write.memfd(image, b"", size=PAGE, extra=[((1 << 34) >> 12 | 3 << 52, 0)])
    write.luo_v5(image, [write.Session(b"vm", [write.File(1, made)])])
    dump, dtb = save(image, tmp_path, image.finish())
    if raw:
        image.write_raw(dump)
    assert document("check", dump, dtb)["capture"]["state"] == state
