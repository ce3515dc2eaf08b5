"""Looking for known bytes among pages."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.errors import MissingMemoryError

if TYPE_CHECKING:
    from kho_inspect.intervals import Intervals
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.units import PhysAddr

BATCH = 4096


def find_page(
    memory: PhysicalMemory, pages: Intervals, page_shift: int, data: bytes, limit: int
) -> PhysAddr | None:
    """The first of ``pages`` (page frames) that begins with ``data``, at least 8 bytes.

    Gives up after ``limit`` pages, a multiple of :data:`BATCH`.
    """
    first = np.frombuffer(data, dtype="<u8", count=1)
    # As many runs as pages, and no more, are enough.
    runs = pages[0][:limit], pages[1][:limit]
    for pfns in islice(intervals.points(runs, BATCH), -(-limit // BATCH)):
        batch = pfns.astype(np.uint64) << np.uint64(page_shift)
        batch = batch[memory.stored_mask(batch, first.itemsize)]
        for paddr in batch[memory.gather(batch, first.dtype) == first].tolist():
            try:
                if memory.read(paddr, len(data)) == data:
                    return int(paddr)
            except MissingMemoryError:
                continue
    return None
