"""Who owns every preserved page: the claims of all structures against the preserved blocks.

A block is restored as a whole, so a claim on any part of a block owns all of it. Interval
arithmetic on page frames throughout; nothing here is done page by page.
"""

from itertools import zip_longest

import numpy as np

from kho_inspect import intervals
from kho_inspect.intervals import I64, Intervals
from kho_inspect.model.claims import Claims, Ownership
from kho_inspect.model.preserved import BATCH, Preserved


def account(preserved: Preserved, claims: Claims) -> Ownership:
    """Owned, unclaimed, dangling and shared memory, and the share of each owner."""
    bounds, count = np.empty((2, sum(len(part.starts) for part in claims.parts)), np.int64), 0
    for part in claims.parts:
        starts, ends, _ = claims.joined(part)
        bounds[:, count : count + len(starts)] = starts, ends
        count += len(starts)
    bounds[:, :count].sort()
    claimed = intervals.merge(*bounds[:, :count])
    del bounds
    dangling = intervals.subtract(claimed, preserved.merged)
    # Blocks at the ends of what is claimed stick out, wherever the claims in it begin and end.
    grown = intervals.merge(*preserved.whole_blocks(*claimed))
    shared, shares = intervals.empty(), _Shares(preserved, dangling, len(claims.owners))
    for part in claims.parts:
        if part.blocks_of is preserved and not preserved.overlapping:
            pages = np.add.reduceat(part.pages, part.bounds[:-1], dtype=np.int64)
            blocks = np.diff(part.bounds)
            shares.enter(claims.owner[part.first : part.first + len(blocks)], pages, blocks)
        else:
            shares.add(*claims.joined(part))
    if shares.total > intervals.total(grown):  # something counts twice
        every = zip(*map(claims.joined, claims.parts), strict=True)
        starts, ends, owner = (np.concatenate(column) for column in every)
        starts, ends, owner = _merge_per_owner(*preserved.whole_blocks(starts, ends), owner)
        shared = intervals.overlaps(starts, ends)
        shares = _Shares(preserved, dangling, len(claims.owners))
        for at in range(0, len(starts), BATCH):
            shares.add(*(column[at : at + BATCH] for column in (starts, ends, owner)))
    return Ownership(
        preserved.page_shift,
        columns=shares.columns(),
        owners=claims.owners,
        preserved=preserved.merged,
        claimed=grown,
        dangling=dangling,
        shared=shared,
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


class _Shares:
    """What each owner has of all that is preserved: of all but ``dangling``."""

    def __init__(self, preserved: Preserved, dangling: Intervals, owners: int) -> None:
        self.preserved = preserved
        self.lacking = intervals.Ruler(dangling) if len(dangling[0]) else None
        orders = sorted(preserved.runs, key=lambda order: len(preserved.runs[order][0]))
        # Of blocks that do not overlap, the order with the most runs has what is in no other one.
        measured = orders if preserved.overlapping else orders[:-1]
        rulers = [intervals.Ruler(preserved.runs[order]) for order in measured]
        self.rulers = list(zip_longest(orders, rulers))
        self.sums = np.zeros((2, owners), dtype=np.int64)
        self.present = np.zeros(owners, dtype=bool)
        self.total = 0.0
        """Pages of all pieces: more than an int64 holds, where many name all memory."""

    def add(self, starts: I64, ends: I64, owner: I64) -> None:
        """Pieces, which are grown to whole blocks."""
        starts, ends = self.preserved.whole_blocks(starts, ends)
        pages = ends - starts
        lacking = self.lacking.within(starts, ends) if self.lacking else np.zeros_like(pages)
        blocks, rest = np.zeros_like(pages), pages - lacking
        for order, ruler in self.rulers:
            held = rest if ruler is None else ruler.within(starts, ends)
            blocks += held >> order
            rest = rest - held
        self.enter(owner, pages, blocks, lacking)

    def enter(self, owner: I64, pages: I64, blocks: I64, lacking: I64 | int = 0) -> None:
        """Pages and blocks of some owners, and how many of the pages are not preserved."""
        self.total += float(pages.sum(dtype=float))
        self.present[owner] = True
        for column, values in zip(self.sums, (pages - lacking, blocks), strict=True):
            np.add.at(column, owner, values)

    def columns(self) -> tuple[I64, I64, I64]:
        """Number, pages and blocks of each owner that something was added of."""
        return np.flatnonzero(self.present), *self.sums[:, self.present]
