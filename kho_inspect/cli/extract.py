"""``extract``: recover content."""

from __future__ import annotations

from pathlib import Path

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.options import Input, carved, reads_handover, takes_mode
from kho_inspect.cli.output import binary_stdout, report_gaps, require_bounded
from kho_inspect.cli.params import Address
from kho_inspect.cli.progress import progress_bar
from kho_inspect.errors import KhoError


@click.command("extract")
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
    one, either with * and ?, vmalloc@PADDR or range@START-END. Without one, everything is
    extracted. To stdout goes one item, without a manifest; zeros stand for what is lacking.

    Exit status 1 where an item lacks content, or has content that is not preserved: the manifest
    says which bytes. A range is taken as it is, preserved or not.

    With --carved the same by what structures hold, without DTB and map: under carved/, each with
    its trust, provenance and doubts in the manifest.
    """
    if carving or sessions is not None:
        return _extract_carved(given, selectors, output, force, mode, sessions)
    from kho_inspect.inspection import inspect_opened
    from kho_inspect.recover.content import Account, Reader, write_stream
    from kho_inspect.recover.evidence import evidence_of
    from kho_inspect.recover.extract import Extractor, incomplete
    from kho_inspect.recover.selectors import select, sole

    stdout = str(output) == "-"
    out = binary_stdout(force) if stdout else None
    if stdout and given.json:
        raise click.UsageError("-o - leaves no room for --json")
    opened = given.open()
    memory, handover = opened.memory, inspect_opened(opened, given.options)
    items = select(handover, memory, selectors)
    evidence = evidence_of(handover)
    if out:
        item = sole(items, " ".join(selectors) or "all")
        require_bounded(item.size, sum(stored.size for stored in memory.stored))
        account = Account()
        write_stream(out, account.watched(Reader(memory).parts(item)))
        lacking = report_gaps(item, account.marked(evidence))
        return handover_status(handover) or (exit_codes.FINDINGS if lacking else exit_codes.CLEAN)
    total = sum(piece.size for item in items for piece in item.pieces)
    with progress_bar("extract", total) as advance:
        extractor = Extractor(
            memory,
            output,
            evidence=evidence,
            names=handover.names,
            force=force,
            mode=mode,
            inputs=given.inputs(),
            progress=advance,
        )
        entries = extractor.run(items)
    if given.json:
        from kho_inspect.render.json import extract_document

        given.write_json(extract_document(handover, evidence.document(), entries))
    else:
        from kho_inspect.render.extract import print_entries

        print_entries(given.console(), str(output), entries)
    status = handover_status(handover)
    return exit_codes.FINDINGS if not status and incomplete(items, entries) else status


def _extract_carved(
    given: Input,
    selectors: tuple[str, ...],
    output: Path,
    force: bool,
    mode: int,
    sessions: int | None,
) -> int:
    """The same for what was found by its contents, all of it under ``carved``."""
    from kho_inspect.recover.extract import Extractor, incomplete
    from kho_inspect.recover.selectors import numbered, select_carved

    memory, carving = carved(given, sessions)
    found = list(numbered(list(carving.items)))
    if not found:
        raise KhoError(f"nothing in {memory.path} reads as part of a handover")
    items = select_carved(found, selectors)
    total = sum(piece.size for item in items for piece in item.pieces)
    with progress_bar("extract", total) as advance:
        extractor = Extractor(
            memory,
            output,
            force=force,
            mode=mode,
            inputs=given.inputs(),
            progress=advance,
        )
        entries = extractor.run(items)
    if given.json:
        from kho_inspect.render.carved_json import carved_entries_document

        given.write_json(carved_entries_document(memory, carving, entries))
    else:
        from kho_inspect.render.extract import print_entries

        print_entries(given.console(), str(output), entries)
    return exit_codes.FINDINGS if incomplete(items, entries) else exit_codes.CLEAN
