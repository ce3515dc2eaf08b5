"""The Rich console: no markup, no guessing, colour only where it is wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from kho_inspect.render.safe import safe

if TYPE_CHECKING:
    from rich.table import Table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave a closed pipe to the command line (Rich would exit 1: our code for findings)."""
        raise BrokenPipeError


def make_console(color: str = "auto") -> Console:
    """A console on stdout; ``color`` is auto, always or never.

    Rich reads NO_COLOR and FORCE_COLOR in part only, so they are read here.
    """
    wanted = color == "always" or (
        color == "auto"
        and sys.stdout.isatty()
        and "NO_COLOR" not in os.environ
        and os.environ.get("TERM") != "dumb"
    )
    return _Console(
        file=sys.stdout,
        color_system="standard" if wanted else None,
        force_terminal=wanted,
        no_color=not wanted,
        markup=False,
        highlight=False,
        emoji=False,
    )


def plain(text: str, style: str = "") -> Text:
    """Any text, from the dump or not, as literal and safe Rich text."""
    return Text(safe(text), style=style)


def table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """An empty table in the house style; the columns named in ``right`` are right-aligned."""
    from rich import box
    from rich.table import Table  # a sound handover is judged without one

    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
    )
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def grid(rows: Sequence[tuple[str | Text, Text]], indent: int = 0) -> Table:
    """Names and values in two columns, without lines."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2 if not indent else 1), pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(Text.assemble(" " * indent, name), value)
    return made


def heading(console: Console, text: str) -> None:
    """A section heading with a blank line above."""
    console.print()
    console.print(Text(text, style="bold"))
