"""Collecting which structure claims which memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kho_inspect.contents import Claim
from kho_inspect.units import PhysAddr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kho_inspect.intervals import I64


class ClaimLog:
    """An append-only list of claims, in page frames of ``1 << page_shift`` bytes."""

    def __init__(self, page_shift: int) -> None:
        self.page_shift = page_shift
        self.end = 1 << (64 - page_shift)
        """Who claims page frames from there on does so by a wild number, and gets the last one."""
        self.claims: list[Claim] = []

    def add(self, owner: str, what: str, paddr: PhysAddr, size: int) -> None:
        """All pages that hold any of ``size`` bytes from ``paddr``; nothing for an empty range."""
        if size <= 0:
            return
        start = min(paddr >> self.page_shift, self.end)
        end = min(-(-(paddr + size) >> self.page_shift), self.end)
        if start < end:
            self.claims.append(Claim(owner, what, start, end))

    def add_blocks(
        self, owner: str, what: str, starts: I64, ends: I64, file_index: NDArray[np.uint64]
    ) -> None:
        """Page frames ``starts`` to ``ends``, all below :attr:`end`; the ends may be set later."""
        self.claims.append(Claim(owner, what, starts, ends, file_index))

    def add_many(
        self,
        owner: str,
        what: str,
        pfns: I64,
        pages: I64 | int,
        file_index: NDArray[np.uint64] | None = None,
    ) -> None:
        """``pages`` page frames from each of ``pfns``."""
        if len(pfns):
            starts, ends = pfns, pfns + pages
            if ends.max() > self.end or pfns.max() >= self.end:
                starts = np.minimum(pfns, self.end - 1)
                ends = np.minimum(starts + pages, self.end)
            self.claims.append(Claim(owner, what, starts, ends, file_index))


def flatten(claims: Sequence[Claim]) -> tuple[I64, I64, I64]:
    """The pieces of all claims in two flat arrays, starts and ends; and how many each has."""
    counts = np.array([claim.pieces for claim in claims], dtype=np.int64)
    at = np.cumsum(counts) - counts
    number = np.array([isinstance(claim.low, int) for claim in claims], dtype=bool)
    arrays = np.ones(int(counts.sum()), dtype=bool)
    arrays[at[number]] = False
    flat = []
    for name in ("low", "high"):
        values = [getattr(claim, name) for claim in claims]
        bounds = np.empty(len(arrays), dtype=np.int64)
        bounds[~arrays] = [value for value in values if isinstance(value, int)]
        held = [value for value in values if not isinstance(value, int)]
        bounds[arrays] = np.concatenate(held) if held else 0
        flat.append(bounds)
    return flat[0], flat[1], counts
