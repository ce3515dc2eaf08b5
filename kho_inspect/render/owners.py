"""Who owns what, on the console."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from rich.console import Console
from rich.text import Text

from kho_inspect.intervals import Intervals
from kho_inspect.model.claims import Hidden, Unclaimed
from kho_inspect.model.handover import Handover
from kho_inspect.model.identity import Owner
from kho_inspect.render.console import heading, is_endless, left_out, most, plain, table
from kho_inspect.render.names import message_text, owner_name, path_name, place_name, with_given
from kho_inspect.units import human_size

MAX_OWNERS = 200
MAX_SUMS = 8
"""Owners in the last line, each with all below it."""
MAX_LISTED = 20
"""Ranges of each kind of trouble that are listed; ``--json`` has them all."""
MAX_CLAIMANTS = 2
"""Owners of such a range that are named."""
MAX_REASONS = 8
"""Reasons why memory is unattributed rather than orphan that are listed."""

_TROUBLE = {
    Unclaimed.ORPHAN.value: "preserved, but nothing points to it",
    Unclaimed.UNATTRIBUTED.value: "preserved, may be owned by what was not followed",
    "dangling": "claimed, but not preserved: the next kernel will overwrite it",
    "shared": "claimed by more than one owner",
}


def overview(handover: Handover, cap: int | None, option: str) -> Text:
    """``100 %  LUO 288 KiB · kho_test 92 KiB``, and what is wrong; ``option`` shows all owners."""
    ownership = handover.ownership
    total = ownership.size(handover.preserved.merged)
    sums = Counter(ownership.top_shares())
    owned = ownership.size(ownership.owned)
    share = "100 %" if owned == total else f"{100 * owned / total:.1f} %"
    named = [
        f"{owner_name(owner)} {human_size(size)}" for owner, size in sums.most_common() if size
    ]
    listed = named if cap is None else most(named, cap)
    left = [f"{len(named) - len(listed):,} more: {option}"] if len(named) > len(listed) else []
    names = " · ".join([*listed, *left])
    none = "nothing is preserved" if handover.fdt.reads_map else "what is preserved is not known"
    text = plain(f"{share}  {names}" if total else none)
    for name, pages in _troubles(handover).items():
        if len(pages[0]):
            text.append(f" · {human_size(ownership.size(pages))} {name}", "bold yellow")
    return text


def _troubles(handover: Handover) -> dict[str, Intervals]:
    ownership = handover.ownership
    return {
        handover.unclaimed.value: ownership.unclaimed,
        "dangling": ownership.dangling,
        "shared": ownership.shared,
    }


def _shares(handover: Handover, sort: str | None, depth: int | None) -> list[tuple[str, int, int]]:
    """Name, bytes and blocks of each owner; of the first ``depth`` parts of names, the sums."""
    sums: dict[Owner, tuple[int, int]] = {}
    parts = None if depth is None else depth - 1
    for share in handover.ownership.shares:
        owner = Owner(share.owner.subsystem, share.owner.parts[:parts])
        size, blocks = sums.get(owner, (0, 0))
        sums[owner] = size + share.bytes, blocks + share.blocks
    rows = [
        (with_given(owner_name(owner), handover.names, owner), *sizes)
        for owner, sizes in sums.items()
    ]
    if sort == "name":
        rows.sort()
    elif sort:
        rows.sort(key=lambda row: row[1 if sort == "size" else 2], reverse=True)
    return rows


def print_owners(
    console: Console,
    handover: Handover,
    *,
    sort: str | None = None,
    depth: int | None = None,
    limit: int | None = None,
    whole: bool = True,
) -> None:
    """The table by owner, then (``whole``) unclaimed, dangling and shared memory by range.

    ``limit``: owners that are listed; 0 is all, None all but on a terminal.
    """
    ownership = handover.ownership
    made = table("owner", "bytes", "blocks", right=("bytes", "blocks"))
    shares = _shares(handover, sort, depth)
    listed = most(shares, MAX_OWNERS) if limit is None else shares[: limit or None]
    for name, size, blocks in listed:
        made.add_row(plain(name), human_size(size), f"{blocks:,}")
    console.print(made)
    if left := len(shares) - len(listed):
        console.print(left_out(left, "owners", "--limit 0 lists them all"))
    if not whole:
        return
    console.print(Text.assemble("preserved: ", overview(handover, MAX_SUMS, "--depth 1")))
    shift = ownership.page_shift
    for name, pages in _troubles(handover).items():
        if not len(pages[0]):
            continue
        heading(console, f"{name.capitalize()}: {_TROUBLE[name]}")
        room = len(pages[0]) if is_endless() else MAX_LISTED
        for extent in islice(ownership.extents(pages), room):
            found = handover.index.places(extent.start >> shift, extent.end >> shift)
            named = most(found, MAX_CLAIMANTS)
            more = len(found) - len(named)
            names = "; ".join(map(place_name, named)) + (f"; {more:,} more: addr" if more else "")
            who = f"  {names}" if found else ""
            console.print(plain(f"  {extent}  {human_size(extent.size)}{who}"))
        if (left := len(pages[0]) - room) > 0:
            console.print(Text(f"  … {left:,} more ranges: --json lists them all", "dim"))
        if name == Unclaimed.UNATTRIBUTED.value:
            _print_reasons(console, handover.hidden)


def _print_reasons(console: Console, hidden: Sequence[Hidden]) -> None:
    for reason in (listed := most(hidden, MAX_REASONS)):
        console.print(plain(f"  because {message_text(reason.message)}"))
        if reason.path:
            console.print(plain(f"    at {path_name(reason.path)}", "dim"))
    if left := len(hidden) - len(listed):
        console.print(Text(f"  … {left:,} more reasons: --json lists them", "dim"))
