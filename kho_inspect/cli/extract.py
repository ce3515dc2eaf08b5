"""``extract``: recover content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, carved, reads_handover, takes_mode
from kho_inspect.cli.output import binary_stdout, complain, report_gaps, require_bounded
from kho_inspect.cli.params import Address
from kho_inspect.cli.progress import progress_bar
from kho_inspect.errors import KhoError

if TYPE_CHECKING:
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.model.contents import Item
    from kho_inspect.model.fd_names import FdNames
    from kho_inspect.recover.evidence import Evidence


@click.command("extract", cls=Command)
@reads_handover
@click.argument("selectors", metavar="[SELECTOR]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory to write to; made when missing. -: one item, to stdout.",
)
@click.option("--force", is_flag=True, help="Overwrite files that exist; write to a terminal.")
@takes_mode
@click.option(
    "--carved", "carving", is_flag=True, help="What the dump's contents yield; DTB is not read."
)
@click.option(
    "--sessions",
    type=Address(),
    metavar="PADDR",
    help="Carve, beginning at this block of LUO sessions.",
)
def command(
    given: Input,
    selectors: tuple[str, ...],
    output: Path,
    force: bool,
    mode: int,
    carving: bool,
    sessions: int | None,
) -> int:
    """Recover content: memfds, blobs, regions, ranges.

    SELECTOR is LUO/SESSION/TOKEN, blob/NAME, reserve_mem/NAME, kho_test/N, any leading part of
    one, either with * and ?, vmalloc@PADDR, START-END or START+LEN. Without one, everything is
    extracted. To stdout goes one item, without a manifest; zeros stand for what is lacking.

    Exit status 1 where an item lacks content, or has content that is not preserved: the manifest
    says which bytes. A range is taken as it is, preserved or not.

    With --carved the same by what structures hold, without DTB and map: under carved/, each with
    its trust, provenance and doubts in the manifest.
    """
    from kho_inspect.recover.content import Account, Reader, joined, write_stream
    from kho_inspect.recover.extract import Extractor, incomplete
    from kho_inspect.recover.selectors import sole

    out = binary_stdout(force) if str(output) == "-" else None
    if out and given.json:
        raise click.UsageError("-o - leaves no room for --json")
    if carving or sessions is not None:
        chosen = _carved(given, selectors, sessions)
    else:
        chosen = _preserved(given, selectors)
    memory, items = chosen.memory, chosen.items
    if out:
        item = sole(items, " ".join(selectors) or "all")
        require_bounded(item.size, sum(stored.size for stored in memory.stored))
        account = Account()
        write_stream(out, account.watched(Reader(memory).blocks(item)))
        lacking = report_gaps(item, account.marked(chosen.evidence))
        return chosen.status() or (exit_codes.FINDINGS if lacking else exit_codes.CLEAN)
    total = sum(int(joined(item.pieces).size.sum()) for item in items)
    with progress_bar("extract", total) as advance:
        extractor = Extractor(
            memory,
            output,
            evidence=chosen.evidence,
            names=chosen.names,
            force=force,
            mode=mode,
            inputs=given.inputs(),
            progress=advance,
        )
        entries = extractor.run(items)
    if given.json:
        given.write_json(chosen.document(entries))
    else:
        from kho_inspect.render.extract import print_entries

        print_entries(given.console(), str(output), entries)
    status = chosen.status()
    if not incomplete(items, entries):
        return status
    complain("content is lacking, or not preserved: gaps in manifest.json say which bytes")
    return status or exit_codes.FINDINGS


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is to be extracted, and what is to be said of it."""

    memory: PhysicalMemory
    items: Sequence[Item]
    document: Callable[[list[dict[str, Any]]], dict[str, Any]]
    """The manifest's entries as the command's JSON."""
    evidence: Evidence | None = None
    names: FdNames | None = None
    status: Callable[[], int] = lambda: exit_codes.CLEAN


def _preserved(given: Input, selectors: tuple[str, ...]) -> _Chosen:
    """What the map and the blobs lead to."""
    from kho_inspect.inspection import inspect_opened
    from kho_inspect.recover.evidence import evidence_of
    from kho_inspect.recover.selectors import select
    from kho_inspect.render.json import extract_document

    opened = given.open()
    memory, handover = opened.memory, inspect_opened(opened, given.options)
    evidence = evidence_of(handover)
    return _Chosen(
        memory,
        select(handover, memory, selectors),
        partial(extract_document, handover, evidence.document()),
        evidence,
        handover.names,
        partial(handover_status, handover),
    )


def _carved(given: Input, selectors: tuple[str, ...], sessions: int | None) -> _Chosen:
    """The same for what was found by its contents, all of it under ``carved``."""
    from kho_inspect.recover.selectors import numbered, select_carved
    from kho_inspect.render.carved_json import carved_entries_document

    memory, carving = carved(given, sessions)
    found = list(numbered(list(carving.items)))
    if not found:
        raise KhoError(f"nothing in {memory.path} reads as part of a handover")
    items = select_carved(found, selectors)
    return _Chosen(memory, items, partial(carved_entries_document, memory, carving))
