"""Walking a chain of kho_blocks: ``kho_block_restore()`` and its readers [7.2]."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kho_inspect.geometry import PageGeometry
from kho_inspect.layouts.block import kho_block_header
from kho_inspect.layouts.views import Layout, dtype_of, parse_record
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.identity import Path, Step, StepKind
from kho_inspect.units import PhysAddr
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.pages import ListPage, PageList

_BLOCKS = ListPage(
    "kho_block",
    FaultKind.BLOCK_OUTSIDE,
    FaultKind.BLOCK_NOT_STORED,
    link="kho_block {at:#x}",
    cycle=(FaultKind.BLOCK_CYCLE, "kho_block {last:#x} links back to block {at:#x}"),
    misaligned=FaultKind.BLOCK_MISALIGNED,
)


def walk_blocks(
    memory: PhysicalMemory,
    geometry: PageGeometry,
    first: PhysAddr,
    entry: Layout,
    path: Path,
    faults: FaultLog,
    limit: int,
) -> tuple[list[PhysAddr], NDArray[Any]]:
    """Follow ``next`` from the block at ``first`` (0: an empty chain).

    Returns the blocks that could be read, and their entries in chain order.
    No block is read twice, and none once there are ``limit`` entries. A block whose ``count`` is
    above what it has room for gives none. Entries start with a text: one right behind the count
    that has some is not counted, but was written.
    """
    dtype = dtype_of(entry)
    # Not sizeof(), which adds up the fields each time: there may be 100,000 sessions.
    header_size = dtype_of(kho_block_header).itemsize
    capacity = (geometry.page_size - header_size) // dtype.itemsize
    blocks = PageList(_BLOCKS, memory, geometry, faults)
    parts = [np.empty(0, dtype)]
    at, found = first, 0
    while at and found < limit:
        here = (*path, Step(StepKind.BLOCK, len(blocks.addresses)))
        data = blocks.read(at, here)
        if data is None:
            break
        header = parse_record(kho_block_header, data)
        count = header.count
        if count > capacity:
            faults.add(
                FaultKind.BLOCK_COUNT,
                f"kho_block {at:#x} counts {count:,} entries, its page has room for {capacity}",
                paddr=at,
                path=here,
            )
            count = 0
        elif not count:
            words = f"kho_block {at:#x} counts no entries, should count 1 to {capacity}"
            faults.add(FaultKind.BLOCK_EMPTY, words, paddr=at, path=here)
        elif count < capacity and data[header_size + count * dtype.itemsize]:
            words = f"kho_block {at:#x} counts {count:,} entries, one more stands behind them"
            faults.add(FaultKind.RECORD_UNCOUNTED, words, paddr=at, path=here)
        parts.append(np.frombuffer(data, dtype, count, header_size))
        found += count
        at = header.next
    return list(blocks.addresses), np.concatenate(parts)
