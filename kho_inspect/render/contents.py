"""Decoded blobs on the console, as each describes itself in rows."""

import sys
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from kho_inspect.model.contents import Content, Row
from kho_inspect.model.fd_names import FdNames
from kho_inspect.render.console import is_endless, left_out, most, plain, table
from kho_inspect.render.names import with_given

MAX_ROWS = 200
"""Rows of one blob that are listed; ``--json`` has them all."""


def content_view(name: str, content: Content, names: FdNames) -> RenderableType:
    """A line with the blob's name, and below it an outline or a table."""
    shown = content.rows()
    head = Text.assemble(plain(name, "bold"), "  ", plain(shown.heading))
    if not shown.columns:
        return _outline(head, shown.rows, names)
    rows = most(shown.rows, MAX_ROWS)
    left = len(shown.rows) - len(rows)
    more = [left_out(left, "", "--json lists them all")] if left else []
    made = table(*shown.columns, right=shown.right)
    for row in rows:
        made.add_row(*map(plain, row.cells))
    return Group(head, made, *more)


def _outline(head: Text, rows: Sequence[Row], names: FdNames) -> Tree:
    """A branch that is cut says so itself, as does the tree where whole branches are left out."""
    top = Tree(head, guide_style="dim")
    groups: list[list[Row]] = []
    for row in rows:
        if not row.depth:
            groups.append([])
        groups[-1].append(row)
    room = sys.maxsize if is_endless() else MAX_ROWS
    for number, (first, *below) in enumerate(groups):
        if room <= 0:
            top.add(left_out(len(groups) - number, "", "a pipe or --json lists them all"))
            break
        branch = top.add(_line(first, names))
        room -= 1 + len(below)
        listed = below[: len(below) + min(room, 0)]
        for row in listed:
            branch.add(_line(row, names))
        if left := len(below) - len(listed):
            branch.add(left_out(left, "", "a pipe or --json lists them all"))
    return top


def _line(row: Row, names: FdNames) -> Text:
    """``session vm-alpha  2 files``: a label, the name in bold, and words."""
    label, name, words = row.cells
    words = with_given(words, names, row.owner)
    if not label:
        return plain(words)
    return Text.assemble(plain(f"{label} "), plain(name, "bold"), plain(f"  {words}"))
