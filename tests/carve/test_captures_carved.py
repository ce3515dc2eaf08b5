"""Real captures: what carving yields without the tree is what the tree yields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kho_inspect.carve.carver import carve
from kho_inspect.inspection import Options, inspect
from kho_inspect.memory import open_memory
from kho_inspect.model.provenance import Trust
from kho_inspect.recover.content import Reader
from kho_inspect.recover.selectors import all_items
from kho_inspect.render.names import item_name
from tests.support.captures import Capture, unpack
from tests.support.carving import by_name, carved, hashes, lose, went_wrong
from tests.support.extracting import manifest
from tests.support.running import document, image_of, in_process


def test_a_capture_yields_what_its_tree_yields(capture: Capture) -> None:
    handover = inspect(str(capture.dump), str(capture.dtb), Options(base=capture.base))
    memory = open_memory(str(capture.dump), base=capture.base)
    items = list(all_items(handover))
    names = [item_name(item.name, item.number) for item in items]
    tree = dict(zip(names, map(Reader(memory).digest, items), strict=True))
    carving = carve(memory)
    assert carving.geometry.page_size == capture.truth["page_size"]
    wanted = {name: sha for name, sha in tree.items() if not name.startswith("range@")}
    assert hashes(memory, carving) == wanted
    assert None not in wanted.values()


def test_a_capture_with_noise_for_map_and_root_fdt_yields_the_same(capture: Capture) -> None:
    memory = open_memory(str(capture.dump), base=capture.base)
    before = carve(memory)
    image = image_of(capture)
    nodes = [int(paddr, 16) for _, paddr in capture.truth["tree_nodes"]]
    lose(image, *nodes, int(capture.truth["fdt_paddr"], 16))
    after = carved(image)
    assert {name: item.pieces for name, item in by_name(after).items()} == {
        name: item.pieces for name, item in by_name(before).items()
    }
    for name, item in by_name(after).items():
        assert item.provenance is not None
        if name.startswith("carved/blob/"):
            assert item.provenance.trust is not Trust.CONFIRMED


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packed = went_wrong("late-v3") / "dump.raw.xz"
    if not packed.is_file():
        pytest.skip(f"no dump at {packed}: set KHO_CAPTURES to the folder of captures")
    dump: Path = tmp_path_factory.mktemp("late") / "dump.raw"
    unpack(packed, dump)
    return dump


def test_every_file_of_a_late_dump_comes_back(late: Path, tmp_path: Path) -> None:
    truth = Capture("x86_64-kho-v3", late).truth
    wanted = {
        (session["name"], file["token"]): file["memfd"]["sha256"]
        for sub in truth["subnodes"]
        for session in sub.get("luo", {}).get("sessions", [])
        for file in session["files"]
    }
    dtb = went_wrong("late-v3") / "kho.dtb"
    forms: list[list[str]] = [[str(dtb)], ["auto"], []]
    for number, dtbs in enumerate(forms):
        out = tmp_path / str(number)
        result = in_process("extract", "--carved", late, *dtbs, "-o", out)
        assert result.status == 0, result.stderr
        items = manifest(out)
        files = {name: item for name, item in items.items() if name.startswith("carved/LUO/")}
        assert len(files) == len(wanted) == 5
        assert sorted(item["sha256"] for item in files.values()) == sorted(wanted.values())
        assert files["carved/LUO/vm-alpha/0x1001"]["sha256"] == wanted["vm-alpha", 0x1001]
        for name, item in items.items():
            assert name.startswith("carved/")
            assert item["file"].startswith("carved/")
            assert item["carved"]
            assert item["provenance"]
            assert item["gaps"] == []
    assert "capture    recycled" in in_process("check", late, dtb).stdout


def test_a_late_dump_is_carved_from_the_sessions_that_the_user_knows(late: Path) -> None:
    found: dict[str, Any] = document("carve", late, "--sessions", "0x700000")
    assert [file["selector"] for file in found["files"]] == [
        "carved/LUO/vm-alpha/0x1001",
        "carved/LUO/vm-alpha/0x1002",
        "carved/LUO/vm-beta/0xfeedfacecafebeef",
        "carved/LUO/vm-beta/0x7",
        "carved/LUO/db [bold]cache[%2F]/0x1",
    ]
    assert found["items"] == []
    for wrong in ("0x701000", "0x700008", "0x717000", "0xffffffffffff000"):
        result = in_process("carve", late, "--sessions", wrong)
        assert result.status == 3
        assert "no LUO sessions" in result.stderr
