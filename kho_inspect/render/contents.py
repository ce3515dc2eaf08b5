"""Decoded blobs on the console, as each describes itself in rows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from kho_inspect.model.contents import Content, Row
from kho_inspect.model.fd_names import FdNames
from kho_inspect.render.console import plain, table
from kho_inspect.render.names import with_given

MAX_ROWS = 200
"""Rows of one blob that are listed; ``--json`` has them all."""


def content_view(name: str, content: Content, names: FdNames) -> RenderableType:
    """A line with the blob's name, and below it an outline or a table."""
    shown = content.rows()
    head = Text.assemble(plain(name, "bold"), "  ", plain(shown.heading))
    rows = shown.rows[:MAX_ROWS]
    cut = len(rows) < len(shown.rows)
    more = [plain(f"… more: blobs {name} --json lists them all", "dim")] if cut else []
    if not shown.columns:
        return _outline(head, rows, more, names)
    made = table(*shown.columns, right=shown.right)
    for row in rows:
        made.add_row(*map(plain, row.cells))
    return Group(head, made, *more)


def _outline(head: Text, rows: Sequence[Row], more: Sequence[Text], names: FdNames) -> Tree:
    top = Tree(head, guide_style="dim")
    branches = [top]
    for row in rows:
        del branches[row.depth + 1 :]
        branches.append(branches[-1].add(_line(row, names)))
    for text in more:
        top.add(text)
    return top


def _line(row: Row, names: FdNames) -> Text:
    """``session vm-alpha  2 files``: a label, the name in bold, and words."""
    label, name, words = row.cells
    words = with_given(words, names, row.owner)
    if not label:
        return plain(words)
    return Text.assemble(plain(f"{label} "), plain(name, "bold"), plain(f"  {words}"))
