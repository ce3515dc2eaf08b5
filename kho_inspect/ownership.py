"""Who owns every preserved page: the claims of all structures against the preserved blocks.

A block is restored as a whole, so a claim on any part of a block owns all of it. Interval
arithmetic on page frames throughout; nothing here is done page by page.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.claims import flatten
from kho_inspect.model import Owner, Ownership
from kho_inspect.preserved import Preserved
from kho_inspect.units import PhysAddr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kho_inspect.contents import Claim
    from kho_inspect.intervals import I64, Intervals

BATCH = 1 << 20
"""Pieces that are looked up at a time."""


def account(preserved: Preserved, claims: Sequence[Claim]) -> Ownership:
    """Owned, orphan, dangling and shared memory, and the share of each owner."""
    pieces = _Pieces(claims)
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


class OwnerIndex:
    """Finds the claims on any stretch of memory; build it once for many questions."""

    def __init__(self, preserved: Preserved, claims: Sequence[Claim]) -> None:
        pieces = _Pieces(claims)
        self._preserved = preserved
        self._claims = claims
        starts, ends = grow_to_blocks(preserved, pieces.starts, pieces.ends)
        order = np.argsort(starts, kind="stable")
        self._starts, self._ends = starts[order], ends[order]
        self._claim = pieces.claim[order]
        _, first, back = np.unique(pieces.claim, return_index=True, return_inverse=True)
        self._piece = (np.arange(len(starts)) - first[back])[order]
        self._reach = np.maximum.accumulate(self._ends) if len(starts) else self._ends

    def owners(self, start: int, end: int) -> list[Claimed]:
        """Claims on any of the page frames ``start..end``, or on the blocks that hold them.

        Pieces that name the very page frames come before those that merely share a block.
        """
        low = int(np.searchsorted(self._reach, start, side="right"))
        high = int(np.searchsorted(self._starts, end))
        hits = low + np.flatnonzero(self._ends[low:high] > start)
        found = [
            Claimed(self._claims[claim], piece)
            for claim, piece in zip(
                self._claim[hits].tolist(), self._piece[hits].tolist(), strict=True
            )
        ]
        return sorted(found, key=lambda claimed: not claimed.names(start, end))

    def owner_names(self, start: int, end: int) -> list[str]:
        """The distinct owners, by the first part of their names."""
        return list(dict.fromkeys(top_owner(one.claim.owner) for one in self.owners(start, end)))


@dataclass(frozen=True, slots=True)
class Claimed:
    """One piece of one claim."""

    claim: Claim
    piece: int

    def names(self, start: int, end: int) -> bool:
        """Whether the piece itself, not only its block, has any of these page frames."""
        claim = self.claim
        return bool(claim.starts[self.piece] < end and start < claim.ends[self.piece])

    def chain(self, paddr: PhysAddr, page_shift: int) -> str:
        """``LUO / session vm-alpha / file 0x1001 / folio 17, file offset 0x11000``."""
        claim = self.claim
        number = f" {self.piece}" if claim.pieces > 1 or claim.file_index is not None else ""
        name = f"{claim.owner} / {claim.what}{number}"
        offset = self.file_offset(paddr, page_shift)
        return name if offset is None else f"{name}, file offset {offset:#x}"

    def file_offset(self, paddr: PhysAddr, page_shift: int) -> int | None:
        """Where in the file the byte at ``paddr`` belongs, for file content."""
        claim = self.claim
        if claim.file_index is None:
            return None
        start = int(claim.starts[self.piece]) << page_shift
        return (int(claim.file_index[self.piece]) << page_shift) + paddr - start


def top_owner(name: str) -> str:
    """``LUO / session vm-alpha / file 0x1001`` → ``LUO``."""
    return name.split(" / ", 1)[0]


class _Pieces:
    """All pieces of all claims in flat arrays; ``owner`` indexes ``names``, ``claim`` them."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        numbers: dict[str, int] = {}
        owner = [numbers.setdefault(claim.owner, len(numbers)) for claim in claims]
        self.names = list(numbers)
        self.starts, self.ends, self.claim = flatten(claims)
        self.owner: I64 = np.array(owner, dtype=np.int64)[self.claim]


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
