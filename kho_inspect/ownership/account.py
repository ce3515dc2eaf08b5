"""Who owns every preserved page: the claims of all structures against the preserved blocks.

A block is restored as a whole, so a claim on any part of a block owns all of it. Interval
arithmetic on page frames throughout; nothing here is done page by page.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kho_inspect import intervals
from kho_inspect.intervals import I64, Intervals
from kho_inspect.model.claims import Claims, Ownership, Share
from kho_inspect.model.preserved import Preserved


def account(preserved: Preserved, claims: Claims) -> Ownership:
    """Owned, unclaimed, dangling and shared memory, and the share of each owner."""
    starts, ends, owner = _merge_per_owner(claims.starts, claims.ends, claims.owner[claims.claim])
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
        shares=tuple(_shares(preserved, dangling, claims, (starts, ends, owner))),
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
    """Join what overlaps or touches within one owner, so that nothing counts twice."""
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


def _shares(
    preserved: Preserved,
    dangling: Intervals,
    claims: Claims,
    pieces: tuple[I64, I64, I64],
) -> Iterator[Share]:
    """Bytes and blocks per owner, from its merged pieces: all preserved but for ``dangling``.

    ``pieces``: starts, ends and owner (as an index of ``claims.owners``) of each, owner by owner.
    """
    starts, ends, owner = pieces
    pages = ends - starts - intervals.Ruler(dangling).within(starts, ends)
    blocks = np.zeros(len(starts), dtype=np.int64)
    rest = pages.copy()
    orders = sorted(preserved.runs, key=lambda order: len(preserved.runs[order][0]))
    for number, order in enumerate(orders, 1):
        if number < len(orders) or preserved.overlapping:
            held = intervals.Ruler(preserved.runs[order]).within(starts, ends)
        else:
            held = rest  # what is in no other order: most pieces, at no cost
        blocks += held >> order
        rest -= held
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    columns = owner[first], np.add.reduceat(pages, first), np.add.reduceat(blocks, first)
    for number, size, count in zip(*(column.tolist() for column in columns), strict=True):
        yield Share(claims.owners[number], size << preserved.page_shift, count)
