"""What rules need to know of claims on memory: ``case.claims``."""

from collections.abc import Collection, Iterator
from functools import cached_property

import numpy as np

from kho_inspect import intervals
from kho_inspect.model.claims import Claim, OwnerIndex, Ownership
from kho_inspect.model.identity import ClaimKind, Owner, Place, Subsystem
from kho_inspect.ownership.account import account
from kho_inspect.rules.base import Observation
from kho_inspect.rules.map_view import MapView
from kho_inspect.units import Extent


class ClaimsView:
    """The claims of one handover against what its map preserves."""

    def __init__(self, preserved_map: MapView) -> None:
        self.map = preserved_map
        self.handover = preserved_map.handover

    @cached_property
    def ownership(self) -> Ownership:
        """The account, without blocks of stray orders."""
        if not self.map.stray:
            return self.handover.ownership
        return account(self.map.preserved, self.handover.claims)

    @cached_property
    def _index(self) -> OwnerIndex:
        if not self.map.stray:
            return self.handover.index
        return OwnerIndex(self.map.preserved, self.handover.claims)

    def shared(self) -> Iterator[tuple[Extent, list[Place]]]:
        """Memory with several owners, and what it is to each, but for blocks in doubt."""
        shift = self.handover.geometry.shift
        pages = intervals.subtract(self.ownership.shared, self.map.doubtful)
        for extent in intervals.extents(pages, shift):
            yield extent, self._index.places(extent.start >> shift, extent.end >> shift)

    @cached_property
    def dangling(self) -> intervals.Intervals:
        """Claimed page frames that are surely not preserved."""
        return intervals.subtract(self.ownership.dangling, self.map.lost)

    @cached_property
    def _ruler(self) -> intervals.Ruler:
        return intervals.Ruler(self.dangling)

    @cached_property
    def _unpreserved(self) -> tuple[Claim, ...]:
        """The claims on any memory that is not preserved."""
        if not len(self.dangling[0]):
            return ()
        claims = self.handover.claims
        found = (
            part.claim[self._ruler.within(part.starts, part.starts + part.pages) > 0]
            for part in claims.parts
        )
        return tuple(claims[number] for some in found for number in np.unique(some).tolist())

    def unpreserved_owners(self, *kinds: ClaimKind) -> frozenset[Owner]:
        """Whose claims of these kinds are on such memory."""
        return frozenset(claim.owner for claim in self._unpreserved if claim.kind in kinds)

    def unpreserved(self, *kinds: ClaimKind, but: Collection[Owner] = ()) -> Iterator[Observation]:
        """One finding per claim, of these kinds and not of these owners, on such memory."""
        for claim in self._unpreserved:
            if claim.kind in kinds and claim.owner not in but:
                pieces = self._ruler.within(claim.starts, claim.ends).nonzero()[0]
                first, count = int(pieces[0]), len(claim.starts)
                start, (lows, highs) = claim.starts[first], self.dangling
                start = max(start, lows[np.searchsorted(highs, start, side="right")])
                more = f" (nor are {len(pieces) - 1} more of {count})" if len(pieces) > 1 else ""
                place = Place(claim.owner, claim.kind, first if count > 1 else None)
                yield self._observed(place, int(start), f"is not preserved{more}")

    def inside_blocks(
        self, *kinds: ClaimKind, but: Collection[Owner] = ()
    ) -> Iterator[Observation]:
        """One finding per claim, likewise, on pages that are preserved but head no block."""
        claims, preserved = self.handover.claims, self.map.preserved
        wanted = claims.of_kinds(kinds)
        headless: set[int] = set()
        for part in claims.parts:
            held = wanted[part.first : part.first + len(part.bounds) - 1]
            if part.blocks_of is not preserved and held.any():
                bad = np.flatnonzero(preserved.orders_at(part.starts) < 0)
                whose = part.claim[bad] if len(bad) else bad
                headless.update(whose[wanted[whose]].tolist())
        for claim in (claims[number] for number in sorted(headless)):
            covered = intervals.contains(preserved.merged, claim.starts)
            bad = (covered & (preserved.orders_at(claim.starts) < 0)).nonzero()[0]
            if len(bad) and claim.owner not in but:
                first = int(bad[0])
                more = f" (and {len(bad) - 1} more likewise)" if len(bad) > 1 else ""
                words = f"lies inside a preserved block, should be its head{more}"
                place = Place(claim.owner, claim.kind, first)
                yield self._observed(place, int(claim.starts[first]), words)

    def _observed(self, place: Place, pfn: int, words: str) -> Observation:
        paddr = pfn << self.handover.geometry.shift
        return Observation((place, f" at {paddr:#x} {words}"), paddr, place.path)


def is_sessions(owner: Owner) -> bool:
    """Whether an owner is a session, or one of its files."""
    return owner.subsystem is Subsystem.LUO and bool(owner.parts)
