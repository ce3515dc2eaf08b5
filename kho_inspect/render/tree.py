"""The preserved-memory map as text: folded, or every node on its own line."""

import sys
from collections.abc import Iterator

from rich.text import Text
from rich.tree import Tree

from kho_inspect.model.map import MAX_LISTED, Line, PreservedMap
from kho_inspect.model.preserved import Preserved
from kho_inspect.render.console import is_endless, plain


def folded_tree(preserved_map: PreservedMap, preserved: Preserved) -> Tree:
    """A Rich tree in which the map leaves out what is long."""
    lines = preserved_map.outline(
        preserved, full=False, cap=sys.maxsize if is_endless() else MAX_LISTED
    )
    top = Tree(_words(next(lines)), guide_style="dim")
    branches = [top]
    for line in lines:
        del branches[line.depth :]
        branches.append(branches[-1].add(_words(line)))
    return top


def _words(line: Line) -> Text:
    if line.left_out:
        return plain(f"… {line.left_out:,} more: tree --full", "dim")
    return plain(line.words)


def full_tree(preserved_map: PreservedMap, preserved: Preserved) -> Iterator[str]:
    """Every node on its own line, indented by its depth."""
    for line in preserved_map.outline(preserved, full=True):
        yield "  " * line.depth + line.words
