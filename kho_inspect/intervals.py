"""Half-open integer intervals as pairs of sorted numpy arrays.

Everywhere: int64 arrays ``starts``, ``ends`` of equal shape ``(n,)`` with ``starts < ends``.
A *merged* set is sorted, disjoint and not even touching. The unit is the caller's (page
frames, as a rule, so that 2**64 bytes fit). Built for millions of intervals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
    if np.any(starts[1:] < starts[:-1]):
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], ends[order]
    reach = np.maximum.accumulate(ends)
    first = np.empty(len(starts), dtype=bool)
    first[0] = True
    np.greater(starts[1:], reach[:-1], out=first[1:])
    last = np.append(np.flatnonzero(first)[1:] - 1, len(starts) - 1)
    return starts[first], reach[last]


def total(intervals: Intervals) -> int:
    """Sum of the lengths."""
    return int((intervals[1] - intervals[0]).sum())


def covers(merged: Intervals, start: int, end: int) -> bool:
    """Whether ``start..end`` lies inside one interval of a merged set."""
    at = int(np.searchsorted(merged[0], start, side="right")) - 1
    return at >= 0 and end <= int(merged[1][at])


def intersect(a: Intervals, b: Intervals) -> Intervals:
    """What two merged sets have in common, as a merged set."""
    return _where(a, b, lambda in_a, in_b: in_a & in_b)


def subtract(a: Intervals, b: Intervals) -> Intervals:
    """What merged set ``a`` has and merged set ``b`` has not, as a merged set."""
    return _where(a, b, lambda in_a, in_b: in_a & ~in_b)


def _where(
    a: Intervals, b: Intervals, keep: Callable[[NDArray[np.bool_], NDArray[np.bool_]], Any]
) -> Intervals:
    """Cut the line at every bound of either set, keep the pieces that ``keep`` says."""
    # Two sorted runs per set, which a stable sort merges; np.unique would hash them, slowly.
    cuts = np.sort(np.concatenate([*a, *b]), kind="stable")
    if len(cuts):
        cuts = cuts[np.append(True, cuts[1:] != cuts[:-1])]
    kept = keep(contains(a, cuts), contains(b, cuts))
    change = np.flatnonzero(np.diff(kept, prepend=False, append=False))
    return cuts[change[0::2]], cuts[change[1::2]]


def contains(merged: Intervals, points: I64) -> NDArray[np.bool_]:
    """For each point whether it lies in a merged set."""
    inside: NDArray[np.bool_] = np.searchsorted(merged[0], points, side="right") > np.searchsorted(
        merged[1], points, side="right"
    )
    return inside


def length_below(merged: Intervals, points: I64) -> I64:
    """For each point, how much of a merged set lies below it."""
    starts, ends = merged
    if not len(starts):
        return np.zeros(len(points), dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(ends - starts)])
    at = np.searchsorted(starts, points, side="right")
    last = np.maximum(at - 1, 0)
    overshoot = np.maximum(ends[last] - np.maximum(points, starts[last]), 0)
    found: I64 = before[at] - np.where(at > 0, overshoot, 0)
    return found


def overlaps(starts: I64, ends: I64) -> Intervals:
    """What at least two of the given intervals have in common, as a merged set."""
    if len(starts) < 2:
        return empty()
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    reach = np.maximum.accumulate(ends)[:-1]
    hit = starts[1:] < reach
    return merge(starts[1:][hit], np.minimum(ends[1:], reach)[hit])
