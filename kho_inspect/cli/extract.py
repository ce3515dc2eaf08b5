"""``extract``: recover content."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.options import Input, reads_handover
from kho_inspect.cli.output import binary_stdout, report_gaps, require_bounded
from kho_inspect.cli.progress import progress_bar


@click.command("extract")
@partial(reads_handover, more_arguments=True)
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
def command(given: Input, selectors: tuple[str, ...], output: Path, force: bool) -> int:
    """Recover content: memfds, blobs, regions, ranges.

    SELECTOR is LUO/SESSION/TOKEN, blob/NAME, reserve_mem/NAME, kho_test/N, any leading part of
    one, either with * and ?, vmalloc@PADDR or range@START-END. Without one, everything is
    extracted. To stdout goes one item, without a manifest; zeros stand for what is lacking.

    Exit status 1 where an item lacks content, or has content that is not preserved: the manifest
    says which bytes. A range is taken as it is, preserved or not.
    """
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
        extractor = Extractor(memory, output, evidence=evidence, force=force, progress=advance)
        entries = extractor.run(items)
    if given.json:
        from kho_inspect.render.json import extract_document

        given.write_json(extract_document(handover, evidence.document(), entries))
    else:
        from kho_inspect.render.extract import print_entries

        print_entries(given.console(), str(output), entries)
    status = handover_status(handover)
    return exit_codes.FINDINGS if not status and incomplete(items, entries) else status
