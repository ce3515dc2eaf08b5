"""From set bits to page frames: runs of bits, and of the keys of a radix tree, order by order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64, Intervals


def runs_of_bits(bitmaps: NDArray[np.uint64], first_bit: I64) -> tuple[Intervals, I64]:
    """Maximal runs of set bits within each leaf, and the number of set bits per leaf.

    ``bitmaps`` has shape ``(leaves, words)``; ``first_bit`` of shape ``(leaves,)`` is what bit 0
    of each leaf counts as. Runs come out in leaf order as half-open intervals; a run that goes
    on in the next leaf is not joined here.

    Every bit that differs from the one below it starts or ends a run. A zero word appended to
    each leaf ends whatever is still open, so starts and ends alternate over the whole batch, and
    only words with such a transition are ever taken apart into bits.
    """
    leaves, words = bitmaps.shape
    padded = np.zeros((leaves, words + 1), dtype=np.uint64)
    padded[:, :words] = bitmaps
    flat = padded.reshape(-1)
    changes = flat << np.uint64(1)
    changes[1:] |= flat[:-1] >> np.uint64(63)
    changes ^= flat
    at = np.flatnonzero(changes)
    if 4 * len(at) < len(changes):
        hits = _positions(changes[at])
        edges = (at[hits >> 6] << 6) + (hits & 63)
    else:
        edges = _positions(changes)
    starts, ends = edges[0::2], edges[1::2]
    row_bits = (words + 1) * 64
    bounds = np.searchsorted(starts, np.arange(leaves + 1) * row_bits)
    offset = np.repeat(first_bit - np.arange(leaves) * row_bits, np.diff(bounds))
    used = np.bitwise_count(bitmaps).sum(axis=1, dtype=np.int64)
    return (starts + offset, ends + offset), used


def _positions(words: NDArray[np.uint64]) -> I64:
    """Of every set bit."""
    bits = np.unpackbits(words.astype("<u8", copy=False).view(np.uint8), bitorder="little")
    found: I64 = np.flatnonzero(bits.view(np.bool_))
    return found


class KeyRuns:
    """Runs of keys, added in ascending order, as runs of page frames per order.

    Each batch is decoded as it comes, so that no more than the result is ever held.
    """

    def __init__(self, geometry: PageGeometry) -> None:
        self._geometry = geometry
        self._top = geometry.order0_bit
        self._powers = [1 << high for high in range(min(self._top + 2, 63))]
        self._pieces: dict[int, tuple[list[I64], list[I64]]] = {}
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
        bounds = np.searchsorted(starts, self._powers).tolist()
        if bounds[0]:
            self.no_order = True
        for high, (low, stop) in enumerate(pairwise(bounds)):
            if low < stop:
                order, bit = self._top - high, 1 << high
                first, last = _join(starts[low:stop], ends[low:stop])
                for values in (first, last):
                    values -= bit
                    values <<= order
                self._append(order, first, last)
        if len(self._powers) == self._top + 2 and bounds[-1] < len(starts):
            rest = bounds[-1]
            key, count = self.too_high or (int(starts[rest]), 0)
            self.too_high = key, count + int((ends[rest:] - starts[rest:]).sum())

    def result(self) -> dict[int, Intervals]:
        """order → merged runs of page frames; what was collected is given away."""
        orders: dict[int, Intervals] = {}
        for order in sorted(self._pieces):
            starts, ends = self._pieces.pop(order)
            stop = sum(map(len, starts))
            orders[order] = first, last = np.empty(stop, np.int64), np.empty(stop, np.int64)
            # From the last one back, so that the allocator can return what each leaves free.
            while starts:
                at = stop - len(starts[-1])
                first[at:stop], last[at:stop] = starts.pop(), ends.pop()
                stop = at
        return orders

    def _append(self, order: int, starts: I64, ends: I64) -> None:
        all_starts, all_ends = self._pieces.setdefault(order, ([], []))
        if all_ends and all_ends[-1][-1] == starts[0]:
            all_ends[-1][-1] = ends[0]
            starts, ends = starts[1:], ends[1:]
        if len(starts):
            all_starts.append(starts)
            all_ends.append(ends)

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
