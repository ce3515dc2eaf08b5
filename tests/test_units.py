"""Sizes for people, and as they were typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kho_inspect.units import exact_size, human_size, parse_size


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (1560, "1.5 KiB (1,560 bytes)"),
        (4284416, "4.1 MiB (4,284,416 bytes)"),
    ],
)
def test_a_rounded_size_has_its_bytes_beside_it(size: int, shown: str) -> None:
    assert exact_size(size) == shown


@given(st.integers(0, 1 << 49))
def test_a_size_without_bytes_beside_it_reads_back_exactly(size: int) -> None:
    shown = exact_size(size)
    if "(" in shown:
        assert int(shown.split("(")[1].split()[0].replace(",", "")) == size
        assert shown.startswith(human_size(size))
    elif "." not in shown and "byte" not in shown:
        assert parse_size(shown) == size
