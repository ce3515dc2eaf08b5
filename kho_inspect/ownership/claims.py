"""Collecting which structure claims which memory."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kho_inspect.intervals import I64
from kho_inspect.model.claims import CODES, Claims, Part
from kho_inspect.model.identity import ClaimKind, Owner
from kho_inspect.model.preserved import Preserved
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
        self._columns: list[tuple[I64, NDArray[np.int8]]] = [(none, none.astype(np.int8))]
        """Owner and kind of claims."""
        self._parts = [Part(0, np.zeros(1, dtype=np.int64), none, none, None)]
        self._claims = 0

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
        blocks_of: Preserved | None = None,
    ) -> None:
        """Many claims: the number of each owner, each kind as in ``CODES``, and its pieces.

        ``counts``: pieces of each claim, which stand behind each other; none is no claim.
        ``blocks_of``: what each piece is a block of, where that is known of all of them.
        """
        if len(pfns) and pfns.max() + np.max(pages) > self.end:
            pfns = np.minimum(pfns, self.end - 1)
            pages = np.minimum(pages, self.end - pfns)
        self._flush()
        real = counts > 0
        codes = np.broadcast_to(np.asarray(kinds, dtype=np.int8), counts.shape)
        pages = np.broadcast_to(pages, pfns.shape)
        self._enter(owners[real], codes[real], counts[real], pfns, pages, file_index, blocks_of)

    def _enter(
        self,
        owners: I64,
        kinds: NDArray[np.int8],
        counts: I64,
        pfns: I64,
        pages: I64,
        file_index: NDArray[np.uint64] | None = None,
        blocks_of: Preserved | None = None,
    ) -> None:
        bounds = np.append(0, np.cumsum(counts))
        self._columns.append((owners, kinds))
        self._parts.append(Part(self._claims, bounds, pfns, pages, file_index, blocks_of))
        self._claims += len(owners)

    def _flush(self) -> None:
        if self._single:
            owners, kinds, starts, ends = np.array(self._single, dtype=np.int64).T.copy()
            self._single = []
            self._enter(owners, kinds.astype(np.int8), np.ones_like(owners), starts, ends - starts)

    def result(self) -> Claims:
        """All claims so far."""
        self._flush()
        owner, kinds = (np.concatenate(column) for column in zip(*self._columns, strict=True))
        return Claims(self.page_shift, tuple(self._owners), kinds, owner, tuple(self._parts))
