"""The preserved-memory map: a radix tree, or the chunk list of kho-v1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kho_inspect.units import PhysAddr

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kho_inspect.intervals import Intervals


@dataclass(frozen=True, slots=True)
class TreeLevel:
    """All readable nodes of one level, in key order; four arrays of shape ``(n,)``."""

    level: int
    paddr: NDArray[np.uint64]
    key: NDArray[np.int64]
    """Lowest key that the node covers."""
    used: NDArray[np.int64]
    """Non-zero entries (interior) or set bits (leaf)."""

    def __len__(self) -> int:
        return len(self.paddr)


@dataclass(frozen=True, slots=True)
class RadixTree:
    """The preserved-memory radix tree, as far as it could be read."""

    root: PhysAddr
    depth: int
    """Levels that the ABI and page size give."""
    levels: tuple[TreeLevel, ...]
    """From the root level down; levels that were never reached are absent."""
    pointers: int
    """Non-zero entries seen, good and bad."""
    lost: Intervals
    """Page frames that subtrees which could not be read may have recorded, merged."""

    @property
    def readable(self) -> bool:
        """Whether at least the root could be read."""
        return bool(self.levels)

    @property
    def nodes(self) -> int:
        """Nodes read, leaves included."""
        return sum(len(level) for level in self.levels)

    @property
    def leaves(self) -> int:
        """Leaves read."""
        return sum(len(level) for level in self.levels if level.level == 0)


@dataclass(frozen=True, slots=True)
class MapChunk:
    """One ``khoser_mem_chunk`` of a kho-v1 map; its elements are two arrays of shape ``(n,)``."""

    paddr: PhysAddr
    order: int
    num_elms: int
    """As written; elements that could not be read are not in the arrays."""
    phys_start: NDArray[np.uint64]
    bitmap: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class ChunkList:
    """The kho-v1 preserved-memory map, as far as it could be read."""

    root: PhysAddr
    chunks: tuple[MapChunk, ...]
    bitmap_size: int
    """Bytes: a page, or 512 (6.16, 6.17)."""
    pointers: int
    """Pointers seen, good and bad."""
    lost: Intervals
    """Page frames that bitmaps which could not be read may have recorded, merged."""

    @property
    def readable(self) -> bool:
        """Whether at least one chunk could be read."""
        return bool(self.chunks)

    @property
    def depth(self) -> int:
        """Chunks and bitmaps."""
        return 2

    @property
    def nodes(self) -> int:
        """Chunks and bitmaps read."""
        return len(self.chunks) + sum(len(chunk.bitmap) for chunk in self.chunks)

    @property
    def leaves(self) -> int:
        """A list has none."""
        return 0
