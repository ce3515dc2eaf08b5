"""Runs of set bits against a loop that anybody can check."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kho_inspect.walk.bitmap import runs_of_bits

WORDS = 4
BITS = 64 * WORDS


def naive_runs(bits: int, first: int) -> Iterator[tuple[int, int]]:
    start = None
    for bit in range(BITS + 1):
        if bit < BITS and bits >> bit & 1:
            start = bit if start is None else start
        elif start is not None:
            yield first + start, first + bit
            start = None


spans = st.tuples(st.integers(0, BITS), st.integers(0, BITS)).map(
    lambda span: ((1 << max(span)) - 1) ^ ((1 << min(span)) - 1)
)
noise = st.binary(min_size=BITS // 8, max_size=BITS // 8).map(lambda raw: int.from_bytes(raw))
leaves = st.one_of(
    st.integers(0, (1 << BITS) - 1),
    noise,
    st.lists(spans, max_size=6).map(lambda found: reduce(or_, found, 0)),
)


def given_bits(leaf: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(leaf, st.integers(0, 1 << 50))


@settings(max_examples=150)
@given(st.one_of(st.lists(given_bits(leaves), max_size=8), st.lists(given_bits(noise), max_size=8)))
@example([(int.from_bytes(b"\x9a\x35\xe1\x4b" * (BITS // 32)), 0)])
@example([((1 << BITS) - 1, 0)])
@example([((1 << BITS) - 1, 0), ((1 << BITS) - 1, BITS)])
@example([(1 << (BITS - 1), 0), (1, BITS)])
@example([(0, 0), (0, 7)])
@example([(0b1100 << 70, 5), (0b111, 9)])
def test_runs_and_counts_equal_a_naive_loop(found: list[tuple[int, int]]) -> None:
    raw = b"".join(bits.to_bytes(BITS // 8, "little") for bits, _ in found)
    bitmaps = np.frombuffer(raw, dtype="<u8").reshape(len(found), WORDS)
    firsts = np.array([first for _, first in found], dtype=np.int64)
    (starts, ends), used = runs_of_bits(bitmaps, firsts)
    expected = [run for bits, first in found for run in naive_runs(bits, first)]
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected
    assert used.tolist() == [bits.bit_count() for bits, _ in found]
