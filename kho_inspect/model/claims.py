"""Who claims which memory, and the account of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kho_inspect.units import Extent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kho_inspect.intervals import I64, Intervals


class Claim(NamedTuple):
    """Memory that one structure stands in, or points to as its own: half-open page frame intervals.

    Most claims are one piece, and two numbers are a tenth of two arrays.
    """

    owner: str
    """``LUO / session vm-alpha / file 0x1001``"""
    what: str
    """``folio``, ``folio table``, ``session block`` …"""
    low: I64 | int
    high: I64 | int
    file_index: NDArray[np.uint64] | None = None
    """Page offset in the file of each piece, for what holds file content."""

    @property
    def pieces(self) -> int:
        """How many intervals there are."""
        return 1 if isinstance(self.low, int) else len(self.low)

    @property
    def starts(self) -> I64:
        """First page frame of each piece."""
        return _as_array(self.low)

    @property
    def ends(self) -> I64:
        """The page frame after each piece."""
        return _as_array(self.high)


def _as_array(value: I64 | int) -> I64:
    import numpy as np

    return np.array([value], dtype=np.int64) if isinstance(value, int) else value


@dataclass(frozen=True, slots=True)
class Owner:
    """What one owner claims of the preserved memory."""

    name: str
    bytes: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Ownership:
    """Preserved memory against the claims on it; merged intervals of page frames."""

    page_shift: int
    owners: tuple[Owner, ...]
    """In the order of their first claim."""
    owned: Intervals
    """Preserved and claimed."""
    orphans: Intervals
    """Preserved, claimed by nobody: a leak in the making, or an undecoded blob's."""
    dangling: Intervals
    """Claimed but not preserved: will be overwritten."""
    shared: Intervals
    """Claimed by more than one owner."""

    def size(self, pages: Intervals) -> int:
        """Bytes in a set of page frame intervals."""
        return int((pages[1] - pages[0]).sum()) << self.page_shift

    def extents(self, pages: Intervals) -> Iterator[Extent]:
        """A set of page frame intervals as byte extents."""
        from kho_inspect import intervals

        return intervals.extents(pages, self.page_shift)
