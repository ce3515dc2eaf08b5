"""The Rich console: no markup, no guessing, colour only where it is wanted."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from kho_inspect.render.safe import safe

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, JustifyMethod, RenderableType
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
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Fold text before Rich does, which breaks long words anywhere."""
        width = (options or self.options).max_width
        if isinstance(renderable, Text) and width < ENDLESS >> 1:
            renderable = folded(renderable, width)
        return super().render(renderable, options)

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


def folded(text: Text, width: int) -> Text:
    """``text`` in lines of ``width`` columns; in words that are longer, behind a slash if any."""
    if cell_len(text.plain) <= width:
        return text
    return Text("\n", end=text.end).join(
        line for whole in text.split(allow_blank=True) for line in _lines(whole, width)
    )


def folded_lines(pieces: Iterable[str]) -> Iterator[str]:
    """Plain lines, any number in each string, folded to the width of the terminal if there is one.

    Of what is folded, tabs become blanks.
    """
    width = make_console().width
    for line in chain.from_iterable(piece.splitlines(keepends=True) for piece in pieces):
        if width < ENDLESS and cell_len(spaced := line.rstrip("\n").expandtabs()) > width:
            line = f"{folded(Text(spaced), width).plain}\n"
        yield line


def _lines(text: Text, width: int) -> Iterator[Text]:
    begun = 0
    for word in _WORD.finditer(text.plain):
        parts = _PART.finditer(text.plain, *word.span()) if cell_len(word[0]) > width else (word,)
        for part in parts:
            if (
                cell_len(text.plain[begun : part.end()]) > width
                and text.plain[begun : part.start()]
            ):
                line = text[begun : part.start()]
                line.rstrip()
                yield line
                begun = part.start()
    yield text[begun:]


def cropped(text: Text, width: int) -> Text:
    """``text`` cut to one line of ``width`` columns; of an address there is all or nothing."""
    if cell_len(text.plain) <= width:
        return text
    text = text.copy()
    text.truncate(width - 1)
    cut = _ADDRESS_AT_END.search(text.plain)
    return text[: cut.start() if cut else None].append("…")


class Columns:
    """A table in the house style; on a narrow terminal, an outline of its rows.

    Elsewhere than on a terminal, fields separated by tabs.
    """

    def __init__(self, names: Sequence[str], right: Sequence[str]) -> None:
        self.names, self.right = names, right
        self.rows: list[tuple[str | Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        """One row, with a cell for each name."""
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        if options.max_width < ENDLESS >> 1:
            widths = self._widths(options.max_width)
            yield from [self._table(widths)] if widths else self._outline()
            return
        for row in (self.names, *self.rows):
            yield from _line("\t", [cell or "-" for cell in row])

    def _widths(self, room: int) -> list[int]:
        """Of each column, in ``room``; none where an address, a number or a word would break."""
        rows = ([Text.assemble(cell).plain for cell in row] for row in (self.names, *self.rows))
        widest, least = [], []
        for name, cells in zip(self.names, zip(*rows, strict=True), strict=True):
            widest.append(max(map(cell_len, cells)))
            units = [unit for cell in cells for unit in _PART.findall(cell)]
            whole = max((cell_len(unit) for unit in units if "0x" in unit), default=0)
            words = min(max(map(cell_len, units), default=0), MAX_WORD)
            least.append(widest[-1] if name in self.right else max(whole, words))
        room -= 3 * len(least) - 1 + sum(least)
        if room < 0:
            return []
        for at in sorted(range(len(least)), key=lambda at: widest[at] - least[at]):
            more = min(widest[at] - least[at], room)
            least[at], room = least[at] + more, room - more
        return least

    def _outline(self) -> Iterator[Any]:
        from rich.padding import Padding

        for number, (first, *rest) in enumerate((self.names, *self.rows)):
            style = "" if number else "bold"
            yield Text.assemble(first, style=style)
            cells = (Text.assemble(cell, style=style) for cell in rest if cell)
            yield Padding(Text("  ").join(cells), (0, 0, 0, 4), expand=False)

    def _table(self, widths: Sequence[int]) -> Table:
        from rich import box
        from rich.padding import Padding
        from rich.table import Table  # a sound handover is judged without one

        def spaced(row: Sequence[str | Text]) -> list[RenderableType]:
            # What the table's own padding adds to a column's width depends on Rich's version.
            return [row[0], *(Padding(cell, (0, 0, 0, 2)) for cell in row[1:])]

        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
        for at, (name, header) in enumerate(zip(self.names, spaced(self.names), strict=True)):
            justify: JustifyMethod = "right" if name in self.right else "left"
            width = widths[at] + 2 * bool(at)
            made.add_column(header, justify=justify, overflow="fold", width=width)
        for row in self.rows:
            made.add_row(*spaced(row))
        return made


MAX_WORD = 16
"""Columns of a longer word in a table, which may break."""
_WORD = re.compile(r"\S+")
_PART = re.compile(r"(?:[^\s/-]|-(?!0x))+(?:/+|-(?=0x))?|/+|-")
"""Of a word: up to a slash, or to the end of a range."""
_ADDRESS_AT_END = re.compile(r"\b0x[0-9a-f]+-\Z|(?:\b0x[0-9a-f]+-)?\b0(?:x[0-9a-f]*)?\Z")


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
