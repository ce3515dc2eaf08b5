"""How far the bytes of a dump are what was handed over."""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kho_inspect import intervals
from kho_inspect.inspection import case_of
from kho_inspect.intervals import Intervals
from kho_inspect.model.contents import Piece
from kho_inspect.model.handover import Handover
from kho_inspect.render.names import message_text
from kho_inspect.rules.statements import Capture, capture_of

_ALL_PAGES = intervals.from_pairs([(0, 1 << 62)])


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the capture and its map show of any memory."""

    capture: Capture
    page_shift: int
    unpreserved: Intervals
    """Page frames that are surely not preserved, merged; none where the map is not known."""
    reads_map: bool = True
    """Whether the layout of the map is known, and with it the length of each folio."""

    @property
    def doubts(self) -> list[str]:
        """Why nothing that was read can be trusted."""
        doubts = [] if self.capture.fits else [f"capture {self.capture.state.value}"]
        return doubts if self.reads_map else [*doubts, "unknown map"]

    def document(self) -> dict[str, Any]:
        """State and reasons of the capture, for the manifest."""
        reasons = [message_text(reason) for reason in self.capture.reasons]
        return {"state": self.capture.state.value, "reasons": reasons}

    def not_preserved(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        """The parts of some pieces that lie in memory which is not preserved."""
        shift = self.page_shift
        pages = (
            (piece.paddr >> shift, -(-(piece.paddr + piece.size) >> shift)) for piece in pieces
        )
        found = intervals.intersect(intervals.merge(*intervals.from_pairs(pages)), self.unpreserved)
        starts, ends = ([page << shift for page in pages.tolist()] for pages in found)
        for offset, paddr, size in pieces if starts else ():
            end = paddr + size
            at = bisect.bisect_right(ends, paddr)
            while at < len(starts) and starts[at] < end:
                start = max(starts[at], paddr)
                yield Piece(start - paddr + offset, start, min(ends[at], end) - start)
                at += 1


def evidence_of(handover: Handover) -> Evidence:
    """What a handover's capture and map show."""
    case = case_of(handover)
    unpreserved, tree = intervals.empty(), handover.tree
    if tree is not None and tree.readable and not case.map.is_late:
        known = intervals.union([case.map.preserved.merged, case.map.lost])
        unpreserved = intervals.subtract(_ALL_PAGES, known)
    return Evidence(capture_of(case), handover.geometry.shift, unpreserved, handover.fdt.reads_map)
