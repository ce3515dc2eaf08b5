"""Preserved ranges as text: in batches, so that millions of them need little memory and time."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np

from kho_inspect.model.claims import Unclaimed
from kho_inspect.model.handover import Handover
from kho_inspect.model.preserved import Preserved
from kho_inspect.render.names import owner_name
from kho_inspect.render.safe import safe
from kho_inspect.units import PhysAddr, human_size

BATCH = 4096
"""Ranges that are turned into Python objects at a time."""


class RangeBatch(NamedTuple):
    """Some maximal extents of preserved memory and the blocks that make them up: equal lists."""

    starts: list[PhysAddr]
    ends: list[PhysAddr]
    orders: list[dict[int, int]]
    """order → blocks."""
    owners: list[list[str]] | None = None
    """Who owns any of it; None when that was not asked."""
    unclaimed: Unclaimed | None = None
    """What a range without owners is; None when that was not asked."""


def order_mix(orders: dict[int, int]) -> str:
    """``order 0 ×12, 3 ×1``."""
    return _order_mix(tuple(orders.items()))


@lru_cache(4096)
def _order_mix(orders: tuple[tuple[int, int], ...]) -> str:
    counts = ", ".join(f"{order} ×{count:,}" for order, count in orders)
    return f"order {counts}" if counts else "none"


def iter_ranges(preserved: Preserved, batch: int = BATCH) -> Iterator[RangeBatch]:
    """All maximal extents over all orders, in address order."""
    starts, ends = preserved.merged
    shift = preserved.page_shift
    for at in range(0, len(starts), batch):
        first, last = starts[at : at + batch], ends[at : at + batch]
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
        yield RangeBatch(_shifted(first.tolist(), shift), _shifted(last.tolist(), shift), mixes)


def iter_order(preserved: Preserved, order: int) -> Iterator[RangeBatch]:
    """The runs of adjacent blocks of one order, in address order."""
    if order not in preserved.runs:
        return
    starts, ends = preserved.runs[order]
    shift = preserved.page_shift
    for at in range(0, len(starts), BATCH):
        first, last = starts[at : at + BATCH], ends[at : at + BATCH]
        blocks = [{order: count} for count in (last - first >> order).tolist()]
        yield RangeBatch(_shifted(first.tolist(), shift), _shifted(last.tolist(), shift), blocks)


def _shifted(pfns: list[int], shift: int) -> list[PhysAddr]:
    # Not in numpy: the end of the address space is one more than 64 bits hold.
    return [pfn << shift for pfn in pfns]


def limited(batches: Iterable[RangeBatch], limit: int | None) -> Iterator[RangeBatch]:
    """No more than ``limit`` ranges in all."""
    for batch in batches:
        if limit is not None and len(batch.starts) >= limit:
            yield RangeBatch(batch.starts[:limit], batch.ends[:limit], batch.orders[:limit])
            return
        yield batch
        if limit is not None:
            limit -= len(batch.starts)


def with_owners(batches: Iterable[RangeBatch], handover: Handover) -> Iterator[RangeBatch]:
    """The same ranges with their owners filled in."""
    index, page_shift = handover.index, handover.preserved.page_shift
    for batch in batches:
        owners = [
            list(map(owner_name, index.top_owners(start >> page_shift, end >> page_shift)))
            for start, end in zip(batch.starts, batch.ends, strict=True)
        ]
        yield batch._replace(owners=owners, unclaimed=handover.unclaimed)


def range_lines(batch: RangeBatch) -> str:
    """A line of text for each range, its columns two blanks apart."""
    starts, ends = batch.starts, batch.ends
    sizes = [_size(end - start) for start, end in zip(starts, ends, strict=True)]
    mixes = map(order_mix, batch.orders)
    if batch.owners is None:
        rows = zip(starts, ends, sizes, mixes, strict=True)
        return ("%#x-%#x  %s  %s\n" * len(starts)) % tuple(chain.from_iterable(rows))
    none = batch.unclaimed.name if batch.unclaimed else "none"
    owners = (safe(", ".join(names)) or none for names in batch.owners)
    owned = zip(starts, ends, sizes, mixes, owners, strict=True)
    return ("%#x-%#x  %s  %s  %s\n" * len(starts)) % tuple(chain.from_iterable(owned))


_size = lru_cache(4096)(human_size)
