"""Finding the handover in a bare dump: captures, decoys, stale copies, boot device trees."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

import pytest

from kho_inspect.errors import NotAHandoverError
from kho_inspect.inspection import Options, inspect
from kho_inspect.locate.scan import locate
from kho_inspect.memory import PhysicalMemory, open_memory
from tests.support.builder import Image, boot_dtb
from tests.support.captures import HOME, Capture, plain
from tests.support.cli import DTB, DUMP, REPO, kho_inspect

MAGIC = bytes.fromhex("d00dfeed")


def _scratch(memory: PhysicalMemory, capture: Capture) -> list[list[str]]:
    from kho_inspect.locate.scratch import read_scratch

    located = locate(memory)
    named = [one for one in located.pointers if one.fdt == located.fdts[0].paddr]
    found = read_scratch(memory, named)
    return [[hex(area.start), hex(area.size)] for area in (found.areas if found else ())]


def test_the_root_fdt_of_each_capture_comes_first(capture: Capture) -> None:
    memory = open_memory(str(capture.dump), base=capture.base)
    best = locate(memory).fdts[0]
    assert best.paddr == int(capture.truth["fdt_paddr"], 16)
    assert (best.valid_tree, best.preserved, best.aligned) == (True, True, True)
    assert best.data == capture.dtb.read_bytes()[: len(best.data)]


def test_the_scratch_table_of_each_capture_is_found(capture: Capture) -> None:
    if "scratch" not in capture.truth:
        pytest.skip("its truth.json has no scratch table")
    memory = open_memory(str(capture.dump), base=capture.base)
    wanted = [area for area in capture.truth["scratch"] if area[1] != "0x0"]
    assert _scratch(memory, capture) == wanted


def test_decoys_and_stale_copies_do_not_win(capture: Capture, tmp_path: Path) -> None:
    dump = tmp_path / "dump.raw"
    shutil.copyfile(capture.dump, dump)
    size, page = dump.stat().st_size, capture.truth["page_size"]
    # A scratch area and all between the preserved ranges hold nothing of the handover.
    used = {int(start, 16) // page for start, _ in capture.truth["preserved_ranges"]}
    rng = random.Random(5)
    fdt = capture.dtb.read_bytes()
    free = [
        number
        for number in rng.sample(range(capture.base // page, (capture.base + size) // page), 4000)
        if number not in used
    ]
    with capture.dump.open("rb") as source:
        empty = []
        for number in free:
            source.seek(number * page - capture.base)
            if not any(source.read(page)):
                empty.append(number * page - capture.base)
    with dump.open("r+b") as file:
        for place in empty[:1000]:
            file.seek(place + rng.choice((0, 8, 64, 1000)))
            file.write(MAGIC + rng.randbytes(60))
        for place in [*empty[1000:1005], *(at + 8 for at in empty[1005:1010])]:
            file.seek(place)
            file.write(fdt)
    found = locate(open_memory(str(dump), base=capture.base)).fdts
    assert found[0].paddr == int(capture.truth["fdt_paddr"], 16)
    assert len(found) == 11
    assert all("stale" in one.why for one in found[1:])


def test_a_dump_without_a_dtb_reads_like_one_with(capture: Capture) -> None:
    options = Options(base=capture.base)
    whole = inspect(str(capture.dump), str(capture.dtb), options)
    alone = inspect(str(capture.dump), None, options)
    assert plain(alone) == plain(whole)
    assert alone.fdt.recovered


def test_a_boot_dtb_is_followed_to_the_root_fdt(capture: Capture) -> None:
    boot = HOME / capture.name / "boot.dtb"
    if not boot.exists():
        pytest.skip("this capture has no boot DTB")
    options = Options(base=capture.base)
    followed = inspect(str(capture.dump), str(boot), options)
    assert plain(followed) == plain(inspect(str(capture.dump), str(capture.dtb), options))
    assert followed.fdt.paddr == int(capture.truth["fdt_paddr"], 16)
    result = kho_inspect("check", capture.dump, boot, "--base", hex(capture.base), "--json")
    document = json.loads(result.stdout)
    assert (result.status, document["integrity"]["state"]) == (0, "no-defect")
    assert document["integrity"]["blocked"] == []


@pytest.mark.parametrize("cells", [1, 2])
def test_chosen_is_read_by_the_roots_cells(tmp_path: Path, cells: int) -> None:
    image = Image()
    image.subnode("data", image.blob(b"x"), 1)
    image.finish()
    image.write_raw(tmp_path / "dump")
    memory = open_memory(str(tmp_path / "dump"))
    where = locate(memory).fdts[0].paddr
    (tmp_path / "boot.dtb").write_bytes(boot_dtb(where, 0x3000, 48, cells))
    assert inspect(str(tmp_path / "dump"), str(tmp_path / "boot.dtb")).fdt.paddr == where


def test_chosen_that_points_to_nothing_is_said(tmp_path: Path) -> None:
    image = Image()
    image.finish()
    image.write_raw(tmp_path / "dump")
    (tmp_path / "boot.dtb").write_bytes(boot_dtb(0x1000, 0x3000, 48))
    with pytest.raises(NotAHandoverError, match="0x1000, where the dump has no KHO root FDT"):
        inspect(str(tmp_path / "dump"), str(tmp_path / "boot.dtb"))


def test_setup_data_for_another_fdt_is_not_believed(tmp_path: Path) -> None:
    image = Image()
    image.finish()
    entry = image.alloc()
    image.write(entry, struct.pack("<QIIQQQQ", 0, 10, 32, 0x1000, 4096, 0x2000, 48))
    image.write_raw(tmp_path / "dump")
    found = locate(open_memory(str(tmp_path / "dump")))
    assert [pointer.fdt for pointer in found.pointers] == [0x1000]
    assert found.fdts[0].pointers == ()


def test_locate_writes_the_dtb_and_nothing_over_it(tmp_path: Path) -> None:
    target = tmp_path / "found.dtb"
    assert kho_inspect("locate", DUMP, "--write-dtb", target).status == 0
    assert target.read_bytes() == (REPO / DTB).read_bytes()
    again = kho_inspect("locate", DUMP, "--write-dtb", target)
    assert again.status == 3
    assert "--force" in again.stderr
    assert kho_inspect("locate", DUMP, "--write-dtb", target, "--force").status == 0


def test_locate_json() -> None:
    document = json.loads(kho_inspect("locate", DUMP, "--json").stdout)
    assert [sorted(one) for one in document["candidates"]] == [
        [
            *("compatible", "kernel", "paddr", "pointers", "role", "size", "stored"),
            "valid_tree",
            "why",
        ]
    ]
    assert document["candidates"][0]["paddr"] == "0x4a4000"
    assert document["scratch"][0] == {"start": "0x6400000", "end": "0x7400000"}


def test_a_dump_without_any_root_fdt(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(8192))
    located = kho_inspect("locate", tmp_path / "zeros")
    assert located.status == 3
    assert "no KHO root FDT" in located.stdout
    shown = kho_inspect(tmp_path / "zeros")
    assert shown.status == 3
    assert "holds no KHO root FDT" in shown.stderr
