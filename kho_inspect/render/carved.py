"""What was carved, for programs and on the console."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kho_inspect.model.contents import Document, Item
from kho_inspect.model.identity import ClaimKind
from kho_inspect.render.names import item_name, message_text
from kho_inspect.units import human_size, plural

if TYPE_CHECKING:
    from rich.console import Console

    from kho_inspect.model.carved import Carving

MAX_LISTED = 200
MAX_SHOWN = 12
"""Kinds of doubts that are shown."""
_CHUNK = ClaimKind.FOLIO_TABLE_CHUNK


def carved_members(item: Item, doubts: Sequence[str] = ()) -> Document:
    """Whether an item was carved, and then its trust and where it comes from; and all doubts.

    ``doubts``: those about the whole dump.
    """
    origin = item.provenance
    if origin is None:
        return {"carved": False, "doubts": [*doubts]}
    return {
        "carved": True,
        "trust": origin.trust.value,
        "provenance": [
            {"structure": one.kind.value, "paddr": hex(one.paddr)} for one in origin.structures
        ],
        "doubts": [*doubts, *(message_text(doubt.message) for doubt in origin.doubts)],
    }


def print_carving(console: Console, path: str, carving: Carving, items: Sequence[Item]) -> None:
    """One row per item, the doubts, and what did not read as what it begins like."""
    from rich.text import Text

    from kho_inspect.render.console import most, plain, table

    if not items:
        console.print(plain(f"nothing in {path} reads as part of a handover", "bold red"))
    else:
        made = table("carved", "size", "trust", "at", right=("size", "at"))
        for item in (listed := most(items, MAX_LISTED)):
            assert item.provenance is not None
            made.add_row(
                plain(item_name(item.name, item.number)),
                human_size(item.size),
                plain(item.provenance.trust.value),
                plain(_place(item)),
            )
        console.print(made)
        if left := len(items) - len(listed):
            console.print(Text(f"… {plural(left, 'more item')}: --json lists them", "dim"))
    doubts = Counter(
        message_text(doubt.message)
        for item in items
        if item.provenance is not None
        for doubt in item.provenance.doubts
    )
    _print_counts(console, "doubts", doubts)
    _print_counts(console, "read as none", Counter(carving.rejected))
    if carving.passed_over:
        words = "places more were not looked at: more than any undamaged dump has"
        console.print(plain(f"{carving.passed_over:,} {words}"))
    console.print(plain(f"page size  {carving.page_size_reason}", "dim"))


def _place(item: Item) -> str:
    """Its descriptor, or the blob that describes it."""
    assert item.provenance is not None
    structures = [one for one in item.provenance.structures if one.kind is not _CHUNK]
    return hex(structures[-1].paddr)


def _print_counts(console: Console, name: str, counts: Counter[str]) -> None:
    from kho_inspect.render.console import grid, most, plain

    listed = most(counts.most_common(), MAX_SHOWN)
    rows = [
        (name if number == 0 else "", plain(f"{count:,} × {words}"))
        for number, (words, count) in enumerate(listed)
    ]
    if left := len(counts) - len(listed):
        rows.append(("", plain(f"… {left:,} more: --json lists them", "dim")))
    if rows:
        console.print(grid(rows))
