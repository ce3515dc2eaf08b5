"""Preserved vmalloc areas: round trips through the builder, then every way to lie."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.abi import BY_COMPATIBLE
from kho_inspect.geometry import PageGeometry
from kho_inspect.model.faults import Fault, FaultKind
from kho_inspect.model.identity import Path, Step, StepKind
from kho_inspect.render.names import message_text
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.vmalloc import parse_vmalloc, walk_vmalloc
from tests.support.builder import Image
from tests.support.looking import look, open_image
from tests.support.luo_builder import File, Session, luo_v5, memfd, pattern

SLOTS = 4096 // 8 - 1
PATH: Path = (Step(StepKind.SUBNODE, "test"),)
"""What points to the area."""


def walk(image: Image, descriptor: bytes, *, elf: bool = False) -> tuple[Any, tuple[Fault, ...]]:
    """The area, as far as it could be followed, and what was wrong with it."""
    faults = FaultLog()
    geometry = PageGeometry(image.page_shift, BY_COMPATIBLE[image.abi])
    memory = open_image(image, elf=elf)
    area = walk_vmalloc(memory, geometry, parse_vmalloc(descriptor), PATH, faults)
    return area, faults.result()


def pages(image: Image, count: int, order: int = 0) -> list[int]:
    """Addresses of pieces that need not be stored."""
    piece = image.page_size << order
    return [(1 << 40) + index * 3 * piece for index in range(count)]


def first_chunk(descriptor: bytes) -> int:
    return int.from_bytes(descriptor[:8], "little")


def chunk(number: int) -> Path:
    return *PATH, Step(StepKind.CHUNK, number)


def kinds(faults: tuple[Fault, ...]) -> list[FaultKind]:
    return [fault.kind for fault in faults]


@pytest.mark.parametrize("count", [1, 2, SLOTS - 1, SLOTS, SLOTS + 1, 2 * SLOTS, 2 * SLOTS + 7])
def test_every_fill_of_the_chunks_reads_back(count: int) -> None:
    image = Image()
    wanted = pages(image, count)
    area, faults = walk(image, image.vmalloc(wanted, flags=1))
    assert faults == ()
    assert area.phys.tolist() == wanted
    assert len(area.chunks) == count // SLOTS + 1
    assert (area.total_pages, area.pages, area.whole) == (count, count, True)
    assert (area.flags, area.order) == (1, 0)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([12, 14, 16]), st.integers(0, 12), st.integers(0, 9000), st.sampled_from([0, 3])
)
def test_orders_and_page_sizes_read_back(shift: int, order: int, count: int, flags: int) -> None:
    image = Image(shift)
    wanted = pages(image, min(count, 9000 >> (shift - 12)), order)
    area, faults = walk(image, image.vmalloc(wanted, order, flags))
    assert faults == ()
    assert area.phys.tolist() == wanted
    assert area.pages == area.total_pages == len(wanted) << order
    assert area.whole


def test_data_reads_back_through_its_pieces() -> None:
    image = Image()
    data = bytes(range(256)) * 100
    area, faults = walk(image, image.vmalloc(data, order=1))
    assert faults == ()
    found = b"".join(image.read(paddr, 8192) for paddr in area.phys.tolist())
    assert found[: len(data)] == data
    assert {order for _, order in image.preserved} == {0, 1}


@pytest.mark.parametrize("chunks", [0, 1])
def test_an_empty_area_is_sound(chunks: int) -> None:
    image = Image()
    area, faults = walk(image, image.vmalloc(b"") if chunks else bytes(16))
    assert faults == ()
    assert area.whole
    assert (area.pages, len(area.chunks)) == (0, chunks)


@pytest.mark.parametrize("claimed", [0, 4, 6, 511, (1 << 32) - 1])
def test_a_wrong_count_is_reported(claimed: int) -> None:
    image = Image()
    area, faults = walk(image, image.vmalloc(pages(image, 5), total_pages=claimed))
    assert kinds(faults) == [FaultKind.VMALLOC_COUNT]
    assert f"{claimed:,}" in message_text(faults[0].message)
    assert not area.whole
    assert area.pages == 5


def test_a_count_without_any_chunk_is_reported() -> None:
    area, faults = walk(Image(), struct.pack("<QIHH", 0, (1 << 32) - 1, 0, 0))
    assert kinds(faults) == [FaultKind.VMALLOC_COUNT]
    assert area.chunks == ()


def test_more_chunks_than_the_count_needs_are_given_up() -> None:
    image = Image()
    area, faults = walk(image, image.vmalloc(pages(image, 3 * SLOTS), total_pages=5))
    assert kinds(faults) == [FaultKind.VMALLOC_TOO_LONG]
    assert len(area.chunks) == 1


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_chunk_list_that_bites_its_tail_ends(length: int) -> None:
    image = Image()
    descriptor = image.vmalloc(pages(image, (length - 1) * SLOTS + 5), total_pages=(1 << 32) - 1)
    chunks = walk(image, descriptor)[0].chunks
    assert len(chunks) == length
    image.write_u64(chunks[-1], chunks[0])
    area, faults = walk(image, descriptor)
    assert kinds(faults) == [FaultKind.VMALLOC_CYCLE]
    assert faults[0].paddr == chunks[0]
    assert faults[0].path == chunk(length)
    assert area.chunks == chunks
    assert not area.whole


@pytest.mark.parametrize("flags", [4, 0x8000, 0xFFFF])
def test_unknown_flags_are_reported_and_kept(flags: int) -> None:
    image = Image()
    area, faults = walk(image, image.vmalloc(pages(image, 1), flags=flags))
    assert kinds(faults) == [FaultKind.VMALLOC_FLAGS]
    assert f"{flags & ~3:#x}" in message_text(faults[0].message)
    assert area.flags == flags
    assert area.whole


@pytest.mark.parametrize(
    ("link", "kind"),
    [
        (1 << 45, FaultKind.VMALLOC_CHUNK_OUTSIDE),
        ((1 << 64) - 4096, FaultKind.VMALLOC_CHUNK_OUTSIDE),
        ((65 << 20) - 4096, FaultKind.VMALLOC_CHUNK_NOT_STORED),
        ((1 << 20) + 8, FaultKind.VMALLOC_CHUNK_MISALIGNED),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
def test_a_chunk_that_cannot_be_read(link: int, kind: FaultKind, at: int) -> None:
    image = Image()
    descriptor = image.vmalloc(pages(image, SLOTS + 3))
    if at:
        image.write_u64(first_chunk(descriptor), link)
    else:
        descriptor = struct.pack("<Q", link) + descriptor[8:]
    area, faults = walk(image, descriptor, elf=True)
    assert kinds(faults) == [kind]
    assert (faults[0].paddr, faults[0].path) == (link, chunk(at))
    assert area.pages == at * SLOTS
    assert not area.whole


def test_a_page_that_stands_twice_in_the_second_of_two_areas_has_its_own_number() -> None:
    image = Image()
    files = [memfd(image, pattern(600 * 4096, seed)) for seed in (1, 2)]
    chunk = files[1].area.chunks[0]
    image.write_u64(chunk + 8 + 8 * 2, image.read_u64(chunk + 8))
    luo_v5(image, [Session(b"vm", [File(at, one) for at, one in enumerate(files)])])
    faults = {fault.kind: fault for fault in look(image, image.finish()).faults}
    words = message_text(faults[FaultKind.VMALLOC_DUPLICATE].message)
    first = files[1].area.pieces[0]
    assert words == f"vmalloc entry 2 is {first:#x}, which stands there before"


def test_a_piece_off_its_order_is_reported() -> None:
    image = Image()
    descriptor = image.vmalloc(pages(image, 3, 2), order=2)
    image.write_u64(first_chunk(descriptor) + 8 * 2, 1 << 40 | 0x1000)
    area, faults = walk(image, descriptor)
    assert kinds(faults) == [FaultKind.VMALLOC_MISALIGNED]
    assert faults[0].paddr == 1 << 40 | 0x1000
    assert area.whole


def test_a_zero_ends_its_chunk_but_not_the_list() -> None:
    image = Image()
    descriptor = image.vmalloc(pages(image, SLOTS + 2))
    image.write_u64(first_chunk(descriptor) + 8 + 8 * 5, 0)
    area, faults = walk(image, descriptor)
    assert kinds(faults) == [FaultKind.VMALLOC_COUNT]
    assert area.phys.tolist() == [*pages(image, SLOTS + 2)[:5], *pages(image, SLOTS + 2)[SLOTS:]]


@pytest.mark.parametrize("order", [53, 64, 1000])
def test_an_impossible_order_is_reported(order: int) -> None:
    image = Image()
    descriptor = image.vmalloc(pages(image, 1))[:14] + struct.pack("<H", order)
    _, faults = walk(image, descriptor)
    assert FaultKind.VMALLOC_ORDER in kinds(faults)


@pytest.mark.parametrize("order", [20_000, 65_535])
def test_an_absurd_order_is_reported(order: int) -> None:
    image = Image()
    descriptor = image.vmalloc(pages(image, 1))[:14] + struct.pack("<H", order)
    _, faults = walk(image, descriptor)
    assert FaultKind.VMALLOC_ORDER in kinds(faults)


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=16, max_size=16),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 511), st.integers(0, (1 << 64) - 1)), max_size=4),
)
def test_random_descriptors_and_chunks_never_raise(
    descriptor: bytes, real: bool, words: list[tuple[int, int]]
) -> None:
    image = Image()
    good = image.vmalloc(pages(image, 4))
    for slot, value in words:
        image.write_u64(first_chunk(good) + 8 * slot, value)
    low = bytes([descriptor[14] & 0x7F, 0])
    area, _ = walk(image, (good[:8] if real else descriptor[:8]) + descriptor[8:14] + low)
    assert len(area.chunks) <= 2
