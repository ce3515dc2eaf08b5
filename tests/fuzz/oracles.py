"""What must hold whatever the input: of any dump that opens, of any map that is walked."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kho_inspect.errors import ExcludedMemoryError, MissingMemoryError, OutsideMemoryError
from kho_inspect.memory import PhysicalMemory, Presence
from kho_inspect.model.map import PreservedMap
from kho_inspect.model.preserved import Preserved
from kho_inspect.units import Extent
from tests.fuzz.patches import ALL_ONES
from tests.support.builder import Image

MAX_EXTENTS = 6
MAX_CHUNKS = 64
MAX_NAIVE = 1 << 12
"""Keys beyond which the plain reading of a map is not worth its time."""

# -- dumps


def check_memory(memory: PhysicalMemory, more: Sequence[int]) -> None:
    """Every way of asking a dump for an address gives the same answer.

    ``more``: addresses to ask for, besides the bounds of its extents.
    """
    check_extents(memory.stored)
    check_extents(memory.declared)
    for extent in memory.stored[:MAX_EXTENTS]:
        assert any(whole.contains(extent.start, extent.size) for whole in memory.declared)
    assert all(isinstance(note, str) for note in memory.notes)
    addresses = {0, ALL_ONES, *more}
    for extent in [*memory.stored[:MAX_EXTENTS], *memory.declared[-2:]]:
        middle = extent.start + extent.size // 2
        addresses |= {extent.start - 1, extent.start, middle, extent.end - 8, extent.end - 1}
        addresses.add(extent.end)
    asked = sorted(at for at in addresses if 0 <= at <= ALL_ONES)
    for size in (1, 8, 4096, 5000):
        mask = memory.stored_mask(np.array(asked, dtype=np.uint64), size).tolist()
        for at, stored in zip(asked, mask, strict=True):
            check_read(memory, at, size, stored)
        held = [at for at, stored in zip(asked, mask, strict=True) if stored]
        items = memory.gather(np.array(held, dtype=np.uint64), np.dtype((np.void, size)))
        for at, item in zip(held, items, strict=True):
            assert item.tobytes() == bytes(memory.read(at, size))
    check_chunks(memory)


def check_extents(extents: Sequence[Extent]) -> None:
    """Sorted, apart, none of them empty or beyond 64 bits."""
    reach = -1
    for extent in extents:
        assert reach < extent.start < extent.end <= 1 << 64
        reach = extent.end


def check_read(memory: PhysicalMemory, at: int, size: int, stored: bool) -> None:
    """``stored`` is what the mask says; presence and reading must agree with it."""
    presence = memory.presence(at, size)
    assert stored == (presence is Presence.STORED)
    try:
        data = memory.read(at, size)
    except MissingMemoryError as error:
        assert not stored
        assert isinstance(error, OutsideMemoryError) == (presence is Presence.OUTSIDE)
        assert isinstance(error, ExcludedMemoryError) == (presence is Presence.EXCLUDED)
    else:
        assert stored
        assert len(data) == size


def check_chunks(memory: PhysicalMemory) -> None:
    """A scan meets what reading gives, and comes to an end."""
    total = 0
    for number, (at, data) in enumerate(memory.data_chunks(1 << 16, 64)):
        total += len(data)
        if number < MAX_CHUNKS and memory.presence(at, len(data)) is Presence.STORED:
            assert bytes(data) == bytes(memory.read(at, len(data)))
    assert total <= 2 * sum(extent.size for extent in memory.stored)


# -- maps


class Metered:
    """Memory that counts the bytes it gives."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        self.given = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.memory, name)

    def read(self, paddr: int, size: int) -> memoryview:
        self.given += size
        return self.memory.read(paddr, size)

    def gather(self, paddrs: Any, dtype: Any) -> Any:
        self.given += len(paddrs) * dtype.itemsize
        return self.memory.gather(paddrs, dtype)


def check_runs(starts: Any, ends: Any, limit: int) -> None:
    """A merged set of page frames below ``limit``."""
    assert (starts < ends).all()
    assert (starts[1:] > ends[:-1]).all()
    if len(starts):
        assert starts[0] >= 0
        assert ends[-1] <= limit


def check_preserved(preserved: Preserved, tree: PreservedMap | None) -> None:
    """Runs are merged, and whole blocks of their order."""
    limit = 1 << (64 - preserved.page_shift)
    for order, (starts, ends) in preserved.runs.items():
        check_runs(starts, ends, limit)
        assert len(starts)
        assert not ((starts | ends) & ((1 << order) - 1)).any()
    check_runs(*preserved.merged, limit)
    if tree is not None:
        check_runs(*tree.lost, limit)


def blocks_of(preserved: Preserved) -> set[tuple[int, int]] | None:
    """(paddr, order) of every block; None when there are too many."""
    if preserved.blocks > MAX_NAIVE:
        return None
    return {
        (pfn << preserved.page_shift, order)
        for order, (starts, ends) in preserved.runs.items()
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        for pfn in range(start, end, 1 << order)
    }


def _bits(data: bytes) -> Iterator[int]:
    word = int.from_bytes(data, "little")
    while word:
        low = word & -word
        yield low.bit_length() - 1
        word ^= low


def naive_tree(memory: PhysicalMemory, shift: int, abi: str, root: int) -> set[tuple[int, int]]:
    """The blocks of a sound radix tree, read page by page as ABI.md tells it."""
    shape = Image(shift, abi)
    found = set()

    def descend(node: int, level: int, key: int) -> None:
        data = bytes(memory.read(node, 1 << shift))
        if level == 0:
            for bit in _bits(data):
                high = (key | bit).bit_length() - 1
                order = 64 - shift - high
                found.add((((key | bit) ^ 1 << high) << (shift + order), order))
            return
        for index, child in enumerate(struct.unpack(f"<{len(data) // 8}Q", data)):
            if child:
                at = index << ((level - 1) * shape.table_bits + shape.bitmap_bits)
                descend(child, level - 1, key | at)

    descend(root, shape.levels - 1, 0)
    return found


def naive_list(memory: PhysicalMemory, shift: int, bitmap: int, at: int) -> set[tuple[int, int]]:
    """The blocks of a sound kho-v1 list whose bitmaps have ``bitmap`` bytes."""
    found = set()
    while at:
        data = bytes(memory.read(at, 1 << shift))
        at, order, count = struct.unpack_from("<QII", data)
        for element in range(count):
            start, where = struct.unpack_from("<QQ", data, 16 + 16 * element)
            for bit in _bits(bytes(memory.read(where, bitmap))):
                block = start + (bit << (order + shift))
                # There is no memory beyond 64 bits.
                if block < 1 << 64:
                    found.add((block, order))
    return found
