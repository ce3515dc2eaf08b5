"""The layout of content in a file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kho_inspect.model.contents import Piece
from kho_inspect.recover.content import laid_out

PIECES = st.lists(
    st.builds(Piece, st.integers(0, 30), st.integers(0, 1000), st.integers(1, 12))
).map(lambda pieces: sorted(pieces, key=lambda piece: piece.offset))


@given(PIECES)
def test_where_pieces_overlap_the_last_of_them_counts(pieces: list[Piece]) -> None:
    expected: dict[int, int] = {}
    for offset, paddr, size in pieces:
        expected |= {offset + at: paddr + at for at in range(size)}
    found: dict[int, int] = {}
    reach = 0
    for offset, paddr, size in laid_out(pieces):
        assert offset >= reach
        assert size > 0
        reach = offset + size
        found |= {offset + at: paddr + at for at in range(size)}
    assert found == expected
