"""Collecting which structure claims which memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kho_inspect.intervals import I64
from kho_inspect.model.claims import CODES, Claims
from kho_inspect.model.identity import ClaimKind, Owner
from kho_inspect.units import PhysAddr


class ClaimLog:
    """An append-only list of claims, in page frames of ``1 << page_shift`` bytes."""

    def __init__(self, page_shift: int) -> None:
        self.page_shift = page_shift
        self.end = 1 << (64 - page_shift)
        """Page frames from there on do not exist: any number beyond counts as the last one."""
        self._owners: dict[Owner, int] = {}
        # Claims that come one at a time are kept as numbers, and made arrays together.
        self._single: list[tuple[int, int, int, int]] = []
        none = np.empty(0, dtype=np.int64)
        self._columns: list[tuple[I64, NDArray[np.int8], I64, I64, I64]] = [
            (none, none.astype(np.int8), none, none, none)
        ]
        """Owner, kind and number of pieces of claims, and starts and ends of the pieces."""
        self._claims = 0
        self._file_index: dict[int, NDArray[np.uint64]] = {}

    def add_owners(self, owners: Iterable[Owner]) -> I64:
        """Their numbers; each has its place in the order of owners from the first time on."""
        known = self._owners
        return np.array([known.setdefault(one, len(known)) for one in owners], dtype=np.int64)

    def add(self, owner: Owner, kind: ClaimKind, paddr: PhysAddr, size: int) -> None:
        """All pages that hold any of ``size`` bytes from ``paddr``; nothing for an empty range."""
        if size <= 0:
            return
        start = min(paddr >> self.page_shift, self.end)
        end = min(-(-(paddr + size) >> self.page_shift), self.end)
        if start < end:
            number = self._owners.setdefault(owner, len(self._owners))
            self._single.append((number, CODES[kind], start, end))

    def add_many(
        self,
        owner: Owner,
        kind: ClaimKind,
        pfns: I64,
        pages: I64 | int,
        file_index: NDArray[np.uint64] | None = None,
    ) -> None:
        """One claim: ``pages`` page frames from each of ``pfns``."""
        if len(pfns):
            number, counts = self.add_owners([owner]), np.array([len(pfns)])
            self.add_columns(number, CODES[kind], counts, pfns, pages, file_index)

    def add_columns(
        self,
        owners: I64,
        kinds: NDArray[np.int8] | int,
        counts: I64,
        pfns: I64,
        pages: I64 | int,
        file_index: NDArray[np.uint64] | None = None,
    ) -> None:
        """Many claims: the number of each owner, each kind as in ``CODES``, and its pieces.

        ``counts``: pieces of each claim, which stand behind each other; none is no claim.
        """
        starts, ends = pfns, pfns + pages
        if len(pfns) and ends.max() > self.end:
            starts = np.minimum(pfns, self.end - 1)
            ends = np.minimum(starts + pages, self.end)
        self._flush()
        real = counts > 0
        if file_index is not None:
            self._file_index[self._claims] = file_index
        codes = np.broadcast_to(np.asarray(kinds, dtype=np.int8), counts.shape)
        self._columns.append((owners[real], codes[real], counts[real], starts, ends))
        self._claims += int(real.sum())

    def _flush(self) -> None:
        if self._single:
            owners, kinds, starts, ends = np.array(self._single, dtype=np.int64).T.copy()
            ones = np.ones(len(owners), dtype=np.int64)
            self._columns.append((owners, kinds.astype(np.int8), ones, starts, ends))
            self._claims += len(owners)
            self._single = []

    def result(self) -> Claims:
        """All claims so far."""
        self._flush()
        columns = list(zip(*self._columns, strict=True))
        self._columns.clear()
        owner, kinds, counts, starts, ends = (np.concatenate(columns.pop(0)) for _ in range(5))
        self._columns.append((owner, kinds, counts, starts, ends))
        return Claims(
            page_shift=self.page_shift,
            owners=tuple(self._owners),
            kinds=kinds,
            owner=owner,
            bounds=np.append(0, np.cumsum(counts)),
            starts=starts,
            ends=ends,
            file_index=dict(self._file_index),
        )
