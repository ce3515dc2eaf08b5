"""``show --full``: orders, ranges, tree and contents below the first screen."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kho_inspect.model.faults import Fault
from kho_inspect.model.handover import Handover
from kho_inspect.render.blobs import blob_content, blob_table, fdt_tree
from kho_inspect.render.console import heading, is_endless, left_out, most, plain, table
from kho_inspect.render.contents import content_view
from kho_inspect.render.findings import print_blocked, print_findings
from kho_inspect.render.first_screen import print_first_screen
from kho_inspect.render.names import message_text, path_name
from kho_inspect.render.ranges import iter_ranges, limited, order_mix
from kho_inspect.render.tree import folded_tree
from kho_inspect.rules.engine import Verdict
from kho_inspect.units import human_size

MAX_RANGES = 20
MAX_FAULTS = 20


def print_full(console: Console, handover: Handover, verdict: Verdict) -> None:
    """Everything."""
    print_first_screen(console, handover, verdict, full=True)
    _print_orders(console, handover)
    _print_ranges(console, handover)
    if handover.tree is not None:
        heading(console, "Preserved-memory map")
        console.print(folded_tree(handover.tree, handover.preserved))
    if not handover.fdt.known:
        heading(console, "Root FDT")
        console.print(fdt_tree("/", handover.fdt.root))
    if handover.blobs:
        heading(console, "Sub-nodes")
        console.print(blob_table(handover.blobs, known=verdict.capture.fits))
        for blob in handover.blobs:
            content = blob.content
            shown = content_view(blob.name, content, handover.names) if content else None
            console.print(shown or blob_content(blob))
    print_findings(console, verdict.findings)
    print_blocked(console, verdict.blocked)


def _print_orders(console: Console, handover: Handover) -> None:
    preserved = handover.preserved
    if not preserved.orders:
        return
    columns = ("order", "block size", "blocks", "bytes")
    made = table(*columns, right=columns)
    for order, count in preserved.orders.items():
        size = handover.geometry.page_size << order
        made.add_row(str(order), human_size(size), f"{count:,}", human_size(count * size))
    console.print()
    console.print(made)


def _print_ranges(console: Console, handover: Handover) -> None:
    total = len(handover.preserved.merged[0])
    if not total:
        return
    heading(console, "Preserved ranges")
    made = table("start", "end", "size", "blocks", right=("start", "end", "size"))
    room = total if is_endless() else MAX_RANGES
    for batch in limited(iter_ranges(handover.preserved), room):
        for start, end, orders in zip(batch.starts, batch.ends, batch.orders, strict=True):
            made.add_row(f"{start:#x}", f"{end:#x}", human_size(end - start), order_mix(orders))
    console.print(made)
    if total > room:
        console.print(left_out(total - room, "", "kho-inspect ranges DUMP DTB"))


def print_faults(console: Console, faults: Sequence[Fault]) -> None:
    """The worst of the damage; nothing at all when there is none."""
    if not faults:
        return
    heading(console, "Faults")
    for fault in (listed := most(faults, MAX_FAULTS)):
        words = plain(message_text(fault.message))
        console.print(Text.assemble(("✘ ", "red"), plain(fault.kind, "bold"), " ", words))
        if fault.path:
            console.print(Text.assemble("    at ", plain(path_name(fault.path))), style="dim")
    if left := len(faults) - len(listed):
        console.print(left_out(left, "", "--json lists them all"))
