"""Half-open integer intervals as pairs of sorted numpy arrays.

Everywhere: int64 arrays ``starts``, ``ends`` of equal shape ``(n,)`` with ``starts < ends``.
A *merged* set is sorted, disjoint and not even touching. The unit is the caller's (page
frames, as a rule, so that 2**64 bytes fit). Built for millions of intervals.
"""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kho_inspect.units import Extent

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
    """Sum of the lengths: less than 2**63, whatever the two sums come to by themselves."""
    return int(intervals[1].sum()) - int(intervals[0].sum()) & (1 << 64) - 1


def batches(merged: Intervals, size: int = 1 << 16) -> Iterator[Intervals]:
    """A merged set piece by piece, so that what is computed of each stays small; views."""
    for at in range(0, len(merged[0]), size):
        yield merged[0][at : at + size], merged[1][at : at + size]


def covers(merged: Intervals, start: int, end: int) -> bool:
    """Whether ``start..end`` lies inside one interval of a merged set."""
    at = int(np.searchsorted(merged[0], start, side="right")) - 1
    return at >= 0 and end <= int(merged[1][at])


def union(sets: Iterable[Intervals]) -> Intervals:
    """What is in any of some merged sets, as a merged set; a single set itself, not a copy."""
    filled = [merged for merged in sets if len(merged[0])]
    if len(filled) < 2:
        return filled[0] if filled else empty()
    # Each set is sorted already: a stable sort merges them.
    starts = np.sort(np.concatenate([low for low, _ in filled]), kind="stable")
    ends = np.sort(np.concatenate([high for _, high in filled]), kind="stable")
    return merge(starts, ends)


def _near(a: Intervals, b: Intervals) -> Intervals:
    """The intervals of merged set ``a`` that end above where ``b`` starts, and the reverse."""
    if not len(b[0]):
        return empty()
    low = np.searchsorted(a[1], b[0][0], side="right")
    high = np.searchsorted(a[0], b[1][-1], side="left")
    return a[0][low:high], a[1][low:high]


def intersect(a: Intervals, b: Intervals) -> Intervals:
    """What two merged sets have in common, as a merged set; views where one interval covers it."""
    a = _near(a, b)
    b = _near(b, a)
    if not len(b[0]):
        return b
    for part, whole in ((a, b), (b, a)):
        if len(whole[0]) == 1 and whole[0][0] <= part[0][0] and part[1][-1] <= whole[1][0]:
            return part
    many, few = (a, b) if len(a[0]) > len(b[0]) else (b, a)
    low = np.searchsorted(many[1], few[0], side="right")
    count = np.searchsorted(many[0], few[1], side="left") - low
    few, low, count = (few[0][count > 0], few[1][count > 0]), low[count > 0], count[count > 0]
    # An interval of the few meets ``count`` of the many, from ``low`` on: all but the first and
    # the last of them lie inside it.
    last = np.cumsum(count) - 1
    first = last + 1 - count
    at = np.repeat(low - first, count)
    at += np.arange(len(at))
    starts, ends = many[0][at], many[1][at]
    starts[first] = np.maximum(starts[first], few[0])
    ends[last] = np.minimum(ends[last], few[1])
    return starts, ends


def subtract(a: Intervals, b: Intervals) -> Intervals:
    """What merged set ``a`` has and merged set ``b`` has not, as a merged set."""
    b = _near(b, a)
    if len(a[0]) == len(b[0]) and (a[0] == b[0]).all() and (a[1] == b[1]).all():
        return empty()
    if len(b[0]) > len(a[0]):
        b = intersect(b, a)
    if not len(b[0]):
        return a
    limits = np.iinfo(np.int64)
    return intersect(a, (np.append(limits.min, b[1]), np.append(b[0], limits.max)))


def contains(merged: Intervals, points: I64) -> NDArray[np.bool_]:
    """For each point whether it lies in a merged set."""
    inside: NDArray[np.bool_] = np.searchsorted(merged[0], points, side="right") > np.searchsorted(
        merged[1], points, side="right"
    )
    return inside


class Ruler:
    """Measures a merged set; made once for many questions."""

    def __init__(self, merged: Intervals) -> None:
        self._starts = np.append(merged[0], np.iinfo(np.int64).max)
        self._ends = merged[1]
        self._before = np.append(0, np.cumsum(merged[1] - merged[0]))

    def within(self, starts: I64, ends: I64) -> I64:
        """For each interval, how much of the set lies in it."""
        return self._below(ends) - self._below(starts)

    def _below(self, points: I64) -> I64:
        at = np.searchsorted(self._ends, points, side="right")
        found: I64 = self._before[at] + np.maximum(points - self._starts[at], 0)
        return found


def overlaps(starts: I64, ends: I64) -> Intervals:
    """What at least two of the given intervals have in common, as a merged set."""
    starts, ends = _sorted(starts), _sorted(ends)
    # As in merge(): where the next begins before as many have ended, two are open.
    hit = starts[1:] < ends[:-1]
    return merge(starts[1:][hit], ends[:-1][hit])


class Highest:
    """Finds the values above a bound, however few among how many: by maxima of groups of them."""

    GROUP = 64

    def __init__(self, values: I64) -> None:
        self.levels = [values]
        """The values, the maximum of each group of them, of each group of those …"""
        while len(last := self.levels[-1]) > self.GROUP:
            groups = np.arange(0, len(last), self.GROUP)
            self.levels.append(np.maximum.reduceat(last, groups))

    def above(self, bound: int, stop: int) -> NDArray[np.intp]:
        """Where among the first ``stop`` values those greater than ``bound`` stand, ascending."""
        within = np.arange(self.GROUP)
        found = np.zeros(1, dtype=np.intp)
        for depth in reversed(range(len(self.levels))):
            found = (found[:, None] * self.GROUP + within).ravel()
            found = found[: np.searchsorted(found, -(-stop // self.GROUP**depth))]
            found = found[self.levels[depth][found] > bound]
        return found
