"""Memory that two carved things have in common: the better one keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kho_inspect import intervals
from kho_inspect.intervals import I64, Intervals
from kho_inspect.model.contents import Item
from kho_inspect.model.provenance import Doubt, DoubtKind, Trust, trust_of
from kho_inspect.units import plural

MAX_CONFLICTS = 4096
"""Things that are held to each other; those behind them are given up."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A thing that reads well by itself."""

    item: Item
    starts: I64 = field(repr=False)
    """Page frames of all its memory, not merged."""
    ends: I64 = field(repr=False)
    handler: str | None = None
    """Of a file."""
    folios: int = 0

    @property
    def rank(self) -> int:
        """Sorts the most trusted first."""
        assert self.item.provenance is not None
        return _RANKS[self.item.provenance.trust]


_RANKS = {trust: number for number, trust in enumerate(Trust)}


def settle(candidates: Sequence[Candidate]) -> tuple[list[Candidate], int, int]:
    """Those that keep their memory, the most trusted first, and how many lose it or are given up.

    What shares a page with a more trusted thing is none; with an equal, it is in doubt.
    """
    ordered = sorted(candidates, key=lambda one: one.rank)
    shared = _shared(ordered)
    if not len(shared[0]):
        return ordered, 0, 0
    kept: list[Candidate] = []
    taken: dict[int, Intervals] = {}
    met = lost = 0
    for one in ordered:
        own = intervals.merge(one.starts, one.ends)
        if not len(intervals.intersect(own, shared)[0]):
            kept.append(one)
            continue
        met += 1
        if met > MAX_CONFLICTS:
            continue
        common = {
            rank: intervals.total(intervals.intersect(own, others))
            for rank, others in taken.items()
        }
        if any(pages for rank, pages in common.items() if rank < one.rank):
            lost += 1
            continue
        pages = common.get(one.rank, 0)
        kept.append(_doubted(one, pages) if pages else one)
        taken[one.rank] = intervals.union([taken.get(one.rank, intervals.empty()), own])
    return sorted(kept, key=lambda one: one.rank), lost, max(0, met - MAX_CONFLICTS)


def _shared(candidates: Sequence[Candidate]) -> Intervals:
    """Page frames of more than one candidate."""
    none = np.empty(0, dtype=np.int64)
    merged = [intervals.merge(one.starts, one.ends) for one in candidates]
    return intervals.overlaps(
        np.concatenate([none, *(starts for starts, _ in merged)]),
        np.concatenate([none, *(ends for _, ends in merged)]),
    )


def _doubted(one: Candidate, pages: int) -> Candidate:
    provenance = one.item.provenance
    assert provenance is not None
    words = f"{plural(pages, 'page')} of it something else has too that is no less likely"
    doubts = (*provenance.doubts, Doubt(DoubtKind.SHARED, words))
    trust = trust_of(provenance.trust, doubts)
    return replace(
        one, item=replace(one.item, provenance=provenance._replace(trust=trust, doubts=doubts))
    )
