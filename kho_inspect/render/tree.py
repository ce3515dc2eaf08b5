"""The radix tree as text: folded to one line per leaf, or every node on its own line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kho_inspect.model.map import RadixTree
from kho_inspect.units import Extent, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.tree import Tree

    from kho_inspect.model.handover import Handover
    from kho_inspect.model.map import TreeLevel

MAX_CHILDREN = 16
"""Children of one node that the folded tree lists."""


class TreeView:
    """Access to a radix tree node by node; a node is ``(level number, index)``."""

    def __init__(self, handover: Handover, tree: RadixTree) -> None:
        self.handover = handover
        self.geometry = handover.geometry
        self.tree = tree
        self.levels: dict[int, TreeLevel] = {level.level: level for level in self.tree.levels}

    def root_line(self) -> str:
        """The root node in words."""
        if not self.tree.levels:
            return f"root {self.tree.root:#x} could not be read"
        top = self.tree.levels[0]
        used = plural(int(top.used[0]), "entry", "entries")
        return f"root {self.tree.root:#x} · L{top.level} · {used}"

    def children(self, level: int, index: int) -> range:
        """Indices, at ``level - 1``, of a node's readable children."""
        import numpy as np

        below = self.levels.get(level - 1)
        if below is None:
            return range(0)
        low = int(self.levels[level].key[index])
        high = low + (1 << self.geometry.level_shift(level + 1))
        bounds = np.searchsorted(below.key, [low, high])
        return range(int(bounds[0]), int(bounds[1]))

    def step(self, level: int, index: int) -> str:
        """``[16]``: the parent's entry that leads to a node."""
        return f"[{self.geometry.index(int(self.levels[level].key[index]), level + 1)}]"

    def node_line(self, level: int, index: int) -> str:
        """One node in words."""
        node = self.levels[level]
        paddr, used = int(node.paddr[index]), int(node.used[index])
        if level:
            return f"L{level} {paddr:#x} · {plural(used, 'entry', 'entries')}"
        return f"leaf {paddr:#x} · {self._leaf_content(int(node.key[index]), used)}"

    def _leaf_content(self, key: int, used: int) -> str:
        import numpy as np

        if not used:
            return "empty"
        if not key:
            return f"{plural(used, 'block')} of the highest orders"
        try:
            paddr, order = self.geometry.decode(key)
        except ValueError:
            return f"{plural(used, 'key')} above the order-0 bit"
        shift = self.geometry.shift
        starts, ends = self.handover.preserved.runs[order]
        low = paddr >> shift
        high = low + (1 << (self.geometry.bitmap_bits + order))
        first = max(low, int(starts[np.searchsorted(ends, low, side="right")]))
        last = min(high, int(ends[np.searchsorted(starts, high) - 1]))
        return f"{used:,} × order {order} · {Extent(first << shift, last << shift)}"


def folded_tree(handover: Handover) -> Tree:
    """A Rich tree in which nodes with a single child share a line."""
    from kho_inspect.render.chunk_list import chunk_tree

    if isinstance(handover.tree, RadixTree):
        return _folded_radix(TreeView(handover, handover.tree))
    assert handover.tree is not None
    return chunk_tree(handover.tree, handover.geometry)


def full_tree(handover: Handover) -> Iterator[str]:
    """Every node on its own line, indented by its depth."""
    from kho_inspect.render.chunk_list import chunk_lines

    if isinstance(handover.tree, RadixTree):
        return _full_radix(TreeView(handover, handover.tree))
    assert handover.tree is not None
    return chunk_lines(handover.tree, handover.geometry)


def map_words(handover: Handover) -> str:
    """The map in a few words."""
    from kho_inspect.render.chunk_list import chunk_words

    tree = handover.tree
    if isinstance(tree, RadixTree):
        leaves = plural(tree.leaves, "leaf", "leaves")
        nodes = f"{plural(tree.nodes, 'node')}, {leaves} of them"
        return f"{nodes} · {tree.depth} levels · root {tree.root:#x}"
    return "none" if tree is None else chunk_words(tree, handover.geometry)


def _folded_radix(view: TreeView) -> Tree:
    from rich.tree import Tree

    from kho_inspect.render.console import plain

    root = Tree(plain(view.root_line()), guide_style="dim")

    def grow(branch: Tree, level: int, index: int) -> None:
        children = view.children(level, index)
        for child in children[:MAX_CHILDREN]:
            steps, at_level, at = view.step(level - 1, child), level - 1, child
            while at_level and len(below := view.children(at_level, at)) == 1:
                at_level, at = at_level - 1, below[0]
                steps += f" → {view.step(at_level, at)}"
            twig = branch.add(plain(f"{steps} {view.node_line(at_level, at)}"))
            if at_level:
                grow(twig, at_level, at)
        if len(children) > MAX_CHILDREN:
            branch.add(plain(f"… {len(children) - MAX_CHILDREN:,} more: --full", "dim"))

    if view.tree.levels:
        grow(root, view.tree.levels[0].level, 0)
    return root


def _full_radix(view: TreeView) -> Iterator[str]:
    yield view.root_line()
    if not view.tree.levels:
        return
    top = view.tree.levels[0].level
    pending = [(top - 1, index) for index in reversed(view.children(top, 0))]
    while pending:
        level, index = pending.pop()
        indent = "  " * (top - level)
        yield f"{indent}{view.step(level, index)} {view.node_line(level, index)}"
        if level:
            pending.extend((level - 1, child) for child in reversed(view.children(level, index)))
