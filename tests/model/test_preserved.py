"""Finding the blocks of page frames: by table, by search, and where blocks overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kho_inspect import intervals
from kho_inspect.model import preserved
from kho_inspect.model.preserved import Preserved

Blocks = list[tuple[int, int]]

blocks = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4)), max_size=12)
"""(number of the block, order)"""


def made(of: Blocks) -> Preserved:
    runs = {
        order: intervals.merge(
            *intervals.from_pairs(
                (number << order, number + 1 << order) for number, one in of if one == order
            )
        )
        for order in {order for _, order in of}
    }
    return Preserved(12, runs)


def holding(of: Blocks, pfn: int) -> set[int]:
    return {order for number, order in of if number << order <= pfn < number + 1 << order}


@pytest.mark.parametrize("table", [True, False])
@given(of=blocks)
def test_every_page_is_found_in_its_block(table: bool, of: Blocks) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preserved, "MAX_PAGES_LISTED", 1 << 26 if table else 0)
        found = made(of)
        pfns = np.arange(1100, dtype=np.int64)
        held, heads = found.orders_holding(pfns), found.orders_at(pfns).tolist()
    expected = [holding(of, pfn) for pfn in pfns.tolist()]
    assert found.overlapping == any(len(orders) > 1 for orders in expected)
    assert (held is None) == found.overlapping
    if held is not None:
        assert held.tolist() == [max(orders, default=-1) for orders in expected]
    for pfn, order in enumerate(heads):
        starting = {one for one in expected[pfn] if pfn % (1 << one) == 0}
        assert order == max(starting, default=-1)


def test_one_block_far_up_costs_no_table() -> None:
    assert made([(0, 0), (1 << 25, 0)])._order_of_page is None
    assert made([(at, 0) for at in range(100)])._order_of_page is not None
