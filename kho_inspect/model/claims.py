"""Who claims which memory, and the account of it. Page frames throughout, never one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kho_inspect import intervals
from kho_inspect.intervals import I64, Intervals
from kho_inspect.model.identity import ClaimKind, Message, Owner, Path, Place
from kho_inspect.model.preserved import Preserved
from kho_inspect.units import Extent, PhysAddr

KINDS = tuple(ClaimKind)
CODES = {kind: code for code, kind in enumerate(KINDS)}
"""How the columns of claims spell their kinds."""
_NO_INDEX = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Claim:
    """Memory that one structure stands in, or points to as its own: half-open page frames."""

    owner: Owner
    kind: ClaimKind
    starts: I64
    """First page frame of each piece, shape ``(n,)``."""
    ends: I64
    """The page frame after each piece."""
    file_index: NDArray[np.uint64] | None = None
    """Page offset in the file of each piece, for what holds file content."""

    def place(self, piece: int, paddr: PhysAddr, page_shift: int) -> Place:
        """One piece, and what the byte at ``paddr`` in it is to the owner."""
        if self.file_index is None:
            return Place(self.owner, self.kind, piece if len(self.starts) > 1 else None)
        offset = paddr - (int(self.starts[piece]) << page_shift)
        offset += int(self.file_index[piece]) << page_shift
        return Place(self.owner, self.kind, piece, offset)


@dataclass(frozen=True)
class Claims:
    """All claims of a handover in columns: there may be millions of pieces.

    The pieces of a claim stand behind each other, claim by claim.
    """

    page_shift: int
    owners: tuple[Owner, ...]
    """Each owner once, in the order in which they were added."""
    kinds: NDArray[np.int8]
    """Of each claim, as an index of ``KINDS``."""
    owner: I64
    """Of each claim, as an index of ``owners``."""
    bounds: I64
    """First piece of each claim, and behind the last one; shape ``(claims + 1,)``."""
    starts: I64
    """First page frame of each piece, shape ``(pieces,)``."""
    ends: I64
    file_index: dict[int, NDArray[np.uint64]]
    """First claim of some that hold file content → page offset in the file of their pieces."""

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, number: int) -> Claim:
        low, high = int(self.bounds[number]), int(self.bounds[number + 1])
        return Claim(
            self.owners[self.owner[number]],
            KINDS[self.kinds[number]],
            self.starts[low:high],
            self.ends[low:high],
            self._file_index(number, low, high),
        )

    def _file_index(self, number: int, low: int, high: int) -> NDArray[np.uint64] | None:
        first = max((one for one in self.file_index if one <= number), default=0)
        before = int(self.bounds[first])
        held = self.file_index.get(first, _NO_INDEX)[low - before : high - before]
        return held if len(held) else None

    def __iter__(self) -> Iterator[Claim]:
        return map(self.__getitem__, range(len(self)))

    @property
    def claim(self) -> I64:
        """The claim of each piece."""
        return self.claim_of(0, len(self.starts))

    def claim_of(self, low: int, high: int) -> I64:
        """The same of the pieces ``low..high``."""
        first = int(np.searchsorted(self.bounds, low, side="right")) - 1
        bounds = self.bounds[first : int(np.searchsorted(self.bounds, high)) + 1].clip(low, high)
        return np.repeat(np.arange(first, first + len(bounds) - 1), np.diff(bounds))

    def joined(self) -> tuple[I64, I64, I64]:
        """Starts, ends and owner of the pieces, those next to each other in a claim as one."""
        first = np.ones(len(self.starts), dtype=bool)
        np.not_equal(self.starts[1:], self.ends[:-1], out=first[1:])
        first[self.bounds[:-1]] = True
        counts = (
            np.add.reduceat(first, self.bounds[:-1], dtype=np.int64) if len(self) else self.owner
        )
        return (
            self.starts[first],
            self.ends[np.append(first[1:], True)[: len(first)]],
            np.repeat(self.owner, counts),
        )

    def of_kinds(self, kinds: Iterable[ClaimKind]) -> NDArray[np.bool_]:
        """Which claims are of any of these kinds."""
        return np.isin(self.kinds, [CODES[kind] for kind in kinds])


@dataclass(frozen=True, eq=False)
class OwnerIndex:
    """Finds the claims on any stretch of memory; sorted at the first look-up."""

    _preserved: Preserved
    _claims: Claims

    @cached_property
    def _sorted(self) -> tuple[I64, intervals.Highest, I64]:
        """Starts and ends of all pieces, grown to whole blocks, by start; and which piece it is."""
        starts, ends = self._preserved.whole_blocks(self._claims.starts, self._claims.ends)
        order = np.argsort(starts, kind="stable")
        return starts[order], intervals.Highest(ends[order]), order

    def claimed(self, start: int, end: int) -> list[tuple[Claim, int]]:
        """Claims on any of the page frames ``start..end``, or on the blocks that hold them.

        Each with the number of its piece. Pieces that name the very page frames come before those
        that merely share a block.
        """
        starts, ends, order = self._sorted
        pieces = order[ends.above(start, int(np.searchsorted(starts, end)))]
        claims = self._claims
        meets = (claims.starts[pieces] < end) & (start < claims.ends[pieces])
        pieces = np.concatenate([pieces[meets], pieces[~meets]])
        numbers = np.searchsorted(claims.bounds, pieces, side="right") - 1
        return [
            (claims[number], piece - int(claims.bounds[number]))
            for number, piece in zip(numbers.tolist(), pieces.tolist(), strict=True)
        ]

    def places(self, start: int, end: int, paddr: PhysAddr | None = None) -> list[Place]:
        """The same as places, of ``paddr`` (by default the first byte)."""
        shift = self._claims.page_shift
        at = start << shift if paddr is None else paddr
        return [claim.place(piece, at, shift) for claim, piece in self.claimed(start, end)]

    def top_owners(self, start: int, end: int) -> list[Owner]:
        """The distinct owners, as the wholes that they are parts of."""
        return list(dict.fromkeys(claim.owner.top for claim, _ in self.claimed(start, end)))


@dataclass(frozen=True, slots=True)
class Share:
    """What one owner claims of the preserved memory."""

    owner: Owner
    bytes: int
    blocks: int


class Unclaimed(Enum):
    """What preserved memory is that nothing decoded claims."""

    ORPHAN = "orphan"
    """Every structure was followed: a leak."""
    UNATTRIBUTED = "unattributed"
    """Something that was not followed may own it."""


class Hidden(NamedTuple):
    """Something that was not followed and may own memory."""

    message: Message
    path: Path


@dataclass(frozen=True)
class Ownership:
    """Preserved memory against the claims on it; merged intervals of page frames."""

    page_shift: int
    owners: tuple[Owner, ...]
    columns: tuple[I64, I64, I64]
    """Of each owner with claims its number, preserved pages and blocks."""
    preserved: Intervals
    claimed: Intervals
    """With the whole of each preserved block that a claim has a part of."""
    dangling: Intervals
    """Claimed but not preserved: will be overwritten."""
    shared: Intervals
    """Claimed by more than one owner."""

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """By owner, in the order of their first claim."""
        rows = zip(*(column.tolist() for column in self.columns), strict=True)
        owners, shift = self.owners, self.page_shift
        return tuple(
            Share(owners[number], pages << shift, blocks) for number, pages, blocks in rows
        )

    def only(self, chosen: Collection[object]) -> Ownership:
        """The same with the shares of some owners."""
        keep = np.array([self.owners[number] in chosen for number in self.columns[0]], dtype=bool)
        number, pages, blocks = self.columns
        return replace(self, columns=(number[keep], pages[keep], blocks[keep]))

    @cached_property
    def owned(self) -> Intervals:
        """Preserved and claimed."""
        return intervals.intersect(self.preserved, self.claimed)

    @cached_property
    def unclaimed(self) -> Intervals:
        """Preserved, claimed by nothing decoded: ``Handover.unclaimed`` says what that is."""
        return intervals.subtract(self.preserved, self.claimed)

    def size(self, pages: Intervals) -> int:
        """Bytes in a set of page frame intervals."""
        return intervals.total(pages) << self.page_shift

    def extents(self, pages: Intervals) -> Iterator[Extent]:
        """A set of page frame intervals as byte extents."""
        return intervals.extents(pages, self.page_shift)

    def top_shares(self) -> dict[Owner, int]:
        """Bytes by whole subsystem or foreign sub-node."""
        sums: dict[Owner, int] = {}
        for share in self.shares:
            sums[share.owner.top] = sums.get(share.owner.top, 0) + share.bytes
        return sums
