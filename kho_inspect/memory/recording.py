"""Memory that keeps which pages were read: what an answer rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kho_inspect import intervals
from kho_inspect.memory.base import PhysicalMemory, Presence
from kho_inspect.units import Extent, PhysAddr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kho_inspect.intervals import Intervals


class Recorder:
    """Another memory, with a record of what was read besides scanning."""

    def __init__(self, inner: PhysicalMemory) -> None:
        self.inner = inner
        self._ranges: set[tuple[PhysAddr, PhysAddr]] = set()
        self._gathered: list[tuple[NDArray[np.uint64], int]] = []

    def pages(self, shift: int) -> Intervals:
        """The pages that were read, as page frames of ``1 << shift`` bytes."""
        ends = [(start >> shift, -(-end >> shift)) for start, end in self._ranges]
        found = [intervals.from_pairs(sorted(ends))]
        for paddrs, size in self._gathered:
            last = (paddrs + np.uint64(size - 1)) >> np.uint64(shift)
            pfns = (paddrs >> np.uint64(shift)).astype(np.int64)
            found.append((pfns, last.astype(np.int64) + 1))
        return intervals.merge(
            np.concatenate([starts for starts, _ in found]),
            np.concatenate([stops for _, stops in found]),
        )

    @property
    def path(self) -> str:
        return self.inner.path

    @property
    def format(self) -> str:
        return self.inner.format

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def stored(self) -> tuple[Extent, ...]:
        return self.inner.stored

    @property
    def declared(self) -> tuple[Extent, ...]:
        return self.inner.declared

    @property
    def notes(self) -> tuple[str, ...]:
        return self.inner.notes

    def presence(self, paddr: PhysAddr, size: int = 1) -> Presence:
        return self.inner.presence(paddr, size)

    def read(self, paddr: PhysAddr, size: int) -> memoryview:
        data = self.inner.read(paddr, size)
        if size:
            self._ranges.add((paddr, paddr + size))
        return data

    def stored_mask(self, paddrs: NDArray[np.uint64], size: int) -> NDArray[np.bool_]:
        return self.inner.stored_mask(paddrs, size)

    def gather(self, paddrs: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any]:
        items = self.inner.gather(paddrs, dtype)
        if len(paddrs):
            self._gathered.append((paddrs.copy(), dtype.itemsize))
        return items

    def data_chunks(self, size: int, overlap: int) -> Iterator[tuple[PhysAddr, memoryview]]:
        return self.inner.data_chunks(size, overlap)


def unrecorded(memory: PhysicalMemory) -> PhysicalMemory:
    """For reading what is searched, of which only what is found matters."""
    return memory.inner if isinstance(memory, Recorder) else memory
