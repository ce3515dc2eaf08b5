"""From set bits to page frames: runs of bits, and of the keys of a radix tree, order by order."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64, Intervals, total


def runs_of_bits(bitmaps: NDArray[np.uint64], first_bit: I64) -> tuple[Intervals, I64]:
    """Maximal runs of set bits within each leaf, and the number of set bits per leaf.

    ``bitmaps`` has shape ``(leaves, words)``; ``first_bit`` of shape ``(leaves,)`` is what bit 0
    of each leaf counts as. Runs come out in leaf order as half-open intervals; a run that goes
    on in the next leaf is not joined here.

    Every bit that differs from the one below it starts or ends a run. A zero word before each
    leaf, and one after the last, ends whatever is still open, so starts and ends alternate over
    the whole batch, and only words with such a transition are ever taken apart into bits.
    """
    leaves, words = bitmaps.shape
    padded = np.zeros(leaves * (words + 1) + 1, dtype=np.int64)
    padded[:-1].reshape(leaves, words + 1)[:, 1:] = bitmaps.view(np.int64)
    below, flat = padded[:-1], padded[1:]
    # As a signed shift repeats the sign, this is a word of which each bit equals the last one
    # of the word below.
    at = np.flatnonzero(flat != below >> 63)
    if few := 4 * len(at) < len(flat):
        below, flat = below[at], flat[at]
    edges = _positions(flat ^ (flat << 1 | (below >> 63 & 1)))
    if few:
        edges = (at[edges >> 6] << 6) + (edges & 63)
    starts, ends = edges[0::2], edges[1::2]
    rows = np.arange(leaves + 1) * (words + 1) * 64
    bounds = np.searchsorted(starts, rows)
    if few:
        used = np.diff(np.append(0, np.cumsum(ends - starts))[bounds])
    else:
        used = np.bitwise_count(bitmaps).sum(axis=1, dtype=np.int64)
    offset = np.repeat(first_bit - rows[:-1], np.diff(bounds))
    return (starts + offset, ends + offset), used


def _positions(words: I64) -> I64:
    """Of every set bit."""
    bits = np.unpackbits(words.astype("<i8", copy=False).view(np.uint8), bitorder="little")
    found: I64 = np.flatnonzero(bits.view(np.bool_))
    return found


class KeyRuns:
    """Runs of keys, added in ascending order, as runs of page frames per order.

    Each batch is decoded as it comes, so that no more than the result is ever held.
    """

    def __init__(self, geometry: PageGeometry) -> None:
        self._geometry = geometry
        self._top = geometry.order0_bit
        self._runs: dict[int, tuple[bytearray, bytearray]] = {}
        """order → starts and ends. As bytes, for these grow where they are, without a copy."""
        self.count = 0
        """Runs that were added."""
        self.no_order = False
        """Whether key 0 was among them: it has no order bit, so it names no page."""
        self.too_high: tuple[int, int] | None = None
        """The first key with a bit above the order-0 bit, and how many there were."""

    def add(self, starts: I64, ends: I64) -> None:
        """Sorted, disjoint runs above all that were added before; the arrays are given away."""
        self.count += len(starts)
        if not len(starts):
            return
        starts, ends = self._split_by_order(starts, ends)
        least, most = int(starts[0]).bit_length(), int(ends[-1] - 1).bit_length()
        powers = np.int64(1) << np.arange(least, most)
        bounds = [0, *np.searchsorted(starts, powers).tolist(), len(starts)]
        for high, (low, stop) in enumerate(pairwise(bounds), least - 1):
            if low == stop:
                continue
            if high < 0:
                self.no_order = True
            elif high > self._top:
                key, count = self.too_high or (int(starts[low]), 0)
                self.too_high = key, count + total((starts[low:stop], ends[low:stop]))
            else:
                order, bit = self._top - high, 1 << high
                first, last = _join(starts[low:stop], ends[low:stop])
                for values in (first, last):
                    values -= bit
                    values <<= order
                self._append(order, first, last)

    def result(self) -> dict[int, Intervals]:
        """order → merged runs of page frames; nothing can be added any more."""
        return {
            order: (np.frombuffer(starts, np.int64), np.frombuffer(ends, np.int64))
            for order, (starts, ends) in sorted(self._runs.items())
        }

    def _append(self, order: int, starts: I64, ends: I64) -> None:
        all_starts, all_ends = self._runs.setdefault(order, (bytearray(), bytearray()))
        if all_ends[-8:] == starts[:1].tobytes():
            all_ends[-8:] = ends[:1].tobytes()
            starts, ends = starts[1:], ends[1:]
        all_starts.extend(starts.data)
        all_ends.extend(ends.data)

    def _split_by_order(self, starts: I64, ends: I64) -> Intervals:
        """Cut runs at powers of two, where the order changes.

        Only the leaf of the lowest keys can hold such a run: any other leaf's keys share their
        highest bit.
        """
        low = int(np.searchsorted(starts, 1 << self._geometry.bitmap_bits))
        cut: list[tuple[int, int]] = []
        for start, end in zip(starts[:low].tolist(), ends[:low].tolist(), strict=True):
            while start < end:
                stop = min(end, 1 << start.bit_length())
                cut.append((start, stop))
                start = stop
        if len(cut) == low:
            return starts, ends
        head = np.array(cut, dtype=np.int64)
        return np.concatenate([head[:, 0], starts[low:]]), np.concatenate([head[:, 1], ends[low:]])


def _join(starts: I64, ends: I64) -> Intervals:
    """Join sorted, disjoint runs where one goes on in the next."""
    first = np.empty(len(starts), dtype=bool)
    first[0] = True
    np.not_equal(starts[1:], ends[:-1], out=first[1:])
    if first.all():
        return starts, ends
    last = np.append(first[1:], True)
    return starts[first], ends[last]
