"""Preserved memory: all blocks as runs of page frames per order.

Arrays are numpy int64 page frames, never lists of pages.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kho_inspect import intervals
from kho_inspect.intervals import I64, Intervals
from kho_inspect.units import Extent, PhysAddr

BATCH = 1 << 20
"""Intervals that are looked up at a time."""
MAX_PAGES_LISTED = 1 << 26
"""Page frames up to which a byte for each is spent on finding blocks: 256 GiB of 4K pages."""


class Block(NamedTuple):
    """One preserved block: ``1 << order`` pages from ``paddr``, naturally aligned."""

    paddr: PhysAddr
    order: int
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Preserved:
    """All preserved blocks, as runs: per order, merged intervals of page frames."""

    page_shift: int
    runs: Mapping[int, Intervals]
    """order → (start_pfn, end_pfn), sorted; every bound a multiple of ``1 << order``."""

    @cached_property
    def orders(self) -> dict[int, int]:
        """Number of blocks per order, orders without blocks left out."""
        return {order: intervals.total(runs) >> order for order, runs in sorted(self.runs.items())}

    @cached_property
    def blocks(self) -> int:
        """Number of preserved blocks (keys in the tree)."""
        return sum(self.orders.values())

    @cached_property
    def bytes(self) -> int:
        """Sum of the blocks' sizes in bytes (an overlap between orders counts twice)."""
        return sum(count << (order + self.page_shift) for order, count in self.orders.items())

    @cached_property
    def merged(self) -> Intervals:
        """Maximal page-frame extents over all orders, sorted and disjoint."""
        return intervals.union(self.runs.values())

    def extents(self) -> Iterator[Extent]:
        """:attr:`merged` as byte extents, one at a time."""
        return intervals.extents(self.merged, self.page_shift)

    def covers(self, paddr: PhysAddr, size: int) -> bool:
        """Whether every one of ``size`` bytes from ``paddr`` is preserved."""
        end = -(-(paddr + max(size, 1)) >> self.page_shift)
        return end < 1 << 62 and intervals.covers(self.merged, paddr >> self.page_shift, end)

    @cached_property
    def _runs_by_start(self) -> tuple[I64, I64, NDArray[np.int8]]:
        """The runs of all orders by address, and their orders."""
        counts = [len(starts) for starts, _ in self.runs.values()]
        orders = np.repeat(np.array(list(self.runs), dtype=np.int8), counts)
        if len(self.runs) < 2:
            return *self.merged, orders
        starts = np.concatenate([starts for starts, _ in self.runs.values()])
        ends = np.concatenate([ends for _, ends in self.runs.values()])
        by_start = np.argsort(starts, kind="stable")
        return starts[by_start], ends[by_start], orders[by_start]

    @cached_property
    def overlapping(self) -> bool:
        """Whether blocks of different orders lie over each other: a fault in itself."""
        return len(self.runs) > 1 and intervals.total(self.merged) < self.bytes >> self.page_shift

    @cached_property
    def _order_of_page(self) -> NDArray[np.int8] | None:
        """Order of the block of every page frame, -1 for none; None where that is not worth it."""
        starts, ends, orders = self._runs_by_start
        if not len(ends) or ends[-1] > min(MAX_PAGES_LISTED, 256 * int((ends - starts).sum())):
            return None
        change = np.zeros(int(ends[-1]) + 1, dtype=np.int8)
        change[starts] = orders + 1
        change[ends] -= orders + 1
        np.cumsum(change, out=change)
        change -= 1
        return change

    def orders_holding(self, pfns: I64) -> NDArray[np.int8] | None:
        """Order of the block that holds each page frame, -1 where none does.

        None when blocks overlap, so that there is no such thing.
        """
        if self.overlapping:
            return None
        starts, ends, orders = self._runs_by_start
        if not len(starts):
            return np.full(len(pfns), -1, dtype=np.int8)
        if self._order_of_page is not None:
            # Beyond the last run there is nothing: the list's last entry is -1.
            return self._order_of_page.take(pfns, mode="clip")
        at = np.searchsorted(starts, pfns, side="right") - 1
        return np.where((at >= 0) & (pfns < ends[at]), orders[at], np.int8(-1))

    def orders_at(self, pfns: I64) -> NDArray[np.int8]:
        """Order of the block that starts at each page frame, -1 where none does.

        Where blocks of several orders start there (a fault in itself) the highest is given.
        """
        held = self.orders_holding(pfns)
        if held is not None:
            held[pfns & _offset_bits(held) > 0] = -1
            return held
        found = np.full(len(pfns), -1, dtype=np.int8)
        for order, (starts, ends) in sorted(self.runs.items()):
            at = np.searchsorted(starts, pfns, side="right") - 1
            inside = (at >= 0) & (pfns < ends[np.maximum(at, 0)])
            found[inside & (pfns & ((1 << order) - 1) == 0)] = order
        return found

    def blocks_at(self, paddr: PhysAddr) -> list[Block]:
        """The preserved blocks that hold the byte at ``paddr`` (several only when they overlap)."""
        pfn = paddr >> self.page_shift
        found = []
        for order, runs in sorted(self.runs.items()):
            if intervals.covers(runs, pfn, pfn + 1):
                start = pfn >> order << order
                found.append(Block(start << self.page_shift, order, 1 << (order + self.page_shift)))
        return found

    def whole_blocks(self, starts: I64, ends: I64) -> Intervals:
        """Each interval of page frames, widened to whole preserved blocks at both of its ends.

        The very arrays that were given where only single pages are preserved.
        """
        if all(order == 0 for order in self.runs):
            return starts, ends
        low, high = starts.copy(), ends.copy()
        for at in range(0, len(starts), BATCH):
            part = slice(at, at + BATCH)
            first, last = starts[part], ends[part] - 1
            below, above = self.orders_holding(first), self.orders_holding(last)
            if below is None or above is None:
                return self._widest_blocks(starts, ends)
            low[part] = first & ~_offset_bits(below)
            high[part] = (last | _offset_bits(above)) + 1
        return low, high

    def _widest_blocks(self, starts: I64, ends: I64) -> Intervals:
        """The same where blocks of several orders lie over each other: the widest counts."""
        low, high = starts.copy(), ends.copy()
        for order, runs in self.runs.items():
            inside = intervals.contains(runs, starts)
            low[inside] = np.minimum(low[inside], starts[inside] >> order << order)
            inside = intervals.contains(runs, ends - 1)
            block_end = ((ends[inside] - 1 >> order) + 1) << order
            high[inside] = np.maximum(high[inside], block_end)
        return low, high


def _offset_bits(orders: NDArray[np.int8]) -> I64:
    """The page frame bits below a block's own; none where there is no block."""
    bits: I64 = (np.int64(1) << np.maximum(orders, 0)) - 1
    return bits
