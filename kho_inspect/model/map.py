"""What a radix tree and a list of chunks have in common as preserved-memory maps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kho_inspect.intervals import Intervals
from kho_inspect.model.contents import Document
from kho_inspect.model.identity import Path
from kho_inspect.model.preserved import Block, Preserved
from kho_inspect.units import PhysAddr

MAX_LISTED = 16
"""Children of one node, or bitmaps of one chunk, that the folded outline lists."""


class MapNodes(NamedTuple):
    """Nodes of one kind in the preserved-memory map."""

    what: str
    paddr: NDArray[np.uint64]
    path: Callable[[int], Path]
    """Path of the node with that index."""
    level: int | None = None
    """In a radix tree: 0 for leaves."""


class Line(NamedTuple):
    """One line of an outline."""

    depth: int
    words: str
    left_out: int = 0
    """Nodes that the line stands for, which are not listed."""


class Entry(NamedTuple):
    """Where the map records a block, or would."""

    kind: str
    """The array of a document that lists entries of this kind."""
    rows: tuple[tuple[str, str], ...]
    """Labels and words, step by step."""
    data: Document | str
    """The same for programs."""


WordReader: TypeAlias = Callable[[PhysAddr], int]
"""Reads one word of a node; raises MissingMemoryError."""


@dataclass(frozen=True, slots=True)
class PreservedMap:
    """The map as far as it could be read."""

    root: PhysAddr
    """Where it begins."""
    depth: int
    """Levels: what the ABI and page size give for a tree, two (chunks and bitmaps) for a list."""
    pointers: int
    """Non-zero pointers read, good and bad."""
    lost: Intervals
    """Page frames that parts which could not be read may have recorded, merged."""

    @property
    def readable(self) -> bool:
        """Whether at least its first node could be read."""
        return self.nodes > 0

    @property
    def nodes(self) -> int:
        """Nodes read: of a tree with its leaves, of a list chunks and bitmaps."""
        raise NotImplementedError

    @property
    def leaves(self) -> int:
        """Leaves read; a list has none."""
        return 0

    def summary(self) -> str:
        """The map in a few words."""
        raise NotImplementedError

    def groups(self) -> Iterator[MapNodes]:
        """The memory that the map itself stands in, kind by kind."""
        raise NotImplementedError

    def documents(self) -> Iterator[Document]:
        """Every node as data, from the first one."""
        raise NotImplementedError

    def outline(self, preserved: Preserved, *, full: bool, cap: int = MAX_LISTED) -> Iterator[Line]:
        """The map as lines, the root's first: every node, or with chains and long lists folded."""
        raise NotImplementedError

    def find(self, read: WordReader, page: PhysAddr, blocks: tuple[Block, ...]) -> Iterator[Entry]:
        """Where it records the blocks; without any, where the way to that page ends."""
        raise NotImplementedError
