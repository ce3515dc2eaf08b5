"""The page size is not written anywhere: it has to come out of the tree."""

from __future__ import annotations

import pytest

from kho_inspect.model.faults import FaultKind
from tests.support.builder import Image
from tests.support.looking import GEOMETRIES, SHIFTS, blocks_of, look


def with_blobs(size: str, abi: str) -> tuple[Image, bytes]:
    image = Image(SHIFTS[size], abi)
    for name in ("LUO", "kho_test"):
        image.subnode(name, image.blob(name.encode() * 10), 30)
    image.preserve_pages(image.alloc(37), 37)
    return image, image.finish()


@pytest.mark.parametrize(("size", "abi"), GEOMETRIES)
def test_it_is_found_in_the_tree(size: str, abi: str) -> None:
    image, dtb = with_blobs(size, abi)
    handover = look(image, dtb)
    assert handover.source.page_size == image.page_size
    assert handover.geometry.shift == image.page_shift
    assert not handover.source.page_size_reason.startswith("assumed")
    if (size, abi) != ("16K", "kho-v2"):
        assert blocks_of(handover) == image.preserved
        assert "2 of 2 blobs preserved" in handover.source.page_size_reason


@pytest.mark.parametrize(("size", "abi"), GEOMETRIES)
def test_it_is_found_in_a_core_that_stores_only_the_handover(size: str, abi: str) -> None:
    image, dtb = with_blobs(size, abi)
    assert look(image, dtb, elf=True).source.page_size == image.page_size


@pytest.mark.parametrize("size", SHIFTS)
def test_it_is_found_though_a_pointer_is_damaged(size: str) -> None:
    image, dtb = with_blobs(size, "kho-v4")
    image.write_u64(image.root + 8 * 100, 0xDEADBEEF)
    assert look(image, dtb).source.page_size == image.page_size


@pytest.mark.parametrize("size", SHIFTS)
def test_an_empty_tree_says_that_it_is_assumed(size: str) -> None:
    image = Image(SHIFTS[size])
    image.alloc((65536 >> image.page_shift) - 1)
    dtb = image.finish(fdt_order=None)
    assert image.root % 65536 == 0 or size == "64K"
    handover = look(image, dtb)
    assert handover.source.page_size == 4096
    assert handover.source.page_size_reason.startswith("assumed 4K")
    assert handover.preserved.blocks == 0
    assert handover.faults == ()


def test_a_root_that_is_no_page_of_any_size_says_that_it_is_assumed() -> None:
    image, _ = with_blobs("4K", "kho-v4")
    image.root += 8
    handover = look(image, image.root_fdt())
    assert handover.source.page_size_reason.startswith("assumed 4K")
    assert FaultKind.NODE_MISALIGNED in [fault.kind for fault in handover.faults]


@pytest.mark.parametrize("size", SHIFTS)
def test_what_the_user_says_is_taken(size: str) -> None:
    image, dtb = with_blobs(size, "kho-v3")
    for wanted, shift in SHIFTS.items():
        handover = look(image, dtb, wanted)
        assert handover.geometry.shift == shift
        assert handover.source.page_size_reason == "given with --page-size"
