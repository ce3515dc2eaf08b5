"""The protocol of every source of physical memory."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from kho_inspect.errors import (
    ExcludedMemoryError,
    MissingMemoryError,
    NotStoredMemoryError,
    OutsideMemoryError,
)
from kho_inspect.units import Extent, PhysAddr, human_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray


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


class PhysicalMemory(Protocol):
    """Read-only physical memory out of a file."""

    @property
    def path(self) -> str:
        """The file, as the user named it."""

    @property
    def format(self) -> str:
        """Name of the format: a key of ``memory.FORMATS``, and what it came in: ``raw (xz)``."""

    @property
    def size(self) -> int:
        """File size in bytes, unpacked."""

    @property
    def stored(self) -> tuple[Extent, ...]:
        """Merged extents whose bytes are in the file."""

    @property
    def declared(self) -> tuple[Extent, ...]:
        """Merged extents that exist on the machine, a superset of :attr:`stored`."""

    @property
    def notes(self) -> tuple[str, ...]:
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
