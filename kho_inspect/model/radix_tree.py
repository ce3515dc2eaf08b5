"""The preserved-memory map from kho-v2 on: a radix tree whose leaves are bitmaps of keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kho_inspect.errors import MissingMemoryError
from kho_inspect.geometry import PageGeometry
from kho_inspect.model.contents import Document
from kho_inspect.model.identity import Path, Step, StepKind
from kho_inspect.model.map import MAX_LISTED, Entry, Line, MapNodes, PreservedMap, WordReader
from kho_inspect.model.preserved import Block, Preserved
from kho_inspect.units import Extent, PhysAddr, plural


class TreeLevel(NamedTuple):
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
class NodeEntry:
    """One node on the way to a key's bit, and its entry for that key."""

    level: int
    paddr: PhysAddr
    index: int
    """Entry of the table, or bit of the leaf."""
    value: int
    """The entry's content; 0 or 1 in a leaf."""


@dataclass(frozen=True, slots=True)
class RadixTree(PreservedMap):
    """The preserved-memory radix tree, as far as it could be read."""

    geometry: PageGeometry
    levels: tuple[TreeLevel, ...]
    """From the root level down; levels that were never reached are absent."""

    @property
    def nodes(self) -> int:
        return sum(len(level) for level in self.levels)

    @property
    def leaves(self) -> int:
        return sum(len(level) for level in self.levels if level.level == 0)

    def summary(self) -> str:
        leaves = plural(self.leaves, "leaf", "leaves")
        nodes = f"{plural(self.nodes, 'node')}, {leaves} of them"
        return f"{nodes} · {self.depth} levels · root {self.root:#x}"

    def groups(self) -> Iterator[MapNodes]:
        for level in self.levels:
            what = f"tree node (level {level.level})"
            yield MapNodes(what, level.paddr, partial(self._path, level), level.level)

    def _path(self, level: TreeLevel, at: int) -> Path:
        return node_path(self.geometry, int(level.key[at]), level.level)

    def documents(self) -> Iterator[Document]:
        for level in self.levels:
            for at, (paddr, used) in enumerate(
                zip(level.paddr.tolist(), level.used.tolist(), strict=True)
            ):
                path = self._path(level, at)
                yield {"level": level.level, "paddr": hex(paddr), "path": path, "used": used}

    def find(self, read: WordReader, page: PhysAddr, blocks: tuple[Block, ...]) -> Iterator[Entry]:
        wanted = [(block.paddr, block.order) for block in blocks] or [(page, 0)]
        for start, order in wanted:
            key = self.geometry.encode(start, order)
            steps = look_up(read, self.geometry, self.root, key)
            reached = steps[-1].level if steps else self.depth - 1
            listed = [
                {
                    "level": one.level,
                    "node": hex(one.paddr),
                    "index": one.index,
                    "value": hex(one.value),
                }
                for one in steps
            ]
            path = entry_path(self.geometry, key, reached)
            data = {"key": hex(key), "order": order, "path": path, "steps": listed}
            yield Entry("paths", tuple(self._rows(key, order, steps)), data)

    def _rows(self, key: int, order: int, steps: list[NodeEntry]) -> Iterator[tuple[str, str]]:
        """The key, then each node on the way to its bit."""
        yield "key", f"{key:#x} (order {order})"
        for step in steps:
            if step.level:
                name = "root" if step.level == self.depth - 1 else f"L{step.level}"
                target = f"→ {step.value:#x}" if step.value else "is 0: no such block is preserved"
                yield name, f"{step.paddr:#x} [{step.index}] {target}"
            else:
                state = "set" if step.value else "clear"
                yield "leaf", f"{step.paddr:#x} bit {step.index} {state}"
        if steps and steps[-1].level and steps[-1].value:
            yield "", "the path breaks off here: that node cannot be read"

    def outline(self, preserved: Preserved, *, full: bool, cap: int = MAX_LISTED) -> Iterator[Line]:
        """Folded, nodes with a single child share a line."""
        if not self.levels:
            yield Line(0, f"root {self.root:#x} could not be read")
            return
        top = self.levels[0]
        used = plural(int(top.used[0]), "entry", "entries")
        yield Line(0, f"root {self.root:#x} · L{top.level} · {used}")
        yield from _View(self.geometry, self.levels, preserved).below(0, 0, 1, full, cap)


class _View(NamedTuple):
    """Access to a radix tree node by node; a node is its place in ``levels`` and an index there."""

    geometry: PageGeometry
    levels: tuple[TreeLevel, ...]
    preserved: Preserved

    def below(self, row: int, index: int, depth: int, full: bool, cap: int) -> Iterator[Line]:
        """The lines of everything under a node, depth first."""
        children = self.children(row, index)
        listed = children if full else children[:cap]
        for child in listed:
            at, steps = (row + 1, child), self.step(row + 1, child)
            while not full and len(only := self.children(*at)) == 1:
                at = at[0] + 1, only[0]
                steps += f" → {self.step(*at)}"
            yield Line(depth, f"{steps} {self.words(*at)}")
            yield from self.below(*at, depth + 1, full, cap)
        if left_out := len(children) - len(listed):
            yield Line(depth, "", left_out)

    def children(self, row: int, index: int) -> range:
        """Indices, one level down, of a node's readable children."""
        if row + 1 >= len(self.levels):
            return range(0)
        level = self.levels[row]
        low = int(level.key[index])
        high = low + (1 << self.geometry.level_shift(level.level + 1))
        bounds = np.searchsorted(self.levels[row + 1].key, [low, high])
        return range(int(bounds[0]), int(bounds[1]))

    def step(self, row: int, index: int) -> str:
        """``[16]``: the parent's entry that leads to a node."""
        level = self.levels[row]
        return f"[{self.geometry.index(int(level.key[index]), level.level + 1)}]"

    def words(self, row: int, index: int) -> str:
        node = self.levels[row]
        paddr, used = int(node.paddr[index]), int(node.used[index])
        if node.level:
            return f"L{node.level} {paddr:#x} · {plural(used, 'entry', 'entries')}"
        return f"leaf {paddr:#x} · {self.leaf_words(int(node.key[index]), used)}"

    def leaf_words(self, key: int, used: int) -> str:
        if not used:
            return "empty"
        if not key:
            return f"{plural(used, 'block')} of the highest orders"
        try:
            paddr, order = self.geometry.decode(key)
        except ValueError:
            return f"{plural(used, 'key')} above the order-0 bit"
        shift = self.geometry.shift
        starts, ends = self.preserved.runs[order]
        low = paddr >> shift
        high = low + (1 << (self.geometry.bitmap_bits + order))
        first = max(low, int(starts[np.searchsorted(ends, low, side="right")]))
        last = min(high, int(ends[np.searchsorted(starts, high) - 1]))
        return f"{used:,} × order {order} · {Extent(first << shift, last << shift)}"


def look_up(read: WordReader, geometry: PageGeometry, root: PhysAddr, key: int) -> list[NodeEntry]:
    """The nodes on the way to ``key``, ending at the first zero entry or unreadable node."""
    steps: list[NodeEntry] = []
    word_size = geometry.page_size >> geometry.table_bits
    paddr = root
    for level in range(geometry.levels - 1, -1, -1):
        index = geometry.index(key, level)
        word = index >> 6 if level == 0 else index
        try:
            if paddr % geometry.page_size:
                break
            value = read(paddr + word * word_size)
        except MissingMemoryError:
            break
        if level == 0:
            value = value >> (index & 63) & 1
        steps.append(NodeEntry(level, paddr, index, value))
        if not value:
            break
        paddr = value
    return steps


def node_path(geometry: PageGeometry, key: int, level: int) -> Path:
    """The way from the root to ``key``'s node at ``level``: ``root[2] → L4[0] → L3``."""
    of = None if level == geometry.levels - 1 else level
    return *_entries(geometry, key, level + 1), Step(StepKind.TREE_NODE, of=of)


def entry_path(geometry: PageGeometry, key: int, level: int) -> Path:
    """The way from the root to ``key``'s entry in its node at ``level`` (0: the leaf's bit)."""
    if level:
        return _entries(geometry, key, level)
    return *_entries(geometry, key, 1), Step(StepKind.BIT, geometry.index(key, 0))


def _entries(geometry: PageGeometry, key: int, last: int) -> Path:
    """The entries of ``key`` in the tables from the root's level down to ``last``."""
    top = geometry.levels - 1
    return tuple(
        Step(StepKind.TABLE, geometry.index(key, level), None if level == top else level)
        for level in range(top, last - 1, -1)
    )
