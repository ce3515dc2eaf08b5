"""Searching memory: every place, whatever the edges of chunks, blocks and holes."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from kho_inspect.locate import search as searching
from kho_inspect.memory import RamBlock
from kho_inspect.memory.mapped import MappedMemory

PAGE = 64


class SparseFile:
    """A DumpFile whose pages of zeros are holes."""

    def __init__(self, data: bytes) -> None:
        self.path = "image"
        self.size = len(data)
        self.view = memoryview(data)

    def data_extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        edges = range(start, end, PAGE)
        pieces = [(at, min(at + PAGE, end)) for at in edges]
        return (piece for piece in pieces if any(self.view[slice(*piece)]))

    def forget(self, start: int, end: int) -> None:
        pass


@given(
    data=st.lists(st.sampled_from([bytes(PAGE), b"ab" * (PAGE // 2), b"\0a" * (PAGE // 2)]))
    .map(b"".join)
    .flatmap(lambda data: st.tuples(st.just(data), st.binary(max_size=9)))
    .map(b"".join),
    pattern=st.text("ab\0", min_size=1, max_size=150).filter(lambda text: text.strip("\0") != ""),
    cut=st.integers(0, 200),
    gap=st.sampled_from([0, 1, 1000]),
    step=st.integers(1, 200),
)
def test_every_place_is_found_once(
    data: bytes, pattern: str, cut: int, gap: int, step: int
) -> None:
    cut = min(cut, len(data))
    blocks = [RamBlock(4096, 0, cut), RamBlock(4096 + cut + gap, cut, len(data) - cut)]
    memory = MappedMemory(SparseFile(data), "raw", blocks)
    wanted = pattern.encode()
    stored = [(4096, data)] if not gap else [(4096, data[:cut]), (blocks[1].paddr, data[cut:])]
    expected = [
        base + at
        for base, part in stored
        for at in range(len(part))
        if part[at:].startswith(wanted)
    ]
    with mock.patch.object(searching, "SCAN_BYTES", step):
        assert list(searching.search(memory, wanted)) == expected
