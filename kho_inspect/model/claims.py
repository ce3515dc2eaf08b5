"""Who claims which memory, and the account of it. Page frames throughout, never one by one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple

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


class Part(NamedTuple):
    """The pieces of some claims, which stand behind each other, claim by claim."""

    first: int
    """Number of the first of these claims."""
    bounds: I64
    """First piece of each of them, in this part, and behind the last one."""
    starts: I64
    """First page frame of each piece, shape ``(pieces,)``."""
    pages: NDArray[Any]
    """Of each piece, in integers of any size: page frames + pages are int64."""
    file_index: NDArray[np.uint64] | None
    """Page offset in the file of each piece, where all of them hold file content."""
    blocks_of: Preserved | None = None
    """Each piece is known to be a block of this."""

    @property
    def claim(self) -> I64:
        """The claim of each piece."""
        return np.repeat(np.arange(len(self.bounds) - 1) + self.first, np.diff(self.bounds))


@dataclass(frozen=True)
class Claims:
    """All claims of a handover in columns: there may be millions of pieces."""

    page_shift: int
    owners: tuple[Owner, ...]
    """Each owner once, in the order in which they were added."""
    kinds: NDArray[np.int8]
    """Of each claim, as an index of ``KINDS``."""
    owner: I64
    """Of each claim, as an index of ``owners``."""
    parts: tuple[Part, ...]
    """Their pieces; at least one part, which may be empty."""

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, number: int) -> Claim:
        at = bisect_right(self.parts, number, key=lambda part: part.first) - 1
        first, bounds, starts, pages, file_index, _ = self.parts[at]
        held = slice(*bounds[number - first : number - first + 2].tolist())
        return Claim(
            self.owners[self.owner[number]],
            KINDS[self.kinds[number]],
            starts[held],
            starts[held] + pages[held],
            None if file_index is None else file_index[held],
        )

    def __iter__(self) -> Iterator[Claim]:
        return map(self.__getitem__, range(len(self)))

    @cached_property
    def bounds(self) -> I64:
        """First piece of each claim, and behind the last one; shape ``(claims + 1,)``."""
        return np.append(0, np.cumsum(np.concatenate([np.diff(one.bounds) for one in self.parts])))

    @cached_property
    def starts(self) -> I64:
        """First page frame of each piece of all claims."""
        return np.concatenate([part.starts for part in self.parts])

    @cached_property
    def ends(self) -> I64:
        """The page frame after each piece."""
        return np.concatenate([part.starts + part.pages for part in self.parts])

    @property
    def claim(self) -> I64:
        """The claim of each piece."""
        return np.concatenate([part.claim for part in self.parts])

    def joined(self, part: Part) -> tuple[I64, I64, I64]:
        """Starts, ends and owner of its pieces, those next to each other in a claim as one."""
        starts, ends = part.starts, part.starts + part.pages
        first = np.ones(len(starts) + 1, dtype=bool)
        np.not_equal(starts[1:], ends[:-1], out=first[1:-1])
        first[part.bounds] = True
        owner = self.owner[part.claim[first[:-1]]]
        return starts[first[:-1]], ends[first[1:]], owner

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
