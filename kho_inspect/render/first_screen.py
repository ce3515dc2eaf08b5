"""``show``: one screen of answers, at most 20 lines of 80 columns for any handover."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from kho_inspect.decoders.kexec_metadata import KexecMetadata
from kho_inspect.geometry import page_size_name
from kho_inspect.model.handover import Handover
from kho_inspect.model.identity import Subsystem
from kho_inspect.model.luo import Luo, LuoSession
from kho_inspect.render.console import cropped, most, plain
from kho_inspect.render.findings import STYLES, statements
from kho_inspect.render.owners import overview
from kho_inspect.render.verdicts import counted
from kho_inspect.rules.engine import Verdict
from kho_inspect.units import exact_size, human_size, plural

MAX_LINES = 20
MAX_FINDINGS = 5
MAX_REASONS = 1
"""Reasons why a capture is not complete, and for a decision."""
MAX_AREAS = 2
"""Scratch areas."""
MAX_OWNERS = 2
NEXT = "kho-inspect show --full · check · owners · tree · blobs · explain CODE"


def print_first_screen(
    console: Console, handover: Handover, verdict: Verdict, *, full: bool = False
) -> None:
    """The statements, the facts, findings, and what to do next; ``full``: without limits."""
    head = [*statements(verdict, None if full else MAX_REASONS), Text()]
    head += [_row(name, words) for name, words in _facts(handover, verdict.capture.fits, full)]
    listed = _sessions(handover) if verdict.capture.fits else ()
    sessions = [_row("session", plain(words)) for words in listed]
    if full:
        lines = [*head, *sessions]
    else:
        room = MAX_LINES - 1 - len(head)
        findings = [
            Text.assemble((f"{one.code:<9} ", STYLES[one.severity]), plain(counted(one)))
            for one in verdict.findings[: max(0, min(MAX_FINDINGS, room - bool(sessions)))]
        ]
        room -= len(findings)
        if len(sessions) > room:
            left = f"… {len(sessions) - room + 1:,} more: blobs LUO"
            sessions = [*sessions[: room - 1], _row("", plain(left, "dim"))]
        left_out = len(verdict.findings) - len(findings)
        more = f"{plural(left_out, 'more finding')}: check" if left_out > 0 else NEXT
        lines = [*head, *sessions, *findings, _row("next", plain(more, "dim"))]
    for line in lines:
        console.print(line if full else cropped(line, console.width))


def _row(name: str, words: Text) -> Text:
    return Text.assemble((f"{name:<9} ", "dim"), words)


def _facts(handover: Handover, fits: bool, full: bool) -> Iterator[tuple[str, Text]]:
    """``fits``: the map reads as one, so that something follows from it; ``full``: no limits."""
    source, root = handover.source, handover.fdt
    held = human_size(sum(extent.size for extent in source.stored))
    declared = human_size(sum(extent.size for extent in source.declared))
    what = f"{held} of {declared}" if held != declared else held
    ram = human_size(sum(extent.size for extent in source.ram))
    ram = f" (RAM: {ram})" if source.ram else ""
    yield "dump", plain(f"{source.format}, {what}{ram}: {source.path}")
    place = "not found in the dump" if root.paddr is None else f"{root.paddr:#x}"
    yield "FDT", plain(f"{place}, {root.size} bytes: {root.path}")
    abi = root.abi.compatible
    if root.assumed:
        abi = f"{abi} assumed (--assume-abi); the FDT says {root.compatible!r}"
    elif not root.known:
        abi = f"{root.compatible!r} is not known: its map is not read (--assume-abi {abi})"
    elif root.abi.unknown:
        abi = f"{abi}, the known part of {root.compatible!r}"
    elif root.compatible != abi:
        abi = f"{abi}, in parts: {root.compatible!r}"
    else:
        abi = f"{abi} (kernels: {root.abi.kernels})"
    yield "ABI", plain(f"{abi}, {page_size_name(handover.geometry.shift)} pages")
    yield "writer", plain(_writer(handover))
    yield "map", plain(_map(handover, fits))
    yield "scratch", plain(_scratch(handover, full))
    if root.start:
        yield "known", plain(_sub_nodes(handover))
    if fits:
        yield "owners", overview(handover, None if full else MAX_OWNERS, "--full")


def _map(handover: Handover, fits: bool) -> str:
    tree, preserved = handover.tree, handover.preserved
    if tree is None:
        return "none"
    if not fits:
        return f"{tree.root:#x}: not a map of this handover"
    blocks = plural(preserved.blocks, "block")
    return f"{tree.root:#x}, {exact_size(preserved.bytes)} preserved, {blocks}"


def _sub_nodes(handover: Handover) -> str:
    """What a part of a root FDT says of its sub-nodes."""
    return ", ".join(
        f"{blob.name} {'address missing' if blob.paddr is None else hex(blob.paddr)}"
        for blob in handover.blobs
    )


def _writer(handover: Handover) -> str:
    """Which kernel wrote it, and whether another one was pointed to it."""
    contents = [blob.content for blob in handover.blobs]
    releases = [one.previous_release for one in contents if isinstance(one, KexecMetadata)]
    writer = f"Linux {releases[0]}" if releases else "release not recorded"
    if handover.pointers:
        return f"{writer}; incoming: {handover.pointers[0].source} names it"
    if handover.fdt.paddr is None and handover.strays:
        stray = handover.strays[0]
        return f"{writer}; incoming: stood at {stray.fdt:#x}, which {stray.source} names"
    return f"{writer}; outgoing: nothing in the dump names it"


def _scratch(handover: Handover, full: bool) -> str:
    scratch = handover.scratch
    if scratch is None and handover.pointers:
        return f"the table that {handover.pointers[0].source} names is zero or not stored"
    if scratch is None:
        return "no table found (--scratch START+LEN, --boot-dtb FILE)"
    areas = scratch.areas
    shown = areas if full else most(areas, MAX_AREAS)
    listed = ", ".join(map(str, shown))
    left = len(areas) - len(shown)
    more = f", {left:,} more: --full" if left else ""
    return f"{human_size(sum(area.size for area in areas))}: {listed or 'no area'}{more}"


def _sessions(handover: Handover) -> list[str]:
    """``bulk-000…059: 60 sessions, 240 files, 1.9 MiB``, a line for each kind of name."""
    sizes: Counter[str | int] = Counter()
    for share in handover.ownership.shares:
        if share.owner.subsystem is Subsystem.LUO and share.owner.parts:
            sizes[share.owner.parts[0]] += share.bytes
    lines = []
    for blob in handover.blobs:
        for label, alike in _folded(blob.content.sessions if isinstance(blob.content, Luo) else ()):
            many = f"{len(alike):,} sessions, " if len(alike) > 1 else ""
            files = plural(sum(len(session.files) for session in alike), "file")
            size = sum(sizes[name] for name in {session.owner.parts[0] for session in alike})
            lines.append(f"{label}: {many}{files}, {exact_size(size)}")
    return lines


def _folded(sessions: Sequence[LuoSession]) -> Iterator[tuple[str, list[LuoSession]]]:
    """The sessions whose names differ in the number at their end, under one label."""
    groups: dict[str, list[tuple[str, LuoSession]]] = {}
    for session in sessions:
        number = re.search(r"[0-9]+\Z", session.name)
        digits = number[0] if number else ""
        groups.setdefault(session.name.removesuffix(digits), []).append((digits, session))
    for stem, numbered in groups.items():
        numbered.sort(key=lambda pair: (len(pair[0]), pair[0]))
        label = stem + numbered[0][0] + (f"…{numbered[-1][0]}" if len(numbered) > 1 else "")
        yield label, [session for _, session in numbered]
