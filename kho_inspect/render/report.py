"""The report: one screen of answers, and the details for those who ask for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.text import Text

from kho_inspect.decoders.kexec_metadata import KexecMetadata
from kho_inspect.geometry import page_size_name
from kho_inspect.model.faults import Fault
from kho_inspect.model.handover import Handover
from kho_inspect.model.luo import Luo
from kho_inspect.render.blobs import blob_content, blob_table
from kho_inspect.render.console import heading, plain, table
from kho_inspect.render.contents import content_view
from kho_inspect.render.findings import (
    STYLES,
    print_blocked,
    print_findings,
    statements,
)
from kho_inspect.render.names import message_text, path_name
from kho_inspect.render.owners import overview
from kho_inspect.render.ranges import iter_ranges, order_mix
from kho_inspect.render.tree import folded_tree
from kho_inspect.rules.engine import Verdict
from kho_inspect.units import human_size, plural

MAX_RANGES = 20
MAX_FAULTS = 20
MAX_FIRST = 5
"""Findings on the first screen."""
MAX_REASONS = 2
"""Reasons on the first screen why a capture is not complete."""
MAX_AREAS = 3
"""Scratch areas on the first screen."""
MAX_NAMES = 6
"""Names of sessions, like ones folded, on the first screen."""
NEXT = "kho-inspect show --full · check · owners · tree · blobs · explain CODE"


def print_report(
    console: Console, handover: Handover, verdict: Verdict, *, full: bool = False
) -> None:
    """``show``: twenty lines at most; ``full`` is everything."""
    for line in statements(verdict, None if full else MAX_REASONS):
        _print_line(console, line)
    console.print()
    for name, words in _facts(handover):
        _print_line(console, Text.assemble((f"{name:<9} ", "dim"), words))
    if not full:
        for finding in verdict.findings[:MAX_FIRST]:
            code = Text(f"{finding.code:<9} ", STYLES[finding.severity])
            _print_line(console, Text.assemble(code, plain(message_text(finding.message))))
        left = len(verdict.findings) - MAX_FIRST
        more = f"{left:,} more findings: check" if left > 0 else NEXT
        _print_line(console, Text(f"{'more':<9} {more}", "dim"))
        return
    _print_orders(console, handover)
    _print_ranges(console, handover)
    if handover.tree is not None:
        heading(console, "Preserved-memory map")
        console.print(folded_tree(handover.tree, handover.preserved))
    if handover.blobs:
        heading(console, "Sub-nodes")
        console.print(blob_table(handover.blobs))
        for blob in handover.blobs:
            console.print(
                content_view(blob.name, blob.content) if blob.content else blob_content(blob)
            )
    print_findings(console, verdict.findings)
    print_blocked(console, verdict.blocked)


def _print_line(console: Console, line: Text) -> None:
    """One line whatever its length: cut on a terminal."""
    console.print(line, no_wrap=True, overflow="ellipsis")


def _facts(handover: Handover) -> Iterator[tuple[str, Text]]:
    source, root = handover.source, handover.fdt
    ram = human_size(sum(extent.size for extent in source.declared))
    held = human_size(sum(extent.size for extent in source.stored))
    what = f"{source.format}, {ram} of RAM" + ("" if ram == held else f", {held} stored")
    yield "dump", plain(f"{source.path} ({what})")
    place = "not found in the dump" if root.paddr is None else f"at {root.paddr:#x}"
    pointed = [pointer.source for pointer in handover.pointers]
    named = f", named by {pointed[0]}" if pointed else ""
    yield "FDT", plain(f"{root.path} ({root.size} bytes), {place}{named}")
    if root.recovery:
        yield "recovered", plain(root.recovery, "yellow")
    abi = root.abi.compatible
    if root.assumed:
        abi = f"{abi} assumed (--assume-abi); the FDT says {root.compatible!r}"
    elif not root.known:
        abi = f"{root.compatible!r} is not known: nothing was followed (--assume-abi {abi})"
    elif root.compatible != root.abi.compatible:
        abi = f"{abi}, the known part of {root.compatible!r}"
    pages = page_size_name(handover.geometry.shift)
    yield "ABI", plain(f"{abi} (kernels: {root.abi.kernels}), {pages} pages")
    releases = [
        blob.content.previous_release
        for blob in handover.blobs
        if isinstance(blob.content, KexecMetadata)
    ]
    if releases:
        yield "writer", plain(f"kernel {releases[0]}")
    blocks = plural(handover.preserved.blocks, "block")
    preserved = f"{human_size(handover.preserved.bytes)} preserved in {blocks}"
    tree = handover.tree
    yield "map", plain(f"{preserved}; {tree.summary()}" if tree else "none")
    yield "scratch", plain(_scratch(handover))
    yield "owners", overview(handover)
    for blob in handover.blobs:
        if isinstance(blob.content, Luo) and blob.content.sessions:
            yield "sessions", plain(_sessions(blob.content))


def _scratch(handover: Handover) -> str:
    scratch = handover.scratch
    if scratch is None:
        return "no table found (--scratch START+LEN, --boot-dtb FILE)"
    areas = scratch.areas
    listed = ", ".join(f"{area} {human_size(area.size)}" for area in areas[:MAX_AREAS])
    more = f", {len(areas) - MAX_AREAS} more" if len(areas) > MAX_AREAS else ""
    return f"{listed or 'no area'}{more}"


def _sessions(luo: Luo) -> str:
    """Names and numbers of files; ``bulk-000…059: 60 sessions, 240 files`` for like names."""
    files = plural(sum(len(session.files) for session in luo.sessions), "file")
    names = fold_names(session.name for session in luo.sessions)
    listed = ", ".join(names[:MAX_NAMES]) + (", …" if len(names) > MAX_NAMES else "")
    return f"{plural(len(luo.sessions), 'session')}, {files}: {listed}"


def fold_names(names: Iterable[str]) -> list[str]:
    """``["bulk-000…059 (60)", "vm"]``: names that differ in the number at their end, as one."""
    groups: dict[str, list[str]] = {}
    for name in names:
        number = re.search(r"[0-9]+\Z", name)
        digits = number[0] if number else ""
        groups.setdefault(name[: len(name) - len(digits)] if digits else name, []).append(digits)
    folded = []
    for stem, numbers in groups.items():
        if len(numbers) > 2:
            ordered = sorted(numbers, key=lambda digits: (len(digits), digits))
            folded.append(f"{stem}{ordered[0]}…{ordered[-1]} ({len(numbers)})")
        else:
            folded += [f"{stem}{digits}" for digits in numbers]
    return folded


def _print_orders(console: Console, handover: Handover) -> None:
    preserved = handover.preserved
    if not preserved.orders:
        return
    made = table("order", "block size", "blocks", "bytes", right=_NUMBERS)
    for order, count in preserved.orders.items():
        size = handover.geometry.page_size << order
        made.add_row(str(order), human_size(size), f"{count:,}", human_size(count * size))
    console.print()
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
