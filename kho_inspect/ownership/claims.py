"""Collecting which structure claims which memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kho_inspect.intervals import I64
from kho_inspect.model.claims import Claims
from kho_inspect.model.identity import ClaimKind, Owner
from kho_inspect.units import PhysAddr


class ClaimLog:
    """An append-only list of claims, in page frames of ``1 << page_shift`` bytes."""

    def __init__(self, page_shift: int) -> None:
        self.page_shift = page_shift
        self.end = 1 << (64 - page_shift)
        """Page frames from there on do not exist: any number beyond counts as the last one."""
        self._owners: dict[Owner, int] = {}
        self._owner: list[int] = []
        self._kinds: list[ClaimKind] = []
        self._counts: list[int] = []
        # Most claims are one piece: runs of those are kept as numbers, and made arrays together.
        self._starts: list[I64] = []
        self._ends: list[I64] = []
        self._low: list[int] = []
        self._high: list[int] = []
        self._file_index: dict[int, NDArray[np.uint64]] = {}

    def add_owner(self, owner: Owner) -> None:
        """Give an owner its place in the order of owners, before it claims anything."""
        self._owners.setdefault(owner, len(self._owners))

    def add(self, owner: Owner, kind: ClaimKind, paddr: PhysAddr, size: int) -> None:
        """All pages that hold any of ``size`` bytes from ``paddr``; nothing for an empty range."""
        if size <= 0:
            return
        start = min(paddr >> self.page_shift, self.end)
        end = min(-(-(paddr + size) >> self.page_shift), self.end)
        if start < end:
            self._enter(owner, kind, 1)
            self._low.append(start)
            self._high.append(end)

    def add_many(
        self,
        owner: Owner,
        kind: ClaimKind,
        pfns: I64,
        pages: I64 | int,
        file_index: NDArray[np.uint64] | None = None,
    ) -> None:
        """``pages`` page frames from each of ``pfns``."""
        if not len(pfns):
            return
        starts, ends = pfns, pfns + pages
        if ends.max() > self.end or pfns.max() >= self.end:
            starts = np.minimum(pfns, self.end - 1)
            ends = np.minimum(starts + pages, self.end)
        if file_index is not None:
            self._file_index[len(self._kinds)] = file_index
        self._enter(owner, kind, len(pfns))
        self._flush()
        self._starts.append(starts)
        self._ends.append(ends)

    def _enter(self, owner: Owner, kind: ClaimKind, pieces: int) -> None:
        self._owner.append(self._owners.setdefault(owner, len(self._owners)))
        self._kinds.append(kind)
        self._counts.append(pieces)

    def _flush(self) -> None:
        if self._low:
            self._starts.append(np.array(self._low, dtype=np.int64))
            self._ends.append(np.array(self._high, dtype=np.int64))
            self._low, self._high = [], []

    def result(self) -> Claims:
        """All claims so far."""
        self._flush()
        none = np.empty(0, dtype=np.int64)
        bounds = np.zeros(len(self._counts) + 1, dtype=np.int64)
        np.cumsum(self._counts, out=bounds[1:])
        return Claims(
            page_shift=self.page_shift,
            owners=tuple(self._owners),
            kinds=tuple(self._kinds),
            owner=np.array(self._owner, dtype=np.int64),
            bounds=bounds,
            starts=np.concatenate([none, *self._starts]),
            ends=np.concatenate([none, *self._ends]),
            file_index=dict(self._file_index),
        )
