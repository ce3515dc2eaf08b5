"""Memory that keeps which pages were read: what an answer rests on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kho_inspect import intervals
from kho_inspect.intervals import Intervals
from kho_inspect.memory.base import PhysicalMemory
from kho_inspect.units import PhysAddr


class Recorder:
    """Another memory, with a record of what was read besides scanning."""

    def __init__(self, inner: PhysicalMemory) -> None:
        self.inner = inner
        self.path, self.format, self.size = inner.path, inner.format, inner.size
        self.stored, self.declared, self.notes = inner.stored, inner.declared, inner.notes
        self.presence, self.stored_mask = inner.presence, inner.stored_mask
        self.data_chunks = inner.data_chunks
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

    def read(self, paddr: PhysAddr, size: int) -> memoryview:
        data = self.inner.read(paddr, size)
        if size:
            self._ranges.add((paddr, paddr + size))
        return data

    def gather(self, paddrs: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any]:
        items = self.inner.gather(paddrs, dtype)
        if len(paddrs):
            self._gathered.append((paddrs.copy(), dtype.itemsize))
        return items


def unrecorded(memory: PhysicalMemory) -> PhysicalMemory:
    """For reading what is searched, of which only what is found matters."""
    return memory.inner if isinstance(memory, Recorder) else memory
