"""Bytes on stdout, and what is lacking on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import click

from kho_inspect.errors import SelectorError
from kho_inspect.render.safe import safe

if TYPE_CHECKING:
    from kho_inspect.model.contents import Item
    from kho_inspect.recover.content import Gap

MAX_LINES = 20
"""Lines on what is lacking in one item."""
MAX_SURPLUS = 64 << 30
"""Bytes without content that are written: more of them belong in a sparse file."""


def binary_stdout(force: bool) -> BinaryIO:
    """stdout for bytes as they are. Raises click.UsageError for a terminal without ``force``."""
    if sys.stdout.isatty() and not force:
        raise click.UsageError("stdout is a terminal: redirect the bytes, or use --force")
    return sys.stdout.buffer


def require_bounded(size: int, stored: int) -> None:
    """Raises SelectorError for a stream whose zeros would have no end."""
    if size > 2 * stored + MAX_SURPLUS:
        raise SelectorError(
            f"{size:,} bytes, most of them holes, are too many for a stream",
            hint="read --length, or extract to a directory: its files are sparse",
        )


def complain(message: str) -> None:
    """One line on stderr."""
    click.echo(f"kho-inspect: {safe(message)}", err=True)


def report_gaps(item: Item, gaps: Sequence[Gap]) -> bool:
    """A line on stderr for each range that is lacking; whether there is any."""
    from kho_inspect.recover.content import is_lacking
    from kho_inspect.render.names import item_name
    from kho_inspect.units import Extent

    lacking = [gap for gap in gaps if is_lacking(gap, item)]
    name, base = f"{item_name(item.name, item.number)}, bytes ", 0
    if isinstance(item.name, Extent):
        name, base = "", item.name.start
    for gap in lacking[:MAX_LINES]:
        complain(f"{name}{Extent(base + gap['start'], base + gap['end'])}: {gap['why']}")
    if len(lacking) > MAX_LINES:
        complain(f"… {len(lacking) - MAX_LINES:,} more: --json, or manifest.json of extract -o DIR")
    return bool(lacking)
