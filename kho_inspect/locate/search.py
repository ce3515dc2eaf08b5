"""Finding bytes in all memory that a dump stores."""

import bisect
from collections.abc import Callable, Iterator

from kho_inspect.locate.scan import SCAN_BYTES
from kho_inspect.memory import PhysicalMemory, read_or_none
from kho_inspect.units import PhysAddr

MAX_PATTERN = 4096
"""Bytes: no more than the smallest page, so that what stands across an edge is read whole."""


def search(
    memory: PhysicalMemory, pattern: bytes, progress: Callable[[int], None] = lambda size: None
) -> Iterator[PhysAddr]:
    """Every place of ``pattern``, ascending, those that overlap too.

    ``pattern`` has 1 to MAX_PATTERN bytes, and not zeros alone: holes of the file are passed over.
    ``progress`` gets the bytes of each piece that was searched.
    """
    last, near = -1, len(pattern) - 1
    for paddr, chunk in memory.data_chunks(SCAN_BYTES, near):
        end = paddr + len(chunk)
        # What begins or ends in a hole, or stands across two blocks of the file, is in no chunk.
        for start, data in (
            _around(memory, paddr, near),
            (paddr, bytes(chunk)),
            _around(memory, end, near),
        ):
            at = data.find(pattern)
            while at >= 0:
                if start + at > last:
                    last = start + at
                    yield last
                at = data.find(pattern, at + 1)
        progress(len(chunk))


def _around(memory: PhysicalMemory, edge: PhysAddr, near: int) -> tuple[PhysAddr, bytes]:
    """Up to ``near`` bytes on either side of an edge that lies in stored memory."""
    at = bisect.bisect_left(memory.stored, edge, key=lambda extent: extent.start) - 1
    if not near or at < 0 or edge >= memory.stored[at].end:
        return edge, b""
    stored = memory.stored[at]
    start, end = max(edge - near, stored.start), min(edge + near, stored.end)
    return start, bytes(read_or_none(memory, start, end - start) or b"")  # of a damaged page none
