"""Preserved ranges as text: streamed, so that millions cost neither memory nor patience."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kho_inspect.render.safe import safe
from kho_inspect.units import Extent, human_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kho_inspect.ownership import OwnerIndex
    from kho_inspect.preserved import Preserved

CHUNK = 16384
"""Ranges that are turned into Python objects at a time."""


@dataclass(frozen=True, slots=True)
class PreservedRange:
    """A maximal extent of preserved memory and the blocks that make it up."""

    extent: Extent
    orders: dict[int, int]
    """order → blocks."""
    owners: tuple[str, ...] | None = None
    """Who owns any of it; None when that was not asked."""

    @property
    def mix(self) -> str:
        """``order 0 ×12, 3 ×1``."""
        return order_mix(self.orders)


def order_mix(orders: dict[int, int]) -> str:
    """``order 0 ×12, 3 ×1``."""
    counts = ", ".join(f"{order} ×{count:,}" for order, count in orders.items())
    return f"order {counts}" if counts else "none"


def iter_ranges(preserved: Preserved) -> Iterator[PreservedRange]:
    """All maximal extents over all orders, in address order."""
    import numpy as np

    starts, ends = preserved.merged
    shift = preserved.page_shift
    for at in range(0, len(starts), CHUNK):
        first, last = starts[at : at + CHUNK], ends[at : at + CHUNK]
        mixes: list[dict[int, int]] = [{} for _ in range(len(first))]
        for order, (run_starts, run_ends) in preserved.runs.items():
            low = int(np.searchsorted(run_starts, first[0]))
            high = int(np.searchsorted(run_starts, last[-1]))
            if low == high:
                continue
            owner = np.searchsorted(first, run_starts[low:high], side="right") - 1
            blocks = (run_ends[low:high] - run_starts[low:high]) >> order
            counts = np.bincount(owner, weights=blocks, minlength=len(first)).astype(np.int64)
            hit = np.flatnonzero(counts)
            for index, count in zip(hit.tolist(), counts[hit].tolist(), strict=True):
                mixes[index][order] = count
        for start, end, orders in zip(first.tolist(), last.tolist(), mixes, strict=True):
            yield PreservedRange(Extent(start << shift, end << shift), orders)


def iter_order(preserved: Preserved, order: int) -> Iterator[PreservedRange]:
    """The runs of adjacent blocks of one order, in address order."""
    if order not in preserved.runs:
        return
    starts, ends = preserved.runs[order]
    shift = preserved.page_shift
    for at in range(0, len(starts), CHUNK):
        for start, end in zip(
            starts[at : at + CHUNK].tolist(), ends[at : at + CHUNK].tolist(), strict=True
        ):
            extent = Extent(start << shift, end << shift)
            yield PreservedRange(extent, {order: (end - start) >> order})


def with_owners(
    ranges: Iterable[PreservedRange], index: OwnerIndex, page_shift: int
) -> Iterator[PreservedRange]:
    """The same ranges with their owners filled in."""
    for found in ranges:
        pages = found.extent.start >> page_shift, found.extent.end >> page_shift
        yield replace(found, owners=tuple(index.owner_names(*pages)))


def range_line(found: PreservedRange) -> str:
    """One range as a line of text, columns aligned for addresses up to 48 bits."""
    start, end = found.extent.start, found.extent.end
    line = f"{start:#014x}-{end:#014x}  {human_size(end - start):>10}  {found.mix}"
    if found.owners is None:
        return line
    return f"{line}  {safe(', '.join(found.owners)) or 'ORPHAN'}"
