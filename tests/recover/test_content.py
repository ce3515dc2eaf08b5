"""The layout of content in a file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kho_inspect.errors import NotStoredMemoryError
from kho_inspect.memory.files import MappedFile
from kho_inspect.memory.mapped import MappedMemory, RamBlock
from kho_inspect.model.contents import Item, Part, Piece
from kho_inspect.model.identity import Owner, Subsystem
from kho_inspect.recover.content import Account, Reader, laid_out
from kho_inspect.units import Extent

NAME = Owner(Subsystem.LUO)
PAGE = 4096

PIECES = st.lists(
    st.builds(Piece, st.integers(0, 30), st.integers(0, 1000), st.integers(1, 12))
).map(lambda pieces: sorted(pieces, key=lambda piece: piece.offset))


@given(PIECES)
def test_where_pieces_overlap_the_last_of_them_counts(pieces: list[Piece]) -> None:
    expected: dict[int, int] = {}
    for offset, paddr, size in pieces:
        expected |= {offset + at: paddr + at for at in range(size)}
    found: dict[int, int] = {}
    reach = 0
    for offset, paddr, size in laid_out(pieces):
        assert offset >= reach
        assert size > 0
        reach = offset + size
        found |= {offset + at: paddr + at for at in range(size)}
    assert found == expected


class Damaged(MappedMemory):
    """A dump of 64 pages from 0x40000 on, of which the file lacks ten, and three are damaged."""

    bad = frozenset({0x48000, 0x49000, 0x60000})

    def __init__(self, folder: Path, offset: int) -> None:
        dump = folder / "dump"
        dump.write_bytes(random.Random(offset).randbytes(offset + 54 * PAGE))
        blocks = [
            RamBlock(0x40000, offset, 20 * PAGE),
            RamBlock(0x54000, offset + 20 * PAGE, 9 * PAGE),
            RamBlock(0x67000, offset + 29 * PAGE, 25 * PAGE),
        ]
        declared = [Extent(0x40000, 0x80000)]
        super().__init__(MappedFile(str(dump)), "raw", blocks, declared=declared)

    def read(self, paddr: int, size: int) -> memoryview:
        if any(paddr < page + PAGE and page < paddr + size for page in self.bad):
            raise NotStoredMemoryError("damaged", paddr=paddr, size=size)
        return super().read(paddr, size)

    def gather(self, paddrs: Any, dtype: Any) -> Any:
        if self.bad.intersection(paddrs.tolist()):
            raise NotStoredMemoryError("damaged", paddr=0, size=PAGE)
        return super().gather(paddrs, dtype)


PAGES = st.builds(
    lambda offset, pfn, pages, odd: Piece(offset * PAGE, pfn * PAGE, pages * PAGE - odd),
    st.integers(0, 60),
    st.integers(0x3E, 0x82) | st.just(1 << 52),
    st.sampled_from([1, 1, 1, 1, 2, 3, 17]),
    st.sampled_from([0, 0, 0, 0, 5]),
)


@pytest.mark.parametrize("offset", [0, PAGE, 100])
@given(data=st.data())
def test_blocks_hold_what_the_parts_hold(
    tmp_path_factory: pytest.TempPathFactory, offset: int, data: st.DataObject
) -> None:
    """The same bytes, sources and gaps, in fewer parts: of pages in any order, stored or not."""
    folder = tmp_path_factory.mktemp("dump")
    memory = Damaged(folder, offset)
    pieces = sorted(data.draw(st.lists(PAGES, max_size=40)), key=lambda piece: piece.offset)
    end = max((piece.offset + piece.size for piece in pieces), default=0)
    item = Item(NAME, end + data.draw(st.sampled_from([0, PAGE])), pieces)
    found = []
    for parts in Reader(memory).parts(item), Reader(memory).blocks(item):
        account, content, reach = Account(), bytearray(item.size), 0
        for part in account.watched(parts):
            assert part.offset == reach
            reach += part.size
            if part.data is not None:
                assert len(part.data) == part.size
                content[part.offset : reach] = part.data
        assert reach == item.size
        found.append((account.sources, account.gaps, content))
    assert found[0] == found[1]


@pytest.mark.parametrize(("stride", "runs"), [(1, 0), (2, 9), (-1, 9)])
def test_pages_that_stand_behind_each_other_in_a_file_are_read_at_once(
    tmp_path: Path, stride: int, runs: int
) -> None:
    """No work for each page where memory goes on as the file does, one part where it does not."""
    pieces = [Piece(at * PAGE, 0x6F000 + at * stride * PAGE, PAGE) for at in range(9)]
    (part,) = Reader(Damaged(tmp_path, 0)).blocks(Item(NAME, 9 * PAGE, pieces))
    assert (part.size, len(part.runs)) == (9 * PAGE, runs)


def test_sources_that_go_on_are_one_and_what_came_before_stays() -> None:
    account, data = Account(), memoryview(bytes(8))
    for offset, paddr in ((0, 0x1000), (8, 0x2000), (16, 0x2008), (24, 0x2010), (32, 0x1008)):
        account.add(Part(offset, 8, paddr, data))
    assert account.sources == [Piece(0, 0x1000, 8), Piece(8, 0x2000, 24), Piece(32, 0x1008, 8)]
