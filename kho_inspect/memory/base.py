"""The protocol of every source of physical memory."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kho_inspect.errors import (
    ExcludedMemoryError,
    MissingMemoryError,
    NotStoredMemoryError,
    OutsideMemoryError,
)
from kho_inspect.units import Extent, PhysAddr, human_size

PAGE = 4096
"""Of all sizes of pages that a dump may be damaged by, the smallest."""


class Presence(StrEnum):
    """What is known of a range of physical memory."""

    STORED = "stored"
    NOT_STORED = "not stored"
    """The machine has this memory; the dump does not hold its bytes."""
    EXCLUDED = "excluded"
    """The machine has this memory; its writer left it out (zero, cache, user pages)."""
    OUTSIDE = "outside"
    """The dump declares no memory there."""


_ERRORS: dict[Presence, type[MissingMemoryError]] = {
    Presence.NOT_STORED: NotStoredMemoryError,
    Presence.EXCLUDED: ExcludedMemoryError,
    Presence.OUTSIDE: OutsideMemoryError,
}


def missing_memory(
    presence: Presence, paddr: PhysAddr, size: int, path: str, why: str = ""
) -> MissingMemoryError:
    """The error for a range that cannot be given; ``why`` where there is more to say."""
    return _ERRORS[presence](
        f"{human_size(size)} at {paddr:#x}: {presence} in {path}{why and f': {why}'}",
        paddr=paddr,
        size=size,
        source=path,
    )


def read_or_none(memory: PhysicalMemory, paddr: PhysAddr, size: int) -> memoryview | None:
    """What :meth:`PhysicalMemory.read` gives; None where it raises."""
    try:
        return memory.read(paddr, size)
    except MissingMemoryError:
        return None


def read_parts(
    memory: PhysicalMemory, paddr: PhysAddr, size: int
) -> Iterator[tuple[Extent, memoryview | None]]:
    """A range in one piece, or page by page where a part of it (None) cannot be given."""
    data = read_or_none(memory, paddr, size)
    if data is not None:
        yield Extent(paddr, paddr + size), data
        return
    end = paddr + size
    while paddr < end:
        stop = min(end, paddr + PAGE - paddr % PAGE)
        yield Extent(paddr, stop), read_or_none(memory, paddr, stop - paddr)
        paddr = stop


class PhysicalMemory(Protocol):
    """Read-only physical memory out of a file."""

    path: str
    """The file, as the user named it."""
    format: str
    """Name of the format: a key of ``memory.FORMATS``, and what it came in: ``raw (xz)``."""
    size: int
    """File size in bytes, unpacked."""
    stored: tuple[Extent, ...]
    """Merged extents whose bytes are in the file."""
    declared: tuple[Extent, ...]
    """Merged extents that exist on the machine, a superset of :attr:`stored`."""
    notes: tuple[str, ...]
    """Defects of the file itself (truncated, say), for people."""

    def presence(self, paddr: PhysAddr, size: int = 1) -> Presence:
        """The worst answer for any byte of the range."""

    def read(self, paddr: PhysAddr, size: int) -> memoryview:
        """``size`` bytes at ``paddr``.

        Raises OutsideMemoryError or NotStoredMemoryError when any byte cannot be given.
        """

    def stored_mask(self, paddrs: NDArray[np.uint64], size: int) -> NDArray[np.bool_]:
        """For each address of shape ``(n,)``: whether ``size`` bytes from it are stored."""

    def gather(self, paddrs: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any]:
        """One ``dtype`` item from each address of shape ``(n,)``.

        Raises as :meth:`read` does; ask :meth:`stored_mask` first.
        """

    def data_chunks(self, size: int, overlap: int) -> Iterator[tuple[PhysAddr, memoryview]]:
        """All stored memory in pieces of at most ``size + overlap`` bytes, for scanning.

        Neighbouring pieces share ``overlap`` bytes. Holes of a sparse file are passed over.
        """
