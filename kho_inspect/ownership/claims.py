"""Collecting which structure claims which memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kho_inspect.model.claims import Claim
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
    """The pieces of all claims in flat arrays: start, end, and index of the claim.

    Claims of one piece come first, then the others, one behind the other.
    """
    single = np.array([isinstance(claim.low, int) for claim in claims], dtype=bool)
    which = np.flatnonzero(~single)
    counts = [claims[at].pieces for at in which.tolist()]
    index = np.concatenate([np.flatnonzero(single), np.repeat(which, counts)])
    flat = []
    for name in ("low", "high"):
        values = [getattr(claim, name) for claim in claims]
        numbers = np.array([one for one in values if isinstance(one, int)], dtype=np.int64)
        arrays = [one for one in values if not isinstance(one, int)]
        flat.append(np.concatenate([numbers, *arrays]))
    return flat[0], flat[1], index


class Pieces:
    """All pieces of all claims in flat arrays; ``owner`` indexes ``names``, ``claim`` them."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        numbers: dict[str, int] = {}
        owner = [numbers.setdefault(claim.owner, len(numbers)) for claim in claims]
        self.names = list(numbers)
        self.starts, self.ends, self.claim = flatten(claims)
        self.owner: I64 = np.array(owner, dtype=np.int64)[self.claim]
