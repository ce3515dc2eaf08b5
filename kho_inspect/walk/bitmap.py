"""Runs of set bits in radix leaves, many leaves at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.intervals import I64, Intervals


def runs_of_bits(bitmaps: NDArray[np.uint64], first_bit: I64) -> tuple[Intervals, I64]:
    """Maximal runs of set bits within each leaf, and the number of set bits per leaf.

    ``bitmaps`` has shape ``(leaves, words)``; ``first_bit`` of shape ``(leaves,)`` is what bit 0
    of each leaf counts as. Runs come out in leaf order as half-open intervals; a run that goes
    on in the next leaf is not joined here.

    Every bit that differs from the one below it starts or ends a run. A zero word appended to
    each leaf ends whatever is still open, so starts and ends alternate over the whole batch, and
    only words with such a transition are ever taken apart into bits.
    """
    leaves, words = bitmaps.shape
    padded = np.zeros((leaves, words + 1), dtype=np.uint64)
    padded[:, :words] = bitmaps
    flat = padded.reshape(-1)
    changes = flat << np.uint64(1)
    changes[1:] |= flat[:-1] >> np.uint64(63)
    changes ^= flat
    at = np.flatnonzero(changes)
    if 4 * len(at) < len(changes):
        hits = _positions(changes[at])
        edges = (at[hits >> 6] << 6) + (hits & 63)
    else:
        edges = _positions(changes)
    starts, ends = edges[0::2], edges[1::2]
    row_bits = (words + 1) * 64
    bounds = np.searchsorted(starts, np.arange(leaves + 1) * row_bits)
    offset = np.repeat(first_bit - np.arange(leaves) * row_bits, np.diff(bounds))
    used = np.bitwise_count(bitmaps).sum(axis=1, dtype=np.int64)
    return (starts + offset, ends + offset), used


def _positions(words: NDArray[np.uint64]) -> I64:
    """Of every set bit."""
    bits = np.unpackbits(words.astype("<u8", copy=False).view(np.uint8), bitorder="little")
    found: I64 = np.flatnonzero(bits.view(np.bool_))
    return found
