"""Keys, levels and paths against the numbers of ABI.md §2 and against the builder."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.abi import BY_COMPATIBLE, find_abi, find_target, nearest_abi
from kho_inspect.geometry import PageGeometry
from kho_inspect.model.radix_tree import entry_path, node_path
from kho_inspect.render.names import path_name
from tests.support.builder import Image
from tests.support.looking import GEOMETRIES, SHIFTS


def geometry(size: str, abi: str) -> PageGeometry:
    return PageGeometry(SHIFTS[size], BY_COMPATIBLE[abi])


@pytest.mark.parametrize(
    ("size", "levels"), [("4K", (6, 6, 6)), ("16K", (4, 5, 5)), ("64K", (4, 4, 4))]
)
def test_levels_are_those_of_the_abi_document(size: str, levels: tuple[int, ...]) -> None:
    found = tuple(geometry(size, abi).levels for abi in ("kho-v2", "kho-v3", "kho-v4"))
    assert found == levels


@pytest.mark.parametrize(
    ("size", "table", "bitmap", "order0"),
    [("4K", 9, 15, 52), ("16K", 11, 17, 50), ("64K", 13, 19, 48)],
)
def test_bit_widths_follow_the_page_size(size: str, table: int, bitmap: int, order0: int) -> None:
    found = geometry(size, "kho-v4")
    assert (found.table_bits, found.bitmap_bits, found.order0_bit) == (table, bitmap, order0)
    assert found.page_size == 8 << table == 1 << bitmap >> 3


@pytest.mark.parametrize(
    ("size", "paddr", "order", "key"),
    [
        ("4K", 0x4A4000, 0, 0x100000000004A4),
        ("4K", 0x540000, 3, 0x20000000000A8),
        ("4K", 0, 0, 1 << 52),
        ("4K", 0, 52, 1),
        ("4K", 1 << 30, 18, 1 << 34 | 1),
        ("4K", 0xFFFFFFFFFFFFF000, 0, (1 << 53) - 1),
        ("16K", 0x42200000, 0, 0x4000000010880),
        ("64K", 0x60000, 1, 1 << 47 | 3),
    ],
)
def test_known_keys_encode_and_decode(size: str, paddr: int, order: int, key: int) -> None:
    found = geometry(size, "kho-v4")
    assert found.encode(paddr, order) == key
    assert found.decode(key) == (paddr, order)


@pytest.mark.parametrize(("size", "abi"), GEOMETRIES)
def test_only_kho_v2_with_16k_pages_loses_order_0(size: str, abi: str) -> None:
    assert geometry(size, abi).loses_order0 == ((size, abi) == ("16K", "kho-v2"))


def test_kho_v2_with_16k_pages_masks_the_order_0_bit_off() -> None:
    found = geometry("16K", "kho-v2")
    assert found.key_bits == found.order0_bit == 50
    key = found.encode(0x42200000, 0)
    seen = key & ((1 << found.key_bits) - 1)
    assert found.decode(seen) != (0x42200000, 0)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[str, str, int, int]:
    size, abi = draw(st.sampled_from(GEOMETRIES))
    order = draw(st.integers(0, 64 - SHIFTS[size]))
    index = draw(st.integers(0, (1 << (64 - SHIFTS[size] - order)) - 1))
    return size, abi, order, index << (order + SHIFTS[size])


@given(blocks())
def test_every_block_survives_encoding(block: tuple[str, str, int, int]) -> None:
    size, abi, order, paddr = block
    found = geometry(size, abi)
    key = found.encode(paddr, order)
    assert key == Image(SHIFTS[size], abi).key(paddr, order)
    assert found.decode(key) == (paddr, order)


@given(blocks())
def test_indices_of_all_levels_make_up_the_key(block: tuple[str, str, int, int]) -> None:
    size, abi, order, paddr = block
    found = geometry(size, abi)
    key = found.encode(paddr, order)
    levels = range(1, found.levels)
    whole = sum(found.index(key, level) << found.level_shift(level) for level in levels)
    assert whole | found.index(key, 0) == key & ((1 << found.key_bits) - 1)


@pytest.mark.parametrize("order", [-1, 53])
def test_an_order_outside_the_key_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match="order"):
        geometry("4K", "kho-v4").encode(0, order)


@pytest.mark.parametrize(("paddr", "order"), [(0x1001, 0), (0x1000, 1), (1 << 64, 0), (-4096, 0)])
def test_a_misaligned_or_impossible_address_is_refused(paddr: int, order: int) -> None:
    with pytest.raises(ValueError, match="aligned"):
        geometry("4K", "kho-v4").encode(paddr, order)


@pytest.mark.parametrize("key", [0, 1 << 53, -1])
def test_a_key_without_a_valid_order_bit_is_refused(key: int) -> None:
    with pytest.raises(ValueError, match="order bit"):
        geometry("4K", "kho-v4").decode(key)


def test_paths_name_each_step_from_the_root() -> None:
    found = geometry("4K", "kho-v4")
    key = found.encode(1 << 40, 0)
    assert path_name(node_path(found, key, 5)) == "root"
    assert path_name(node_path(found, key, 1)) == "root[2] → L4[0] → L3[0] → L2[16] → L1"
    bit = path_name(entry_path(found, key, 0))
    assert bit == "root[2] → L4[0] → L3[0] → L2[16] → L1[0] → leaf bit 0"
    assert path_name(entry_path(found, key, 2)) == "root[2] → L4[0] → L3[0] → L2[16]"


def test_a_composite_whose_parts_are_all_known_is_its_root_abi() -> None:
    text = "kho-v4;radix-v1;vmalloc-v1"
    assert find_abi([text]) == (text, BY_COMPATIBLE["kho-v4"])


@pytest.mark.parametrize(
    ("text", "unknown", "reads_map", "reads_vmalloc"),
    [
        ("radix-v9; kho-v3", ("radix-v9",), False, True),
        ("kho-v4;radix-v1;vmalloc-v2", ("vmalloc-v2",), True, False),
        ("kho-v4;foo-v1;radix-v1", ("foo-v1",), True, True),
        ("kho-v4;radix-v2;vmalloc-v2", ("radix-v2", "vmalloc-v2"), False, False),
    ],
)
def test_each_part_of_a_composite_is_judged_by_itself(
    text: str, unknown: tuple[str, ...], reads_map: bool, reads_vmalloc: bool
) -> None:
    _, abi = find_abi([text]) or pytest.fail(text)
    assert (abi.unknown, abi.reads_map, abi.reads_vmalloc) == (unknown, reads_map, reads_vmalloc)
    assert (abi.compatible, abi.radix) in (("kho-v3", True), ("kho-v4", True))


def test_any_string_of_a_compatible_list_counts() -> None:
    assert find_abi(["x", "kho-v4", "kho-v3"]) == ("kho-v4", BY_COMPATIBLE["kho-v4"])
    assert find_abi(["x", "kho-v9"]) is None
    assert find_abi([]) is None


def test_a_release_and_an_abi_are_targets_of_their_own() -> None:
    """6.18 and 7.0 have the same root, but only one of them has LUO."""
    old, new, any_v1 = map(find_target, ("linux-6.18", "7.0.3", "kho-v1"))
    assert old and new and any_v1
    assert (old.root, old.luo, old.files) == ("kho-v1", (), ())
    assert (new.root, new.luo, new.files) == ("kho-v1", ("luo-v1",), ("memfd-v1",))
    assert (any_v1.luo, any_v1.files) == (new.luo, new.files)
    assert find_target("linux-7.9") is find_target("kho-v9") is None


@settings(max_examples=50)
@given(st.text())
def test_any_compatible_string_has_a_nearest_abi(text: str) -> None:
    assert nearest_abi(text).compatible in BY_COMPATIBLE
    assert find_abi([text]) is None or any(name in text for name in BY_COMPATIBLE)
