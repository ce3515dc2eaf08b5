"""The preserved-memory tree: what the builder wrote reads back; what is damaged costs its part."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import Handover
from kho_inspect.render.names import message_text, path_name
from kho_inspect.walk import radix
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.looking import GEOMETRIES, SHIFTS, blocks_of, look, only_fault, open_image

SOUND = [found for found in GEOMETRIES if found != ("16K", "kho-v2")]
FAR = 1 << 40
"""Physical address whose key leaves that of RAM at the table of level 2."""
FAR_L1 = "root[2] → L4[0] → L3[0] → L2[16] → L1"
"""Way to the node of level 1 above FAR, in 4K pages."""


@st.composite
def clusters(draw: st.DrawFn, shift: int, lowest: int) -> set[tuple[int, int]]:
    """Runs of equal blocks, here and there in all of the address space."""
    found = set()
    for _ in range(draw(st.integers(0, 4))):
        order = draw(st.one_of(st.integers(lowest, 10), st.integers(lowest, 64 - shift)))
        last = (1 << (64 - shift - order)) - 1
        start = min(last, draw(st.one_of(st.integers(0, 400), st.integers(0, last))))
        count = draw(st.integers(1, 80))
        for index in range(start, min(start + count, last + 1)):
            found.add((index << (shift + order), order))
    return found


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(GEOMETRIES), st.booleans())
def test_any_preserved_set_reads_back_exactly(
    data: st.DataObject, geometry: tuple[str, str], explicit: bool
) -> None:
    size, abi = geometry
    lost = geometry not in SOUND
    image = Image(SHIFTS[size], abi)
    blocks = data.draw(clusters(image.page_shift, int(lost)))
    # A block larger than all memory may read better with another page size.
    explicit = explicit or any(image.page_shift + order > 52 for _, order in blocks)
    for paddr, order in blocks:
        image.preserve(paddr, order)
    blob = image.alloc(2, 2 * image.page_size)
    image.preserve(blob, 1)
    image.subnode("LUO", blob, 32)
    dtb = image.finish(fdt_order=1)
    handover = look(image, dtb, size if explicit else "auto")

    if handover.source.page_size_reason.startswith("assumed"):
        return  # Two page sizes fit equally well, and it says so.
    assert handover.source.page_size == image.page_size
    assert blocks_of(handover) == image.preserved
    preserved = handover.preserved
    assert preserved.blocks == len(image.preserved)
    assert preserved.bytes == sum(image.page_size << order for _, order in image.preserved)
    assert handover.tree is not None
    assert handover.tree.nodes == len(image.nodes)
    assert handover.tree.root == image.root
    expected = [FaultKind.ORDER0_LOST] if lost else []
    faults = [fault.kind for fault in handover.faults if fault.kind != FaultKind.BLOB_NOT_FDT]
    assert faults == expected


@settings(max_examples=40, deadline=None)
@given(clusters(12, 0))
def test_extents_and_coverage_agree_with_the_blocks(blocks: set[tuple[int, int]]) -> None:
    image = Image()
    for paddr, order in blocks:
        image.preserve(paddr, order)
    preserved = look(image, image.finish(), "4K").preserved
    extents = list(preserved.extents())
    for before, after in pairwise(extents):
        assert before.end < after.start
    for paddr, order in image.preserved:
        size = image.page_size << order
        assert preserved.covers(paddr, size)
        assert any(extent.contains(paddr, size) for extent in extents)
        found = {(block.paddr, block.order) for block in preserved.blocks_at(paddr + size - 1)}
        assert (paddr, order) in found
        assert found <= image.preserved
    for extent in extents:
        assert not preserved.covers(extent.start, extent.size + 1)
        assert not preserved.blocks_at(extent.end)


@pytest.mark.parametrize(("size", "abi"), SOUND)
def test_a_run_of_pages_is_cut_into_natural_blocks(size: str, abi: str) -> None:
    image = Image(SHIFTS[size], abi)
    image.preserve_pages(11 * image.page_size, 70)
    handover = look(image, image.finish(fdt_order=None), size)
    assert handover.preserved.orders == {0: 2, 2: 1, 4: 2, 5: 1}
    assert blocks_of(handover) == image.preserved
    assert [str(extent) for extent in handover.preserved.extents()] == [
        f"{11 * image.page_size:#x}-{81 * image.page_size:#x}"
    ]


def test_kho_v2_with_16k_pages_reports_that_order_0_is_lost() -> None:
    image = Image(14, "kho-v2")
    fault = only_fault(look(image, image.finish(), "16K"), FaultKind.ORDER0_LOST)
    assert "order-0" in message_text(fault.message)
    assert path_name(fault.path) == "root"
    assert image.levels == 4


def test_an_empty_leaf_is_no_fault() -> None:
    image = two_subtrees()
    image.write(image.node(image.key(FAR, 0), 0), bytes(image.page_size))
    handover = look(image, image.root_fdt())
    assert handover.faults == ()
    assert blocks_of(handover) == {block for block in image.preserved if block[0] != FAR}


# -- damage


def two_subtrees() -> Image:
    """A handover with a page in RAM and one at FAR, in 4K pages of kho-v4."""
    image = Image()
    image.blob(b"x")
    image.preserve(FAR, 0)
    image.finish()
    return image


def damage(image: Image, value: int, *, elf: bool = False) -> Handover:
    """Point the way to FAR, at its step from level 2 to level 1, to ``value``."""
    slot = image.node(image.key(FAR, 0), 2) + 8 * 16
    assert image.read_u64(slot) == image.node(image.key(FAR, 0), 1)
    image.write_u64(slot, value)
    return look(image, image.root_fdt(), elf=elf)


def expect_far_lost(image: Image, handover: Handover, nodes_lost: int = 2) -> None:
    """Everything but the subtree of FAR was read."""
    assert blocks_of(handover) == image.preserved - {(FAR, 0)}
    assert handover.tree is not None
    assert handover.tree.nodes == len(image.nodes) - nodes_lost


def test_a_node_outside_memory() -> None:
    image = two_subtrees()
    handover = damage(image, 1 << 45)
    fault = only_fault(handover, FaultKind.NODE_OUTSIDE)
    assert (fault.paddr, path_name(fault.path), fault.count) == (1 << 45, FAR_L1, 1)
    expect_far_lost(image, handover)


def test_a_node_that_is_not_stored() -> None:
    image = two_subtrees()
    target = image.ram_end - image.page_size
    handover = damage(image, target, elf=True)
    fault = only_fault(handover, FaultKind.NODE_NOT_STORED)
    assert (fault.paddr, path_name(fault.path)) == (target, FAR_L1)
    expect_far_lost(image, handover)


def test_a_node_half_outside_memory() -> None:
    image = Image(page_shift=16, ram=(1 << 20, (8 << 20) + 4096))
    image.preserve(FAR, 0)
    image.finish()
    slot = image.root + 8 * (image.key(FAR, 0) >> 45)
    image.write_u64(slot, 9 << 20)
    fault = only_fault(look(image, image.root_fdt(), "64K"), FaultKind.NODE_OUTSIDE)
    assert fault.paddr == 9 << 20


@pytest.mark.parametrize("offset", [1, 8, 2048])
def test_a_misaligned_node(offset: int) -> None:
    image = two_subtrees()
    target = image.root + offset
    handover = damage(image, target)
    fault = only_fault(handover, FaultKind.NODE_MISALIGNED)
    assert (fault.paddr, path_name(fault.path)) == (target, FAR_L1)
    expect_far_lost(image, handover)


def test_a_node_that_another_path_has_too() -> None:
    image = two_subtrees()
    target = image.node(image.key(image.fdt_paddr, 0), 1)
    handover = damage(image, target)
    fault = only_fault(handover, FaultKind.NODE_ALIASED)
    assert (fault.paddr, path_name(fault.path)) == (target, FAR_L1)
    expect_far_lost(image, handover)


@pytest.mark.parametrize("level", [5, 4, 3, 2])
def test_a_node_that_leads_back_up(level: int) -> None:
    image = two_subtrees()
    target = image.node(image.key(FAR, 0), level)
    handover = damage(image, target)
    fault = only_fault(handover, FaultKind.NODE_CYCLE)
    assert (fault.paddr, path_name(fault.path)) == (target, FAR_L1)
    expect_far_lost(image, handover)


@pytest.mark.parametrize(("size", "abi"), SOUND)
def test_a_root_full_of_pointers_to_itself_costs_one_visit(size: str, abi: str) -> None:
    image = Image(SHIFTS[size], abi)
    image.finish()
    entries = image.page_size // 8
    image.write_u64(image.root, *[image.root] * entries)
    handover = look(image, image.root_fdt(), size)
    fault = only_fault(handover, FaultKind.NODE_CYCLE)
    assert (fault.paddr, fault.count) == (image.root, entries)
    assert path_name(fault.path).startswith("root[0] → ")
    assert handover.tree is not None
    assert handover.tree.nodes == 1
    assert handover.preserved.blocks == 0


def test_every_table_full_of_pointers_to_the_next_costs_one_visit_each() -> None:
    image = Image()
    image.finish()
    for level in range(5, 0, -1):
        node = image.node(image.key(image.fdt_paddr, 0), level)
        below = image.node(image.key(image.fdt_paddr, 0), level - 1)
        image.write_u64(node, *[below] * 512)
    handover = look(image, image.root_fdt(), "4K")
    assert handover.tree is not None
    assert handover.tree.nodes == 6
    kinds = [(fault.kind, fault.count) for fault in handover.faults]
    assert kinds == [(FaultKind.NODE_ALIASED, 511)] * 5


def test_a_table_of_junk_is_one_fault_per_kind_of_trouble() -> None:
    image = two_subtrees()
    junk = [1 << 45 | index << 12 for index in range(100)] + [3, 5, 7]
    image.write_u64(image.node(image.key(FAR, 0), 2) + 8 * 16, *junk)
    handover = look(image, image.root_fdt(), "4K")
    found = {
        fault.kind: (fault.count, fault.paddr, path_name(fault.path)) for fault in handover.faults
    }
    assert found == {
        FaultKind.NODE_MISALIGNED: (3, 3, FAR_L1.replace("16", "116")),
        FaultKind.NODE_OUTSIDE: (100, 1 << 45, FAR_L1),
    }
    expect_far_lost(image, handover)


def test_key_0_names_no_page() -> None:
    image = two_subtrees()
    image.insert(0)
    handover = look(image, image.root_fdt())
    fault = only_fault(handover, FaultKind.KEY_NO_ORDER)
    assert fault.count == 1
    assert path_name(fault.path) == "root[0] → L4[0] → L3[0] → L2[0] → L1[0] → leaf bit 0"
    assert blocks_of(handover) == image.preserved


def test_keys_above_the_order_0_bit_name_no_page() -> None:
    image = two_subtrees()
    for key in (1 << 53, 1 << 53 | 1, (1 << 60) - 1):
        image.insert(key)
    handover = look(image, image.root_fdt(), "4K")
    fault = only_fault(handover, FaultKind.KEY_ORDER_TOO_HIGH)
    assert fault.count == 3
    assert path_name(fault.path) == "root[4] → L4[0] → L3[0] → L2[0] → L1[0] → leaf bit 0"
    assert blocks_of(handover) == image.preserved


def test_the_highest_order_is_a_key_like_any_other() -> None:
    image = Image()
    image.preserve(0, 52)
    image.preserve(1 << 63, 51)
    handover = look(image, image.finish(), "4K")
    assert handover.faults == ()
    assert blocks_of(handover) == image.preserved
    assert [str(extent) for extent in handover.preserved.extents()] == [f"0x0-{1 << 64:#x}"]


def test_a_root_that_is_misaligned() -> None:
    image = two_subtrees()
    image.root += 8
    handover = look(image, image.root_fdt())
    fault = only_fault(handover, FaultKind.NODE_MISALIGNED)
    assert (fault.paddr, path_name(fault.path)) == (image.root, "root")
    assert handover.preserved.blocks == 0


def test_a_root_that_is_not_stored() -> None:
    image = two_subtrees()
    image.root = image.ram_end - image.page_size
    handover = look(image, image.root_fdt(), elf=True)
    fault = only_fault(handover, FaultKind.NODE_NOT_STORED)
    assert (fault.paddr, path_name(fault.path)) == (image.root, "root")


def test_a_root_outside_memory_is_a_fault() -> None:
    image = two_subtrees()
    image.root = 1 << 45
    handover = look(image, image.root_fdt())
    fault = only_fault(handover, FaultKind.NODE_OUTSIDE)
    assert (fault.paddr, path_name(fault.path)) == (1 << 45, "root")
    assert handover.preserved.blocks == 0


def test_a_map_of_zero_is_a_fault() -> None:
    image = two_subtrees()
    image.root = 0
    handover = look(image, image.root_fdt())
    fault = only_fault(handover, FaultKind.FDT_MAP_PROPERTY)
    assert path_name(fault.path) == "root FDT"
    assert handover.tree is None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_damage_never_raises_and_never_adds_nodes(data: st.DataObject) -> None:
    image = two_subtrees()
    words = st.one_of(
        st.sampled_from(image.nodes), st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 27)
    )
    for _ in range(data.draw(st.integers(1, 8))):
        node = data.draw(st.sampled_from(image.nodes))
        slot = data.draw(st.integers(0, 511))
        image.write_u64(node + 8 * slot, data.draw(words))
    handover = look(image, image.root_fdt(), data.draw(st.sampled_from(["auto", "4K", "64K"])))
    memory = open_image(image)
    assert handover.tree is not None
    assert handover.tree.nodes <= memory.size // 4096
    assert all(message_text(fault.message) for fault in handover.faults)


def test_runs_that_go_on_in_the_next_batch_of_leaves_read_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(radix, "BATCH_BYTES", 1)  # one to four leaves
    image = Image(ram=(1 << 20, 3 << 30))
    for leaf in range(1, 21):
        border = leaf << 27  # the first page of a leaf
        for page in (-2, -1, 0, 1, 5, 6, 9):
            image.preserve(border + page * 4096, 0)
    dtb = image.finish()
    assert blocks_of(look(image, dtb, elf=True)) == image.preserved


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (None, "missing"),
        (bytes(8), "zero"),
        (b"", "0 bytes"),
        (b"\1" * 4, "4 bytes"),
        (bytes(9), "9 bytes"),
        (b"\1" * 16, "16 bytes"),
    ],
)
def test_a_map_property_that_is_no_address_is_told(value: bytes | None, state: str) -> None:
    given = [] if value is None else [(b"preserved-memory-map", value)]
    image = Image()
    image.finish()
    dtb = fdt_blob(Tree(b"", [(b"compatible", b"kho-v4\0"), *given]))
    fault = only_fault(look(image, dtb), FaultKind.FDT_MAP_PROPERTY)
    assert message_text(fault.message) == (
        f"property 'preserved-memory-map' is {state}, should be 8 bytes and non-zero"
    )


def test_of_very_many_bad_pointers_all_memory_may_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image()
    image.preserve(image.alloc(), 0)
    dtb = image.finish()
    table = image.node(image.key(min(image.preserved)[0], 0), 1)
    image.write_u64(table + 8 * 100, 1 << 50, 1 << 50)
    few = look(image, dtb)
    monkeypatch.setattr(radix, "MAX_LOST", 2)
    many = look(image, dtb)
    assert few.tree is not None and many.tree is not None
    assert many.tree.lost[0].tolist() == [0] and many.tree.lost[1].tolist() == [1 << 52]
    assert few.tree.lost[1][-1] - few.tree.lost[0][0] < 1 << 30
