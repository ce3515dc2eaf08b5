"""Bitmaps of page frames in a file: against plain Python sets."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.errors import UnreadableInputError
from kho_inspect.memory import page_bitmap
from kho_inspect.memory.files import MappedFile
from kho_inspect.memory.page_bitmap import fewer_runs, set_bits


@settings(deadline=None)
@given(
    st.sets(st.integers(0, 30000), max_size=60),
    st.integers(0, 40),
    st.sampled_from([256, 1024, 1 << 20]),
)
def test_a_bitmap_is_the_set_of_its_bits(
    tmp_path_factory: pytest.TempPathFactory, pfns: set[int], more: int, chunk: int
) -> None:
    pages = max(pfns, default=0) + 1 + more
    path = tmp_path_factory.mktemp("bitmap") / "bits"
    with path.open("wb") as file:
        file.truncate(100 + pages // 8 + 50)
        bits = bytearray(pages // 8 + 1)
        for pfn in pfns:
            bits[pfn // 8] |= 1 << pfn % 8
        # Bits behind the last page belong to nobody.
        bits[-1] |= 0xFF << (pages % 8) & 0xFF
        for at in range(0, len(bits), 512):
            part = bits[at : at + 512]
            if any(part):
                file.seek(100 + at)
                file.write(part)
    before = page_bitmap._CHUNK
    try:
        page_bitmap._CHUNK = chunk
        starts, ends = set_bits(MappedFile(str(path)), 100, pages)
    finally:
        page_bitmap._CHUNK = before
    assert [pfn for run in zip(starts, ends, strict=True) for pfn in range(*run)] == sorted(pfns)
    assert (starts[1:] > ends[:-1]).all()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1), st.integers(1, 8))
def test_fewer_runs_cover_the_same_with_the_wider_gaps_kept(
    shape: list[tuple[int, int]], limit: int
) -> None:
    at, runs = 0, []
    for gap, length in shape:
        runs.append((at + gap, at + gap + length))
        at += gap + length
    starts, ends = fewer_runs((np.array(runs)[:, 0], np.array(runs)[:, 1]), limit)
    assert 0 < len(starts) <= limit
    assert (starts[0], ends[-1]) == (runs[0][0], runs[-1][1])
    gaps = sorted(b[0] - a[1] for a, b in itertools.pairwise(runs))
    kept = sorted((starts[1:] - ends[:-1]).tolist())
    assert kept == gaps[len(gaps) - len(kept) :]
    assert len(runs) > limit or len(starts) == len(runs)


@pytest.mark.parametrize(("runs", "refused"), [(256, False), (255, True)])
def test_the_runs_of_all_pieces_together_are_bounded(
    runs: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_bitmap, "_CHUNK", 16)
    monkeypatch.setattr(page_bitmap, "MAX_RUNS", runs)
    path = tmp_path / "bits"
    path.write_bytes(b"\x55" * 64)
    with pytest.raises(UnreadableInputError) if refused else nullcontext():
        assert len(set_bits(MappedFile(str(path)), 0, 512)[0]) == 256
