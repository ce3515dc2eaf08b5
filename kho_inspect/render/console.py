"""The Rich console: no markup, no guessing, colour only where it is wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from kho_inspect.render.safe import safe

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, JustifyMethod
    from rich.table import Table


ENDLESS = 1 << 24
"""Columns of what is no terminal: nothing is wrapped or cut."""
T = TypeVar("T", bound=Sequence[Any])


def is_endless() -> bool:
    """Whether stdout has no width: it is no terminal, and COLUMNS does not say that it is one."""
    return not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit()


def most(items: T, cap: int) -> T:
    """The first ``cap`` of them on a terminal, elsewhere all."""
    return items if is_endless() else cast("T", items[:cap])


def left_out(count: int, what: str, option: str) -> Text:
    """``… 12 more owners: --limit 0 shows them``"""
    return Text(f"… {count:,} more{' ' if what else ''}{what}: {option}", "dim")


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
        width=ENDLESS if is_endless() else None,
    )


def plain(text: str, style: str = "") -> Text:
    """Any text, from the dump or not, as literal and safe Rich text."""
    return Text(safe(text), style=style)


class Columns:
    """A table in the house style; elsewhere than on a terminal, fields separated by tabs."""

    def __init__(self, names: Sequence[str], right: Sequence[str]) -> None:
        self.names, self.right = names, right
        self.rows: list[tuple[str | Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        """One row, with a cell for each name."""
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        if options.max_width < ENDLESS >> 1:
            yield self._table()
            return
        for row in (self.names, *self.rows):
            yield from _line("\t", row)

    def _table(self) -> Table:
        from rich import box
        from rich.table import Table  # a sound handover is judged without one

        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        for name in self.names:
            justify: JustifyMethod = "right" if name in self.right else "left"
            made.add_column(name, justify=justify, overflow="fold", no_wrap=name in _WHOLE)
        for row in self.rows:
            made.add_row(*row)
        return made


_WHOLE = frozenset({"address", "start", "end", "at"})
"""Columns of addresses: none breaks in two."""


class Grid:
    """Names and values in two columns, without lines; elsewhere than on a terminal, a line each."""

    def __init__(self, rows: Sequence[tuple[str | Text, Text]], indent: int) -> None:
        self.rows, self.indent = rows, " " * indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        if options.max_width < ENDLESS >> 1:
            yield self._table()
            return
        for name, value in self.rows:
            yield Segment(self.indent)
            yield from _line(" ", [part for part in (name, value) if part])

    def _table(self) -> Table:
        from rich.table import Table

        made = Table.grid(padding=(0, 2 if not self.indent else 1), pad_edge=False)
        made.add_column(style="dim", no_wrap=True)
        made.add_column(overflow="fold")
        for name, value in self.rows:
            made.add_row(Text.assemble(self.indent, name), value)
        return made


def _line(separator: str, cells: Sequence[str | Text]) -> Iterator[Text | Segment]:
    for number, cell in enumerate(cells):
        if number:
            yield Segment(separator)  # of a tab, Text would make blanks
        yield Text.assemble(cell, end="")
    yield Segment.line()


def table(*columns: str, right: tuple[str, ...] = ()) -> Columns:
    """An empty table; the columns named in ``right`` are right-aligned."""
    return Columns(columns, right)


def grid(rows: Sequence[tuple[str | Text, Text]], indent: int = 0) -> Grid:
    """Names and values in two columns, without lines."""
    return Grid(rows, indent)


def heading(console: Console, text: str) -> None:
    """A section heading with a blank line above."""
    console.print()
    console.print(Text(text, style="bold"))
