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
def test_merging_keeps_every_point_and_no_touching_neighbours(
    found: list[tuple[int, int]],
) -> None:
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
