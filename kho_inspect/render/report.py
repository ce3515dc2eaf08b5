"""The report: the verdict on the first screen, the details below it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from kho_inspect.geometry import page_size_name
from kho_inspect.model.faults import Fault
from kho_inspect.model.handover import Handover
from kho_inspect.render.blobs import blob_content, blob_table
from kho_inspect.render.console import grid, heading, plain, table
from kho_inspect.render.contents import content_view
from kho_inspect.render.findings import (
    counts_line,
    print_findings,
    print_not_checked,
    verdict_line,
)
from kho_inspect.render.names import message_text, path_name
from kho_inspect.render.owners import overview
from kho_inspect.render.ranges import iter_ranges, order_mix
from kho_inspect.render.tree import folded_tree, full_tree
from kho_inspect.rules.engine import Verdict
from kho_inspect.units import human_size, plural

MAX_RANGES = 20
MAX_FAULTS = 20
MAX_FIRST = 3
"""Findings that the first screen shows; the worst stand at the end of the report."""
MAX_FINDINGS = 10


def print_report(
    console: Console, handover: Handover, verdict: Verdict, *, full_tree_wanted: bool = False
) -> None:
    """The whole of ``show``: the verdict first, and once more at the end."""
    console.print(_header(handover, verdict))
    _print_summary(console, handover)
    _print_ranges(console, handover)
    if handover.tree is not None:
        heading(console, "Preserved-memory map")
        if full_tree_wanted:
            for line in full_tree(handover.tree, handover.preserved):
                console.out(line, highlight=False)
        else:
            console.print(folded_tree(handover.tree, handover.preserved))
    if handover.blobs:
        heading(console, "Sub-nodes")
        console.print(blob_table(handover.blobs))
        for blob in handover.blobs:
            console.print(
                content_view(blob.name, blob.content) if blob.content else blob_content(blob)
            )
    console.print()
    console.print(verdict_line(verdict))
    print_findings(console, verdict.findings, MAX_FINDINGS)
    print_not_checked(console, verdict.not_checked)


def _header(handover: Handover, verdict: Verdict) -> Panel:
    source, root = handover.source, handover.fdt
    ram = human_size(sum(extent.size for extent in source.declared))
    held = human_size(sum(extent.size for extent in source.stored))
    what = f"{source.format}, {ram} of RAM" + ("" if ram == held else f", {held} of it stored")
    abi = f"{root.abi.compatible} (kernels: {root.abi.kernels})"
    if root.assumed:
        abi = f"{root.abi.compatible} assumed (--assume-abi); the FDT says {root.compatible!r}"
    elif root.compatible != root.abi.compatible:
        abi = f"{root.abi.compatible}, the known part of {root.compatible!r}"
    rows = [
        ("dump", plain(f"{source.path} ({what})")),
        ("FDT", plain(f"{root.path} ({root.size} bytes)")),
        ("ABI", plain(abi)),
        ("pages", plain(f"{page_size_name(handover.geometry.shift)} ({source.page_size_reason})")),
    ]
    if root.recovery:
        rows.insert(2, ("recovered", plain(root.recovery, "yellow")))
    answer: list[RenderableType] = [verdict_line(verdict), counts_line(verdict)]
    answer += [
        plain(f"  {one.code} {message_text(one.message)}") for one in verdict.findings[:MAX_FIRST]
    ]
    return Panel(
        Group(*answer, "", grid(rows)),
        title="kho-inspect",
        title_align="left",
        border_style="green" if verdict.word == "sound" else "red",
    )


def _print_summary(console: Console, handover: Handover) -> None:
    preserved = handover.preserved
    ranges = plural(len(preserved.merged[0]), "range")
    blocks = plural(preserved.blocks, "block")
    rows = [("preserved", plain(f"{human_size(preserved.bytes)} · {blocks} · {ranges}"))]
    rows.append(("map", plain(handover.tree.summary() if handover.tree else "none")))
    rows.append(("owners", overview(handover)))
    names = " · ".join(
        f"{blob.name} ({blob.content.summary()})" if blob.content else blob.name
        for blob in handover.blobs
    )
    rows.append(("sub-nodes", plain(names or "none")))
    console.print()
    console.print(grid(rows))
    if preserved.orders:
        made = table("order", "block size", "blocks", "bytes", right=_NUMBERS)
        for order, count in preserved.orders.items():
            size = handover.geometry.page_size << order
            made.add_row(str(order), human_size(size), f"{count:,}", human_size(count * size))
        console.print(made)


_NUMBERS = ("order", "block size", "blocks", "bytes", "size")


def _print_ranges(console: Console, handover: Handover) -> None:
    total = len(handover.preserved.merged[0])
    if not total:
        return
    heading(console, "Preserved ranges")
    made = table("start", "end", "size", "blocks", right=("start", "end", "size"))
    first = next(iter_ranges(handover.preserved, MAX_RANGES))
    for start, end, orders in zip(first.starts, first.ends, first.orders, strict=True):
        made.add_row(f"{start:#x}", f"{end:#x}", human_size(end - start), order_mix(orders))
    console.print(made)
    if total > MAX_RANGES:
        console.print(Text(f"… {total - MAX_RANGES:,} more: kho-inspect ranges DUMP DTB", "dim"))


def print_faults(console: Console, faults: Sequence[Fault]) -> None:
    """The worst of the damage; nothing at all when there is none."""
    if not faults:
        return
    heading(console, "Faults")
    for fault in faults[:MAX_FAULTS]:
        words = plain(message_text(fault.message))
        console.print(Text.assemble(("✘ ", "red"), plain(fault.kind, "bold"), " ", words))
        if fault.path:
            console.print(Text.assemble("    at ", plain(path_name(fault.path))), style="dim")
    if len(faults) > MAX_FAULTS:
        console.print(Text(f"… {len(faults) - MAX_FAULTS:,} more: --json lists them all", "dim"))
