"""Every real capture, in every form that its memory can be given, against its truth.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from kho_inspect.inspection import Options, inspect
from kho_inspect.memory import RamBlock
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import Handover
from tests.support.captures import HOME, Capture, map_nodes, plain, unpack
from tests.support.dump_files import raw_to_blocks, raw_to_elf
from tests.support.looking import blocks_of


@pytest.fixture(scope="session")
def handover(capture: Capture) -> Handover:
    """The capture as it is: raw dump and whole DTB."""
    return inspect(str(capture.dump), str(capture.dtb), Options(base=capture.base))


@pytest.fixture(params=["kho.dtb", "kho-debugfs-out.dtb"])
def either(request: pytest.FixtureRequest, capture: Capture, handover: Handover) -> Handover:
    """The capture with the whole DTB, then with the truncated one."""
    if request.param == "kho.dtb":
        return handover
    if not capture.short_dtb.exists():
        pytest.skip("this capture has no truncated DTB")
    return inspect(str(capture.dump), str(capture.short_dtb), Options(base=capture.base))


def test_the_root_fdt_is_read(capture: Capture, either: Handover) -> None:
    truth = capture.truth
    assert either.fdt.compatible == either.fdt.abi.compatible == truth["compatible"]
    assert either.fdt.memory_map == truth["memory_map"]
    assert either.fdt.size == capture.dtb.stat().st_size
    assert not either.fdt.assumed


def test_a_truncated_dtb_is_completed_from_the_dump(capture: Capture, handover: Handover) -> None:
    assert not handover.fdt.recovered
    assert handover.fdt.recovery is None
    if not capture.short_dtb.exists():
        pytest.skip("this capture has no truncated DTB")
    short = inspect(str(capture.dump), str(capture.short_dtb), Options(base=capture.base))
    assert short.fdt.recovered
    assert short.fdt.paddr == int(capture.truth["fdt_paddr"], 16)
    assert short.fdt.root == handover.fdt.root
    assert short.fdt.recovery is not None
    assert f"{capture.short_dtb.stat().st_size} of {short.fdt.size} bytes" in short.fdt.recovery


def test_the_page_size_is_found(capture: Capture, either: Handover) -> None:
    assert either.source.page_size == capture.truth["page_size"]
    assert not either.source.page_size_reason.startswith("assumed")


def test_every_preserved_block_is_found(capture: Capture, either: Handover) -> None:
    truth = capture.truth
    wanted = {(int(paddr, 16), order) for paddr, order in truth["preserved_pages"]}
    assert blocks_of(either) == wanted
    assert either.preserved.blocks == truth["pages"] == len(wanted)
    assert either.preserved.bytes == truth["bytes"]
    assert either.preserved.orders == {int(order): n for order, n in truth["orders"].items()}


def test_the_preserved_ranges_are_exact(capture: Capture, either: Handover) -> None:
    truth = capture.truth
    extents = [(extent.start, extent.end) for extent in either.preserved.extents()]
    assert extents == [(int(a, 16), int(b, 16)) for a, b in truth["preserved_ranges"]]
    assert len(extents) == truth["ranges"]
    assert sum(end - start for start, end in extents) == truth["covered_bytes"]


def test_every_tree_node_is_found(capture: Capture, either: Handover) -> None:
    truth, tree = capture.truth, either.tree
    assert tree is not None
    assert (tree.nodes, tree.leaves) == (truth["nodes"], truth["leaves"])
    found = map_nodes(either)
    assert len(found) == len(set(found))
    assert set(found) == {(level, int(paddr, 16)) for level, paddr in truth["tree_nodes"]}


def test_every_sub_node_is_found(capture: Capture, either: Handover) -> None:
    found = [
        {
            "name": blob.name,
            "phys": blob.paddr,
            "size": blob.size,
            "sha256": blob.sha256,
            "preserved": blob.preserved,
        }
        for blob in either.blobs
    ]
    assert found == [{key: sub[key] for key in found[0]} for sub in capture.truth["subnodes"]]
    assert all(blob.stored for blob in either.blobs)


def test_nothing_is_at_fault(either: Handover) -> None:
    assert either.faults == ()


def test_an_elf_core_of_the_same_memory_gives_the_same(
    capture: Capture, handover: Handover, tmp_path: Path
) -> None:
    core = tmp_path / "dump.elf"
    raw_to_elf(capture.dump, core, capture.base)
    for dtb in capture.dtbs:
        found = inspect(str(core), str(dtb))
        assert found.source.format == "elf"
        assert plain(found) == plain(handover)
    assert found.source.declared == handover.source.declared
    assert found.source.stored != found.source.declared


def test_concatenated_ram_blocks_give_the_same(
    capture: Capture, handover: Handover, tmp_path: Path
) -> None:
    split = capture.base + (32 << 20 if capture.base == 0 else 256 << 20)
    joined = tmp_path / "blocks.raw"
    placed = raw_to_blocks(capture.dump, joined, split, capture.base)
    assert placed[1][1] < split - capture.base, "nothing was moved"
    blocks = tuple(RamBlock(*block) for block in placed)
    for dtb in capture.dtbs:
        assert plain(inspect(str(joined), str(dtb), Options(blocks=blocks))) == plain(handover)


def test_the_wrong_base_is_a_map_outside_the_dump(capture: Capture) -> None:
    wrong = 0 if capture.base else 1 << 32
    handover = inspect(str(capture.dump), str(capture.dtb), Options(base=wrong))
    outside = [one.paddr for one in handover.faults if one.kind is FaultKind.NODE_OUTSIDE]
    assert outside == [capture.truth["memory_map"]]
    assert handover.preserved.blocks == 0


def test_a_core_that_qemu_wrote_gives_the_same_as_its_raw_dump(tmp_path: Path) -> None:
    folder = HOME / "x86_64-kho-v2"
    if not folder.is_dir():
        pytest.skip(f"no capture at {folder}: set KHO_CAPTURES to the folder of captures")
    unpack(folder / "dump.elf.xz", tmp_path / "dump.elf")
    unpack(folder / "dump.raw.xz", tmp_path / "dump.raw")
    dtb = str(folder / "kho.dtb")
    core = inspect(str(tmp_path / "dump.elf"), dtb)
    assert core.source.format == "elf"
    assert plain(core) == plain(inspect(str(tmp_path / "dump.raw"), dtb))
