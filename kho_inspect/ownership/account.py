"""Who owns every preserved page: the claims of all structures against the preserved blocks.

A block is restored as a whole, so a claim on any part of a block owns all of it. Interval
arithmetic on page frames throughout; nothing here is done page by page.
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np

from kho_inspect import intervals
from kho_inspect.intervals import I64, Intervals
from kho_inspect.model.claims import Claims, Ownership
from kho_inspect.model.preserved import BATCH, Preserved


def account(preserved: Preserved, claims: Claims) -> Ownership:
    """Owned, unclaimed, dangling and shared memory, and the share of each owner."""
    starts, ends, owner = _merge_per_owner(*claims.joined())
    claimed = intervals.merge(starts, ends)
    dangling = intervals.subtract(claimed, preserved.merged)
    # Blocks at the ends of what is claimed stick out, wherever the claims in it begin and end.
    grown = intervals.merge(*preserved.whole_blocks(*claimed))
    low, high = preserved.whole_blocks(starts, ends)
    if (low != starts).any() or (high != ends).any():
        starts, ends, owner = _merge_per_owner(low, high, owner)
    alone = int((ends - starts).sum()) == intervals.total(grown)
    return Ownership(
        preserved.page_shift,
        columns=_shares(preserved, dangling, (starts, ends, owner), len(claims.owners)),
        owners=claims.owners,
        preserved=preserved.merged,
        claimed=grown,
        dangling=dangling,
        shared=intervals.empty() if alone else intervals.overlaps(starts, ends),
    )


def unclaimed(preserved: Preserved, claims: Claims) -> Intervals:
    """Preserved pages that nothing claims, nor any part of their blocks."""
    claimed = intervals.merge(claims.starts, claims.ends)
    grown = intervals.merge(*preserved.whole_blocks(*claimed))
    return intervals.subtract(preserved.merged, grown)


def _merge_per_owner(starts: I64, ends: I64, owner: I64) -> tuple[I64, I64, I64]:
    """Join what overlaps or touches within one owner, so that nothing counts twice.

    Writes to the arrays that it is given.
    """
    if not len(starts):
        return starts, ends, owner
    # One pass serves all owners when each has a range of numbers of its own.
    span = int(ends.max()).bit_length()
    if int(owner.max()).bit_length() + span >= 62:
        # Too wide for that: the numbers of the distinct page frames serve as well.
        frames, numbers = np.unique(np.concatenate([starts, ends]), return_inverse=True)
        low, high = np.split(numbers, 2)
        low, high, owner = _merge_per_owner(low, high, owner)
        return frames[low], frames[high], owner
    owner <<= span
    starts += owner
    ends += owner
    starts.sort()
    ends.sort()
    starts, ends = intervals.merge(starts, ends)
    owner = starts >> span
    mask = (1 << span) - 1
    starts &= mask
    ends &= mask
    return starts, ends, owner


def _shares(
    preserved: Preserved, dangling: Intervals, pieces: tuple[I64, I64, I64], owners: int
) -> tuple[I64, I64, I64]:
    """Number, pages and blocks of each owner: all preserved but for ``dangling``.

    ``pieces``: starts, ends and owner of each, merged, owner by owner.
    """
    lacking = intervals.Ruler(dangling)
    orders = sorted(preserved.runs, key=lambda order: len(preserved.runs[order][0]))
    # Of blocks that do not overlap, the order with the most runs has what is in no other one.
    measured = orders if preserved.overlapping else orders[:-1]
    rulers = [intervals.Ruler(preserved.runs[order]) for order in measured]
    sums = np.zeros((2, owners), dtype=np.int64)
    present = np.zeros(owners, dtype=bool)
    for at in range(0, len(pieces[0]), BATCH):
        starts, ends, owner = (column[at : at + BATCH] for column in pieces)
        pages = ends - starts - lacking.within(starts, ends)
        blocks, rest = np.zeros(len(starts), dtype=np.int64), pages.copy()
        for order, ruler in zip_longest(orders, rulers):
            held = rest if ruler is None else ruler.within(starts, ends)
            blocks += held >> order
            rest -= held
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        present[owner[first]] = True
        sums[:, owner[first]] += np.add.reduceat([pages, blocks], first, axis=1)
    return np.flatnonzero(present), *sums[:, present]
