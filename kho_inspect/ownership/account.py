"""Who owns every preserved page: the claims of all structures against the preserved blocks.

A block is restored as a whole, so a claim on any part of a block owns all of it. Interval
arithmetic on page frames throughout; nothing here is done page by page.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.model.claims import Owner, Ownership
from kho_inspect.model.preserved import Preserved
from kho_inspect.ownership.claims import Pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kho_inspect.intervals import I64, Intervals
    from kho_inspect.model.claims import Claim


BATCH = 1 << 20
"""Pieces that are looked up at a time."""


def account(preserved: Preserved, claims: Sequence[Claim]) -> Ownership:
    """Owned, orphan, dangling and shared memory, and the share of each owner."""
    pieces = Pieces(claims)
    names = pieces.names
    starts, ends, owner = _merge_per_owner(pieces.starts, pieces.ends, pieces.owner)
    del pieces
    claimed = intervals.merge(starts, ends)
    dangling = intervals.subtract(claimed, preserved.merged)
    # Blocks at the ends of what is claimed stick out, wherever the claims in it begin and end.
    grown = intervals.merge(*grow_to_blocks(preserved, *claimed))
    low, high = grow_to_blocks(preserved, starts, ends)
    if (low != starts).any() or (high != ends).any():
        starts, ends, owner = _merge_per_owner(low, high, owner)
    alone = int((ends - starts).sum()) == intervals.total(grown)
    owned, orphans = intervals.divide(preserved.merged, grown)
    return Ownership(
        preserved.page_shift,
        _owners(preserved, dangling, names, (starts, ends, owner)),
        owned,
        orphans,
        dangling,
        intervals.empty() if alone else intervals.overlaps(starts, ends),
    )


def account_more(preserved: Preserved, claims: Sequence[Claim], before: Ownership) -> Ownership:
    """The account of all claims, from that of all but the last.

    Cheap when the last one is a new owner's, on memory that nobody claimed: the root FDT is found
    where nobody else is, and with millions of claims one account costs a second.
    """
    claim = claims[-1]
    starts, ends = grow_to_blocks(preserved, claim.starts, claim.ends)
    new = claim.owner not in {owner.name for owner in before.owners}
    if not new or len(starts) > 1 or not intervals.covers(before.orphans, starts[0], ends[0]):
        return account(preserved, claims)
    mine = _owners(preserved, intervals.empty(), [claim.owner], (starts, ends, starts * 0))
    return replace(
        before,
        owners=(*before.owners, *mine),
        owned=intervals.union([before.owned, (starts, ends)]),
        orphans=intervals.subtract(before.orphans, (starts, ends)),
    )


def grow_to_blocks(preserved: Preserved, starts: I64, ends: I64) -> Intervals:
    """Each interval widened to whole preserved blocks at both of its ends.

    The very arrays that were given where only single pages are preserved.
    """
    if all(order == 0 for order in preserved.runs):
        return starts, ends
    low, high = starts.copy(), ends.copy()
    for at in range(0, len(starts), BATCH):
        part = slice(at, at + BATCH)
        first, last = starts[part], ends[part] - 1
        below, above = preserved.orders_holding(first), preserved.orders_holding(last)
        if below is None or above is None:
            return _grow_overlapping(preserved, starts, ends)
        low[part] = first & ~_offset_bits(below)
        high[part] = (last | _offset_bits(above)) + 1
    return low, high


def _offset_bits(orders: NDArray[np.int8]) -> I64:
    """The page frame bits below a block's own; none where there is no block."""
    bits: I64 = (np.int64(1) << np.maximum(orders, 0)) - 1
    return bits


def _grow_overlapping(preserved: Preserved, starts: I64, ends: I64) -> Intervals:
    """The same where blocks of several orders lie over each other: the widest counts."""
    low, high = starts.copy(), ends.copy()
    for order, runs in preserved.runs.items():
        inside = intervals.contains(runs, starts)
        low[inside] = np.minimum(low[inside], starts[inside] >> order << order)
        inside = intervals.contains(runs, ends - 1)
        block_end = ((ends[inside] - 1 >> order) + 1) << order
        high[inside] = np.maximum(high[inside], block_end)
    return low, high


def _merge_per_owner(starts: I64, ends: I64, owner: I64) -> tuple[I64, I64, I64]:
    """Join what overlaps or touches within one owner, so that nothing counts twice."""
    if not len(starts):
        return starts, ends, owner
    # One pass serves all owners when each has a range of numbers of its own.
    span = int(ends.max()).bit_length()
    if int(owner.max()).bit_length() + span >= 62:
        return _merge_by_loop(starts, ends, owner)
    offset = owner << span
    starts, ends = starts + offset, ends + offset
    del offset
    starts.sort()
    ends.sort()
    low, high = intervals.merge(starts, ends)
    owner = low >> span
    mask = (1 << span) - 1
    low &= mask
    high &= mask
    return low, high, owner


def _merge_by_loop(starts: I64, ends: I64, owner: I64) -> tuple[I64, I64, I64]:
    order = np.argsort(owner, kind="stable")
    starts, ends, owner = starts[order], ends[order], owner[order]
    bounds = np.append(np.flatnonzero(np.diff(owner, prepend=-1)), len(owner))
    merged = [
        (*intervals.merge(starts[a:b], ends[a:b]), int(owner[a]))
        for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
    return (
        np.concatenate([low for low, _, _ in merged]),
        np.concatenate([high for _, high, _ in merged]),
        np.repeat([who for _, _, who in merged], [len(low) for low, _, _ in merged]),
    )


def _owners(
    preserved: Preserved,
    dangling: Intervals,
    names: list[str],
    pieces: tuple[I64, I64, I64],
) -> tuple[Owner, ...]:
    """Bytes and blocks per owner, from its merged pieces: all preserved but for ``dangling``.

    ``pieces``: starts, ends and owner (as an index of ``names``) of each, owner by owner.
    """
    starts, ends, owner = pieces
    first = np.flatnonzero(np.diff(owner, prepend=-1))

    def per_owner(values: I64) -> list[int]:
        sums = np.zeros(len(names), dtype=np.int64)
        sums[owner[first]] = np.add.reduceat(values, first) if len(first) else 0
        summed: list[int] = sums.tolist()
        return summed

    pages = ends - starts - intervals.length_within(dangling, starts, ends)
    blocks = np.zeros(len(starts), dtype=np.int64)
    rest = pages.copy()
    orders = sorted(preserved.runs, key=lambda order: len(preserved.runs[order][0]))
    for number, order in enumerate(orders, 1):
        if number < len(orders) or preserved.overlapping:
            held = intervals.length_within(preserved.runs[order], starts, ends)
        else:
            held = rest  # what is in no other order: most pieces, at no cost
        blocks += held >> order
        rest -= held
    return tuple(
        Owner(name, size << preserved.page_shift, count)
        for name, size, count in zip(names, per_owner(pages), per_owner(blocks), strict=True)
    )
