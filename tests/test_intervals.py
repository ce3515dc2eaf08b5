"""Interval sets against sets of integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect import intervals

if TYPE_CHECKING:
    from kho_inspect.intervals import Intervals

points = st.integers(0, 60)
pairs = st.lists(st.tuples(points, points), max_size=12)


def members(found: Intervals) -> set[int]:
    pieces = zip(found[0].tolist(), found[1].tolist(), strict=True)
    return {point for start, end in pieces for point in range(start, end)}


def model(given_pairs: list[tuple[int, int]]) -> set[int]:
    return {point for start, end in given_pairs for point in range(start, end)}


@given(pairs)
def test_merging_keeps_every_point_and_no_touching_neighbours(found: list[tuple[int, int]]) -> None:
    merged = intervals.merge(*intervals.from_pairs(found))
    assert members(merged) == model(found)
    assert intervals.total(merged) == len(model(found))
    assert np.all(merged[0] < merged[1])
    assert np.all(merged[1][:-1] < merged[0][1:])


@given(pairs)
def test_from_pairs_keeps_the_order_and_drops_empty_ones(found: list[tuple[int, int]]) -> None:
    starts, ends = intervals.from_pairs(found)
    kept = list(zip(starts.tolist(), ends.tolist(), strict=True))
    assert kept == [pair for pair in found if pair[0] < pair[1]]


@settings(max_examples=200)
@given(pairs, points, points)
def test_covers_means_every_point_inside(found: list[tuple[int, int]], low: int, high: int) -> None:
    start, end = min(low, high), max(low, high) + 1
    merged = intervals.merge(*intervals.from_pairs(found))
    assert intervals.covers(merged, start, end) == (set(range(start, end)) <= model(found))


def test_merging_leaves_its_arguments_alone() -> None:
    starts, ends = intervals.from_pairs([(5, 9), (1, 6)])
    intervals.merge(starts, ends)
    assert starts.tolist() == [5, 1]
    assert ends.tolist() == [9, 6]


def test_the_empty_set_covers_nothing() -> None:
    assert intervals.total(intervals.empty()) == 0
    assert not intervals.covers(intervals.empty(), 0, 1)
    assert members(intervals.merge(*intervals.empty())) == set()


def canonical(found: Intervals) -> bool:
    """Whether a set is merged: sorted, disjoint and not even touching."""
    starts, ends = found
    return bool(np.all(starts < ends) and np.all(ends[:-1] < starts[1:]))


@settings(max_examples=200)
@given(pairs, pairs)
def test_intersection_and_difference(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    one, two = (intervals.merge(*intervals.from_pairs(given_pairs)) for given_pairs in (a, b))
    common, rest = intervals.intersect(one, two), intervals.subtract(one, two)
    assert members(common) == model(a) & model(b)
    assert members(rest) == model(a) - model(b)
    assert canonical(common)
    assert canonical(rest)


@given(pairs, st.lists(points, max_size=20))
def test_contains_asks_point_by_point(found: list[tuple[int, int]], where: list[int]) -> None:
    merged = intervals.merge(*intervals.from_pairs(found))
    inside = model(found)
    at = np.array(where, dtype=np.int64)
    assert intervals.contains(merged, at).tolist() == [point in inside for point in where]


@given(pairs, pairs)
def test_length_within_counts_the_points(
    found: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    merged = intervals.merge(*intervals.from_pairs(found))
    starts, ends = intervals.from_pairs(asked)
    assert intervals.Ruler(merged).within(starts, ends).tolist() == [
        len(model(found) & set(range(start, end))) for start, end in asked if start < end
    ]


@settings(max_examples=200)
@given(st.lists(pairs, max_size=4))
def test_union_of_merged_sets(found: list[list[tuple[int, int]]]) -> None:
    sets = [intervals.merge(*intervals.from_pairs(one)) for one in found]
    every = intervals.union(sets)
    assert members(every) == {point for one in found for point in model(one)}
    assert canonical(every)


@given(pairs, st.integers(1, 9))
def test_points_are_all_there_in_order(found: list[tuple[int, int]], batch: int) -> None:
    merged = intervals.merge(*intervals.from_pairs(found))
    batches = [points.tolist() for points in intervals.points(merged, batch)]
    assert [point for some in batches for point in some] == sorted(model(found))
    assert all(len(some) == batch for some in batches[:-1])


def test_one_interval_may_meet_many_and_many_one() -> None:
    many = intervals.from_pairs([(at, at + 7) for at in range(0, 200, 10)])
    few = intervals.from_pairs([(3, 48), (49, 51), (120, 125)])
    for one, two in ((many, few), (few, many)):
        assert members(intervals.intersect(one, two)) == members(one) & members(two)
        assert members(intervals.subtract(one, two)) == members(one) - members(two)
    whole = intervals.from_pairs([(0, 200)])
    for same in (
        intervals.intersect(many, whole),
        intervals.intersect(whole, many),
        intervals.subtract(many, intervals.from_pairs([(500, 600)])),
    ):
        assert members(same) == members(many)
        assert all(map(np.shares_memory, same, many)), "copied"


@given(pairs, st.integers(1, 9))
def test_batches_are_the_whole_set_in_order(found: list[tuple[int, int]], size: int) -> None:
    starts, ends = intervals.merge(*intervals.from_pairs(found))
    batches = [*intervals.batches((starts, ends), size)]
    assert [at for low, _ in batches for at in low.tolist()] == starts.tolist()
    assert [at for _, high in batches for at in high.tolist()] == ends.tolist()
    assert all(len(low) <= size for low, _ in batches)


def test_a_total_is_right_where_the_sums_of_both_bounds_are_too_large() -> None:
    starts = np.arange(1 << 13, dtype=np.int64) * 4 + (1 << 52)
    assert intervals.total((starts, starts + 3)) == 3 << 13


@settings(max_examples=200)
@given(pairs)
def test_overlaps_are_what_two_or_more_share(found: list[tuple[int, int]]) -> None:
    starts, ends = intervals.from_pairs(found)
    shared = intervals.overlaps(starts, ends)
    kept = [range(start, end) for start, end in found]
    assert members(shared) == {
        point for point in range(61) if sum(point in one for one in kept) >= 2
    }
    assert canonical(shared)


def test_operations_with_the_empty_set() -> None:
    none, some = intervals.empty(), intervals.from_pairs([(2, 5)])
    assert members(intervals.intersect(none, some)) == set()
    assert members(intervals.subtract(some, none)) == {2, 3, 4}
    assert members(intervals.subtract(none, some)) == set()
    assert members(intervals.overlaps(*none)) == members(intervals.overlaps(*some)) == set()
