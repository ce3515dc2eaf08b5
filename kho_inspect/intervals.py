"""Half-open integer intervals as pairs of sorted numpy arrays.

Everywhere: int64 arrays ``starts``, ``ends`` of equal shape ``(n,)`` with ``starts < ends``.
A *merged* set is sorted, disjoint and not even touching. The unit is the caller's (page
frames, as a rule, so that 2**64 bytes fit). Built for millions of intervals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from kho_inspect.units import Extent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    I64: TypeAlias = NDArray[np.int64]

    Intervals: TypeAlias = tuple[I64, I64]


def empty() -> Intervals:
    """No interval."""
    none = np.empty(0, dtype=np.int64)
    return none, none


def from_pairs(pairs: Iterable[tuple[int, int]]) -> Intervals:
    """Intervals of Python pairs, as given (not merged); empty ones are dropped."""
    array = np.array([pair for pair in pairs if pair[0] < pair[1]], dtype=np.int64).reshape(-1, 2)
    return array[:, 0].copy(), array[:, 1].copy()


def merge(starts: I64, ends: I64) -> Intervals:
    """Union of any intervals, as a merged set."""
    if len(starts) == 0:
        return empty()
    starts, ends = _sorted(starts), _sorted(ends)
    # As many have ended as have begun: there is a gap, whichever end belongs to which start.
    gap = starts[1:] > ends[:-1]
    return starts[np.append(True, gap)], ends[np.append(gap, True)]


def _sorted(values: I64) -> I64:
    """The same array where it is sorted already, as most are."""
    return np.sort(values) if (values[1:] < values[:-1]).any() else values


def extents(pages: Intervals, page_shift: int) -> Iterator[Extent]:
    """Page frame intervals as byte extents, one at a time."""
    starts, ends = pages
    for at in range(0, len(starts), 4096):
        for start, end in zip(
            starts[at : at + 4096].tolist(), ends[at : at + 4096].tolist(), strict=True
        ):
            yield Extent(start << page_shift, end << page_shift)


def points(merged: Intervals, batch: int) -> Iterator[I64]:
    """Every point of a merged set, in order, ``batch`` at a time."""
    starts, ends = merged
    reach = np.cumsum(ends - starts)
    for at in range(0, int(reach[-1]) if len(reach) else 0, batch):
        number = np.arange(at, min(at + batch, int(reach[-1])))
        run = np.searchsorted(reach, number, side="right")
        yield ends[run] - reach[run] + number


def total(intervals: Intervals) -> int:
    """Sum of the lengths."""
    return int((intervals[1] - intervals[0]).sum())


def covers(merged: Intervals, start: int, end: int) -> bool:
    """Whether ``start..end`` lies inside one interval of a merged set."""
    at = int(np.searchsorted(merged[0], start, side="right")) - 1
    return at >= 0 and end <= int(merged[1][at])


def union(sets: Iterable[Intervals]) -> Intervals:
    """What is in any of some merged sets, as a merged set; a single set itself, not a copy."""
    reached = empty()
    for one in sorted(sets, key=lambda one: len(one[0])):
        in_reached, in_one = _meeting(reached, one, touching=True)
        both = zip(_pick(reached, in_reached), _pick(one, in_one), strict=True)
        joined = merge(*(np.concatenate(pair) for pair in both))
        reached = _interleave(_pick(reached, ~in_reached), _pick(one, ~in_one), joined)
    return reached


def intersect(a: Intervals, b: Intervals) -> Intervals:
    """What two merged sets have in common, as a merged set."""
    in_a, in_b = _meeting(a, b)
    return _cut(_pick(a, in_a), _pick(b, in_b), rest=False)


def subtract(a: Intervals, b: Intervals) -> Intervals:
    """What merged set ``a`` has and merged set ``b`` has not, as a merged set.

    ``a`` itself, not a copy, where the two have nothing in common.
    """
    in_a, in_b = _meeting(a, b)
    return _interleave(_pick(a, ~in_a), _cut(_pick(a, in_a), _pick(b, in_b), rest=True))


def divide(a: Intervals, b: Intervals) -> tuple[Intervals, Intervals]:
    """Merged set ``a`` in two: what merged set ``b`` has of it, and the rest."""
    in_a, in_b = _meeting(a, b)
    met = _pick(a, in_a), _pick(b, in_b)
    return _cut(*met, rest=False), _interleave(_pick(a, ~in_a), _cut(*met, rest=True))


def _interleave(*sets: Intervals) -> Intervals:
    """The union of merged sets that neither overlap nor touch each other."""
    filled = [one for one in sets if len(one[0])]
    if len(filled) < 2:
        return filled[0] if filled else empty()
    # Starts and ends keep their pairs when each is sorted by itself.
    starts = np.concatenate([low for low, _ in filled])
    starts.sort(kind="stable")
    ends = np.concatenate([high for _, high in filled])
    ends.sort(kind="stable")
    return starts, ends


def _meeting(
    a: Intervals, b: Intervals, *, touching: bool = False
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the intervals in each of two merged sets that overlap one in the other.

    One set is often a few intervals and the other millions: those that do not meet then cost no
    more than a binary search for each of the few. ``touching`` counts as meeting, too, if set.
    """
    if len(a[0]) > len(b[0]):
        in_b, in_a = _meeting(b, a, touching=touching)
        return in_a, in_b
    low = np.searchsorted(b[1], a[0], side="left" if touching else "right")
    high = np.searchsorted(b[0], a[1], side="right" if touching else "left")
    met = low < high
    depth = np.zeros(len(b[0]) + 1, dtype=np.int32)
    np.add.at(depth, low[met], 1)
    np.subtract.at(depth, high[met], 1)
    np.cumsum(depth, out=depth)
    return met, depth[:-1] > 0


def _pick(intervals: Intervals, mask: NDArray[np.bool_]) -> Intervals:
    if mask.all():
        return intervals
    return intervals[0][mask], intervals[1][mask]


WINDOW = 1 << 18
"""Intervals of a set that are worked on at a time: what is in between takes four times as much."""


def _cut(a: Intervals, b: Intervals, *, rest: bool) -> Intervals:
    """The parts of merged set ``a`` that lie in ``b``, or with ``rest`` those that do not."""
    starts, ends = [], []
    for at in range(0, len(a[0]), WINDOW):
        part = a[0][at : at + WINDOW], a[1][at : at + WINDOW]
        low = int(np.searchsorted(b[1], part[0][0], side="right"))
        high = int(np.searchsorted(b[0], part[1][-1], side="left"))
        other = b[0][low:high], b[1][low:high]
        if np.array_equal(part[0], other[0]) and np.array_equal(part[1], other[1]):
            if not rest:  # as in a sound handover: all that is preserved is claimed
                starts.append(part[0])
                ends.append(part[1])
            continue
        # Sorted runs, which a stable sort merges; np.unique would hash them, slowly.
        cuts = np.sort(np.concatenate([*part, *other]), kind="stable")
        cuts = cuts[np.append(True, cuts[1:] != cuts[:-1])]
        kept = contains(part, cuts) & (contains(other, cuts) ^ rest)
        change = np.flatnonzero(np.diff(kept, prepend=False, append=False))
        starts.append(cuts[change[0::2]])
        ends.append(cuts[change[1::2]])
    if not starts:
        return empty()
    return np.concatenate(starts), np.concatenate(ends)


def contains(merged: Intervals, points: I64) -> NDArray[np.bool_]:
    """For each point whether it lies in a merged set."""
    inside: NDArray[np.bool_] = np.searchsorted(merged[0], points, side="right") > np.searchsorted(
        merged[1], points, side="right"
    )
    return inside


class Ruler:
    """Measures a merged set; made once for many questions."""

    def __init__(self, merged: Intervals) -> None:
        self.merged = merged
        self._before = np.zeros(len(merged[0]) + 1, dtype=np.int64)
        np.cumsum(merged[1] - merged[0], out=self._before[1:])

    def within(self, starts: I64, ends: I64) -> I64:
        """For each interval, how much of the set lies in it."""
        found = np.zeros(len(starts), dtype=np.int64)
        if len(self.merged[0]):
            for at in range(0, len(starts), WINDOW):
                part = slice(at, at + WINDOW)
                found[part] = self._below(ends[part]) - self._below(starts[part])
        return found

    def _below(self, points: I64) -> I64:
        starts, ends = self.merged
        at = np.searchsorted(starts, points, side="right")
        last = np.maximum(at - 1, 0)
        overshoot = np.maximum(ends[last] - np.maximum(points, starts[last]), 0)
        found: I64 = self._before[at] - np.where(at > 0, overshoot, 0)
        return found


def length_within(merged: Intervals, starts: I64, ends: I64) -> I64:
    """For each interval, how much of a merged set lies in it."""
    return Ruler(merged).within(starts, ends)


def overlaps(starts: I64, ends: I64) -> Intervals:
    """What at least two of the given intervals have in common, as a merged set."""
    starts, ends = _sorted(starts), _sorted(ends)
    # As in merge(): where the next begins before as many have ended, two are open.
    hit = starts[1:] < ends[:-1]
    return merge(starts[1:][hit], ends[:-1][hit])
