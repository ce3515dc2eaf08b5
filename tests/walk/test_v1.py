"""kho-v1: chunk lists built with plain struct, in both bitmap sizes, and damaged ones."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.inspection import Options, inspect
from kho_inspect.limits import Limits
from kho_inspect.model.chunk_list import ChunkList
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import Handover
from kho_inspect.render.names import path_name
from tests.support.builder import Tree, fdt_blob
from tests.support.looking import blocks_of, only_fault

RAM = 64 << 20
FIRST = 0x10000
FDT = 0x8000


@dataclass
class Image:
    """Physical memory from 0 that holds one kho-v1 map."""

    page: int = 4096
    bitmap: int = 4096
    memory: bytearray = field(default_factory=lambda: bytearray(RAM))
    next_page: int = FIRST
    chunks: list[int] = field(default_factory=list)

    def take(self, size: int, align: int) -> int:
        """The next free, aligned address."""
        start = -(-self.next_page // align) * align
        self.next_page = start + size
        return start

    def write(self, paddr: int, data: bytes) -> None:
        self.memory[paddr : paddr + len(data)] = data

    def add(self, order: int, blocks: set[int]) -> None:
        """One chunk with the bitmaps of all blocks of an order, by block number."""
        bits = 8 * self.bitmap
        stretches = sorted({block // bits for block in blocks})
        chunk = self.take(self.page, self.page)
        elements = b""
        for stretch in stretches:
            bitmap = bytearray(self.bitmap)
            for block in blocks:
                if block // bits == stretch:
                    bitmap[block % bits // 8] |= 1 << block % 8
            paddr = self.take(self.bitmap, self.bitmap)
            self.write(paddr, bytes(bitmap))
            start = stretch * bits * self.page << order
            elements += struct.pack("<QQ", start, paddr)
        self.write(chunk, struct.pack("<QII", 0, order, len(stretches)) + elements)
        if self.chunks:
            self.write(self.chunks[-1], struct.pack("<Q", chunk))
        self.chunks.append(chunk)

    def look(self, folder: Path, page_size: str = "auto") -> Handover:
        """Inspect it; the FDT has one memblock sub-node."""
        memblock = fdt_blob(Tree(b"", [(b"compatible", b"memblock-v1\0")]))
        self.write(FDT + self.page, memblock)
        first = self.chunks[0] if self.chunks else 0
        root = fdt_blob(
            Tree(
                b"",
                [(b"compatible", b"kho-v1\0"), (b"preserved-memory-map", struct.pack("<Q", first))],
                [Tree(b"memblock", [(b"fdt", struct.pack("<Q", FDT + self.page))])],
            )
        )
        self.write(FDT, root)
        (folder / "dump").write_bytes(self.memory)
        (folder / "kho.dtb").write_bytes(root)
        options = Options(page_size=page_size)
        return inspect(str(folder / "dump"), str(folder / "kho.dtb"), options)


BASE = {FDT // 4096, FDT // 4096 + 1}
block_sets = st.dictionaries(
    st.integers(0, 9), st.sets(st.integers(0, 9000), min_size=1, max_size=40), max_size=4
)


@settings(max_examples=15, deadline=None)
@given(block_sets, st.sampled_from([512, 4096]))
def test_blocks_read_back(
    tmp_path_factory: pytest.TempPathFactory, orders: dict[int, set[int]], bitmap: int
) -> None:
    image = Image(bitmap=bitmap)
    orders = {0: orders.get(0, set()) | BASE, **{k: v for k, v in orders.items() if k}}
    if bitmap == 512:
        orders[0].add(5000)  # something that only the small form can say
    for order, blocks in orders.items():
        image.add(order, blocks)
    found = image.look(tmp_path_factory.mktemp("v1"), "4K")
    assert found.faults == ()
    assert isinstance(found.tree, ChunkList)
    assert found.tree.bitmap_size == bitmap
    wanted = {(block * 4096 << order, order) for order, bs in orders.items() for block in bs}
    assert blocks_of(found) == wanted


@pytest.mark.parametrize("page", [4096, 16384, 65536])
def test_the_page_size_is_found(tmp_path: Path, page: int) -> None:
    image = Image(page=page, bitmap=page)
    image.add(0, {FDT // page, (FDT + page) // page, 100})
    found = image.look(tmp_path)
    assert found.source.page_size == page


def test_512_byte_bitmaps_are_recognised_by_their_addresses(tmp_path: Path) -> None:
    image = Image(bitmap=512)
    image.add(0, BASE | {4096, 12288})
    found = image.look(tmp_path)
    assert isinstance(found.tree, ChunkList)
    assert (found.tree.bitmap_size, found.faults) == (512, ())
    assert (4096 * 4096, 0) in blocks_of(found)


def _two_chunks() -> Image:
    image = Image()
    image.add(0, BASE | {100})
    image.add(3, {200})
    return image


def test_a_cyclic_list_ends(tmp_path: Path) -> None:
    image = _two_chunks()
    image.write(image.chunks[1], struct.pack("<Q", image.chunks[0]))
    found = image.look(tmp_path)
    fault = only_fault(found, FaultKind.NODE_CYCLE)
    assert (fault.paddr, path_name(fault.path)) == (image.chunks[0], "chunk 2")
    assert (200 * 8 * 4096, 3) in blocks_of(found)


@pytest.mark.parametrize(
    ("pointer", "kind"),
    [
        (RAM, FaultKind.NODE_OUTSIDE),
        (2**64 - 4096, FaultKind.NODE_OUTSIDE),
        (FIRST + 8, FaultKind.NODE_MISALIGNED),
    ],
)
def test_a_bad_link_costs_the_rest_of_the_list(
    tmp_path: Path, pointer: int, kind: FaultKind
) -> None:
    image = _two_chunks()
    image.write(image.chunks[0], struct.pack("<Q", pointer))
    found = image.look(tmp_path)
    assert only_fault(found, kind).paddr == pointer
    assert blocks_of(found) == {(block * 4096, 0) for block in BASE | {100}}


@pytest.mark.parametrize("count", [256, 2**32 - 1])
def test_a_count_over_capacity_costs_the_chunk(tmp_path: Path, count: int) -> None:
    image = _two_chunks()
    image.write(image.chunks[1] + 12, struct.pack("<I", count))
    found = image.look(tmp_path)
    assert only_fault(found, FaultKind.CHUNK_COUNT).paddr == image.chunks[1]


def test_an_impossible_order_costs_the_chunk(tmp_path: Path) -> None:
    image = _two_chunks()
    image.write(image.chunks[1] + 8, struct.pack("<I", 64))
    fault = only_fault(image.look(tmp_path), FaultKind.CHUNK_ORDER)
    assert path_name(fault.path) == "chunk 1"


def test_a_bitmap_for_memory_that_no_block_starts_at(tmp_path: Path) -> None:
    image = _two_chunks()
    image.write(image.chunks[1] + 16, struct.pack("<Q", 4096))
    found = image.look(tmp_path, "4K")
    assert FaultKind.CHUNK_START in {fault.kind for fault in found.faults}


def test_a_bitmap_used_twice_counts_once(tmp_path: Path) -> None:
    image = _two_chunks()
    image.write(image.chunks[1] + 24, bytes(image.memory[image.chunks[0] + 24 :][:8]))
    found = image.look(tmp_path)
    fault = only_fault(found, FaultKind.NODE_ALIASED)
    assert path_name(fault.path) == "chunk 1 → bitmap 0"


@pytest.mark.parametrize(("runs", "orders", "said"), [(4, 1, False), (3, 1, True), (4, 2, True)])
def test_runs_are_beyond_the_budget_from_the_first_one_more(
    tmp_path: Path, runs: int, orders: int, said: bool
) -> None:
    """Four runs of order 0, BASE among them; where there is another order, one run more."""
    image = Image()
    image.add(0, BASE | {100, 102, 104})
    if orders > 1:
        image.add(1, {200})
    image.look(tmp_path)
    options = Options(limits=Limits(runs=runs))
    found = inspect(str(tmp_path / "dump"), str(tmp_path / "kho.dtb"), options)
    assert [fault.kind for fault in found.faults] == [FaultKind.LIMIT] * said


def test_an_empty_list_is_a_fault_not_a_crash(tmp_path: Path) -> None:
    found = Image().look(tmp_path)
    assert only_fault(found, FaultKind.FDT_MAP_PROPERTY)
    assert found.preserved.blocks == 0
