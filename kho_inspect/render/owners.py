"""Who owns what, on the console."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from rich.text import Text

from kho_inspect.ownership.index import OwnerIndex, top_owner
from kho_inspect.render.console import heading, plain, table
from kho_inspect.units import human_size

if TYPE_CHECKING:
    from rich.console import Console

    from kho_inspect.intervals import Intervals
    from kho_inspect.model.handover import Handover

MAX_OWNERS = 200
MAX_LISTED = 20
"""Ranges of each kind of trouble that are listed; ``--json`` has them all."""

_TROUBLE = {
    "orphan": "preserved, but nothing that was decoded points to it",
    "dangling": "claimed, but not preserved: the next kernel will overwrite it",
    "shared": "claimed by more than one owner",
}


def overview(handover: Handover) -> Text:
    """``100 %  LUO 288 KiB · kho_test 92 KiB``, and what is wrong."""
    ownership = handover.ownership
    total = ownership.size(handover.preserved.merged)
    sums: Counter[str] = Counter()
    for owner in ownership.owners:
        sums[top_owner(owner.name)] += owner.bytes
    owned = ownership.size(ownership.owned)
    share = "100 %" if owned == total else f"{100 * owned / total:.1f} %"
    names = " · ".join(f"{name} {human_size(size)}" for name, size in sums.most_common(8) if size)
    text = plain(f"{share}  {names}" if total else "nothing is preserved")
    for name, pages in _troubles(handover).items():
        if len(pages[0]):
            text.append(f" · {human_size(ownership.size(pages))} {name}", "bold yellow")
    return text


def _troubles(handover: Handover) -> dict[str, Intervals]:
    ownership = handover.ownership
    return {
        "orphan": ownership.orphans,
        "dangling": ownership.dangling,
        "shared": ownership.shared,
    }


def print_owners(console: Console, handover: Handover) -> None:
    """The table by owner, then orphan, dangling and shared memory by range."""
    ownership = handover.ownership
    made = table("owner", "bytes", "blocks", right=("bytes", "blocks"))
    for owner in ownership.owners[:MAX_OWNERS]:
        made.add_row(plain(owner.name), human_size(owner.bytes), f"{owner.blocks:,}")
    console.print(made)
    if len(ownership.owners) > MAX_OWNERS:
        left = len(ownership.owners) - MAX_OWNERS
        console.print(Text(f"… {left:,} more owners: --json lists them all", "dim"))
    console.print(Text.assemble("preserved: ", overview(handover)))
    index = None
    for name, pages in _troubles(handover).items():
        if not len(pages[0]):
            continue
        index = index or OwnerIndex(handover.preserved, handover.claims)
        heading(console, f"{name.capitalize()}: {_TROUBLE[name]}")
        for extent in islice(ownership.extents(pages), MAX_LISTED):
            shift = ownership.page_shift
            found = index.owners(extent.start >> shift, extent.end >> shift)
            chains = [one.chain(extent.start, shift) for one in found[:2]]
            who = f"  {'; '.join(chains)}{' …' if len(found) > 2 else ''}" if chains else ""
            console.print(plain(f"  {extent}  {human_size(extent.size)}{who}"))
        if len(pages[0]) > MAX_LISTED:
            left = len(pages[0]) - MAX_LISTED
            console.print(Text(f"  … {left:,} more ranges: --json lists them all", "dim"))
