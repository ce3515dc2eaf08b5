"""A bitmap of page frames inside a dump file, as intervals: a list of pages would be too long."""

import numpy as np

from kho_inspect import intervals
from kho_inspect.errors import UnreadableInputError
from kho_inspect.intervals import Intervals
from kho_inspect.memory.files import DumpFile

MAX_RUNS = 1 << 24
"""Runs of one bitmap: a filtered dump of terabytes may have millions. Each takes 16 bytes."""
_CHUNK = 1 << 18
"""Bytes of bitmap that are looked at at a time."""


def set_bits(file: DumpFile, offset: int, count: int) -> Intervals:
    """Which of the ``count`` bits at a file offset are set: bit i % 8 of byte i // 8 is bit i.

    Holes of a sparse file cost nothing. Raises UnreadableInputError for more than
    :data:`MAX_RUNS`.
    """
    parts, held = [], 0
    for start, end in file.data_extents(offset, offset + -(-count // 8)):
        for at in range(start, end, _CHUNK):
            data = np.frombuffer(file.view[at : min(at + _CHUNK, end)], dtype=np.uint8)
            flags = np.zeros(8 * len(data) + 2, dtype=np.uint8)
            flags[1:-1] = np.unpackbits(data, bitorder="little")
            change = np.flatnonzero(flags[1:] != flags[:-1]) + 8 * (at - offset)
            parts.append((change[0::2], change[1::2]))
            held += len(change) // 2
            if held > MAX_RUNS:
                raise UnreadableInputError(
                    f"{file.path}: a bitmap of this dump has more than {MAX_RUNS:,} runs of pages",
                    hint="the file is damaged: take the dump again",
                    source=file.path,
                )
    # The last byte may have bits for pages that do not exist.
    return intervals.intersect(intervals.union(parts), intervals.from_pairs([(0, count)]))


def fewer_runs(runs: Intervals, limit: int) -> Intervals:
    """At most ``limit`` intervals that cover a merged set: its smaller gaps are closed."""
    starts, ends = runs
    if len(starts) > limit:
        gaps = starts[1:] - ends[:-1]
        wide = gaps > np.partition(gaps, -limit)[-limit]
        starts, ends = starts[np.append(True, wide)], ends[np.append(wide, True)]
    return starts, ends
