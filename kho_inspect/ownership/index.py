"""Which claims there are on a stretch of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect.model.preserved import Preserved
from kho_inspect.ownership.account import grow_to_blocks
from kho_inspect.ownership.claims import Pieces
from kho_inspect.units import PhysAddr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kho_inspect.model.claims import Claim


class OwnerIndex:
    """Finds the claims on any stretch of memory; build it once for many questions."""

    def __init__(self, preserved: Preserved, claims: Sequence[Claim]) -> None:
        pieces = Pieces(claims)
        self._preserved = preserved
        self._claims = claims
        starts, ends = grow_to_blocks(preserved, pieces.starts, pieces.ends)
        order = np.argsort(starts, kind="stable")
        self._starts, self._ends = starts[order], ends[order]
        self._claim = pieces.claim[order]
        _, first, back = np.unique(pieces.claim, return_index=True, return_inverse=True)
        self._piece = (np.arange(len(starts)) - first[back])[order]
        self._reach = np.maximum.accumulate(self._ends) if len(starts) else self._ends

    def owners(self, start: int, end: int) -> list[Claimed]:
        """Claims on any of the page frames ``start..end``, or on the blocks that hold them.

        Pieces that name the very page frames come before those that merely share a block.
        """
        low = int(np.searchsorted(self._reach, start, side="right"))
        high = int(np.searchsorted(self._starts, end))
        hits = low + np.flatnonzero(self._ends[low:high] > start)
        found = [
            Claimed(self._claims[claim], piece)
            for claim, piece in zip(
                self._claim[hits].tolist(), self._piece[hits].tolist(), strict=True
            )
        ]
        return sorted(found, key=lambda claimed: not claimed.names(start, end))

    def owner_names(self, start: int, end: int) -> list[str]:
        """The distinct owners, by the first part of their names."""
        return list(dict.fromkeys(top_owner(one.claim.owner) for one in self.owners(start, end)))


@dataclass(frozen=True, slots=True)
class Claimed:
    """One piece of one claim."""

    claim: Claim
    piece: int

    def names(self, start: int, end: int) -> bool:
        """Whether the piece itself, not only its block, has any of these page frames."""
        claim = self.claim
        return bool(claim.starts[self.piece] < end and start < claim.ends[self.piece])

    def chain(self, paddr: PhysAddr, page_shift: int) -> str:
        """``LUO / session vm-alpha / file 0x1001 / folio 17, file offset 0x11000``."""
        claim = self.claim
        number = f" {self.piece}" if claim.pieces > 1 or claim.file_index is not None else ""
        name = f"{claim.owner} / {claim.what}{number}"
        offset = self.file_offset(paddr, page_shift)
        return name if offset is None else f"{name}, file offset {offset:#x}"

    def file_offset(self, paddr: PhysAddr, page_shift: int) -> int | None:
        """Where in the file the byte at ``paddr`` belongs, for file content."""
        claim = self.claim
        if claim.file_index is None:
            return None
        start = int(claim.starts[self.piece]) << page_shift
        return (int(claim.file_index[self.piece]) << page_shift) + paddr - start


def top_owner(name: str) -> str:
    """``LUO / session vm-alpha / file 0x1001`` → ``LUO``."""
    return name.split(" / ", 1)[0]
