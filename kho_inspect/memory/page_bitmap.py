"""A bitmap of page frames inside a dump file: membership, rank and runs without a list of pages.

One bit is one page, so the bitmap of a terabyte is 32 MiB: it stays where it is, and holes of a
sparse file cost nothing.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.memory.files import DumpFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.intervals import I64, Intervals

_RANKED = 256
"""Bytes of bitmap between two ranks that are kept."""
_CHUNK = 1 << 18
"""Bytes of bitmap that are looked at at a time."""
_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


class PageBitmap:
    """``pages`` bits of a file, bit i % 8 of byte i // 8 for page frame i."""

    def __init__(self, file: DumpFile, offset: int, pages: int) -> None:
        """The bitmap must lie inside the file."""
        self.pages = pages
        extents: list[tuple[int, int]] = []
        for start, end in file.data_extents(offset, offset + -(-pages // 8)):
            if extents and start == extents[-1][1]:
                extents[-1] = (extents[-1][0], end)
            else:
                extents.append((start, end))
        pieces = [np.frombuffer(file.view[start:end], dtype=np.uint8) for start, end in extents]
        empty = np.empty(0, dtype=np.uint8)
        # The pieces end to end; where there is only one, nothing is copied.
        self._bytes = pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, empty])
        self._starts = [start - offset for start, _ in extents]
        self._ends = [end - offset for _, end in extents]
        self._at = [0]
        for start, end in extents:
            self._at.append(self._at[-1] + end - start)
        self._ranks = _ranks_of(self._bytes)
        self.total = self.rank(pages)

    def _locate(self, byte: int) -> tuple[int, bool]:
        """Where a byte of the bitmap is in :attr:`_bytes`, and whether it is there at all."""
        piece = bisect.bisect_right(self._starts, byte) - 1
        if piece < 0:
            return 0, False
        if byte < self._ends[piece]:
            return self._at[piece] + byte - self._starts[piece], True
        return self._at[piece + 1], False

    def rank(self, pfn: int) -> int:
        """How many pages below ``pfn`` are set."""
        pfn = min(pfn, self.pages)
        at, stored = self._locate(pfn // 8)
        block = at // _RANKED
        count = int(self._ranks[block])
        below = self._bytes[block * _RANKED : at].tobytes()
        count += int.from_bytes(below, "little").bit_count()
        if stored and pfn % 8:
            count += (int(self._bytes[at]) & ((1 << pfn % 8) - 1)).bit_count()
        return count

    def all_set(self, first: int, last: int) -> bool:
        """Whether all pages from ``first`` to ``last``, itself included, are set."""
        return first >= 0 and last < self.pages and self.count(first, last + 1) == last + 1 - first

    def count(self, first: int, end: int) -> int:
        """How many of the pages ``first <= pfn < end`` are set."""
        return self.rank(end) - self.rank(first)

    def contains(self, pfns: I64) -> NDArray[np.bool_]:
        """For each page frame, whether it is set."""
        found = np.zeros(len(pfns), dtype=bool)
        inside = np.flatnonzero((pfns >= 0) & (pfns < self.pages))
        if not len(inside) or not self._starts:
            return found
        byte = pfns[inside] >> 3
        piece = np.searchsorted(np.array(self._starts), byte, side="right") - 1
        stored = (piece >= 0) & (byte < np.array(self._ends)[piece])
        inside, byte, piece = inside[stored], byte[stored], piece[stored]
        values = self._bytes[np.array(self._at)[piece] + byte - np.array(self._starts)[piece]]
        found[inside] = values >> (pfns[inside] & 7).astype(np.uint8) & 1 != 0
        return found

    def select(self, ranks: I64) -> I64:
        """The page frames of which so many set ones lie below; each must exist."""
        found = np.empty(len(ranks), dtype=np.int64)
        starts, at = np.array(self._starts), np.array(self._at)
        blocks = np.searchsorted(self._ranks, ranks, side="right") - 1
        for index, (rank, block) in enumerate(zip(ranks.tolist(), blocks.tolist(), strict=True)):
            part = self._bytes[block * _RANKED : (block + 1) * _RANKED]
            bits = np.flatnonzero(np.unpackbits(part, bitorder="little"))
            bit = int(bits[rank - int(self._ranks[block])])
            byte = block * _RANKED + bit // 8
            piece = int(np.searchsorted(at, byte, side="right")) - 1
            found[index] = (int(starts[piece]) + byte - int(at[piece])) * 8 + bit % 8
        return found

    def runs(self, limit: int) -> Intervals:
        """The set pages as merged intervals of page frames.

        More than ``limit`` of them are too many to hold: the smallest gaps are then closed.
        """
        found: list[Intervals] = []
        held = 0
        for piece, (begin, stop) in enumerate(zip(self._starts, self._ends, strict=True)):
            for byte in range(begin, stop, _CHUNK):
                at = self._at[piece] + byte - begin
                chunk = _runs_of(self._bytes[at : at + min(_CHUNK, stop - byte)])
                chunk = fewer_runs(chunk, limit)
                found.append((chunk[0] + 8 * byte, chunk[1] + 8 * byte))
                held += len(chunk[0])
                if held > 4 * limit:
                    found = [fewer_runs(_joined(found), limit)]
                    held = limit
        starts, ends = fewer_runs(_joined(found), limit)
        # The last byte may have bits for pages that are not.
        ends = np.minimum(ends, self.pages)
        return starts[starts < ends], ends[starts < ends]


def fewer_runs(runs: Intervals, limit: int) -> Intervals:
    """At most ``limit`` intervals that cover a merged set: its smallest gaps are closed."""
    starts, ends = runs
    if len(starts) <= limit:
        return runs
    gaps = starts[1:] - ends[:-1]
    wanted = limit - 1
    if wanted:
        smallest = np.partition(gaps, len(gaps) - wanted)[len(gaps) - wanted]
        kept = gaps > smallest
        equal = np.flatnonzero(gaps == smallest)
        kept[equal[: wanted - int(kept.sum())]] = True
    else:
        kept = np.zeros(len(gaps), dtype=bool)
    return (
        np.concatenate([starts[:1], starts[1:][kept]]),
        np.concatenate([ends[:-1][kept], ends[-1:]]),
    )


def _joined(parts: list[Intervals]) -> Intervals:
    """Merged sets that follow each other as one."""
    nothing = intervals.empty()
    return intervals.merge(
        np.concatenate([starts for starts, _ in [*parts, nothing]]),
        np.concatenate([ends for _, ends in [*parts, nothing]]),
    )


def _ranks_of(data: NDArray[np.uint8]) -> I64:
    """Bits set below each multiple of ``_RANKED`` bytes."""
    counts = [np.zeros(1, dtype=np.int64)]
    for at in range(0, len(data), _CHUNK):
        ones = _ONES[data[at : at + _CHUNK]]
        heads = np.arange(0, len(ones), _RANKED)
        counts.append(np.add.reduceat(ones, heads, dtype=np.int64))
    ranks: I64 = np.cumsum(np.concatenate(counts))
    return ranks


def _runs_of(data: NDArray[np.uint8]) -> Intervals:
    """The set bits of some bytes as intervals."""
    if data[0] in (0, 255) and (data == data[0]).all():
        bits = np.array([0, 8 * len(data)] if data[0] else [], dtype=np.int64)
        return bits[:1], bits[1:]
    flags = np.unpackbits(data, bitorder="little")
    change = np.flatnonzero(np.diff(flags, prepend=0, append=0))
    return change[0::2].astype(np.int64), change[1::2].astype(np.int64)
