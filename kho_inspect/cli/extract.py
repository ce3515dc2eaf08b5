"""``extract``: recover content."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.options import Input, reads_handover
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
    help="Directory to write to; made when missing.",
)
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def command(given: Input, selectors: tuple[str, ...], output: Path, force: bool) -> int:
    """Recover content: memfds, blobs, regions, ranges.

    SELECTOR is LUO/SESSION/TOKEN, blob/NAME, reserve_mem/NAME, kho_test/N, any leading part of
    one, vmalloc@PADDR or range@START-END. Without one, everything is extracted.

    Exit status 1 where an item lacks content, or has content that is not preserved: the manifest
    says which bytes. A range is taken as it is, preserved or not.
    """
    from kho_inspect.inspection import inspect_opened
    from kho_inspect.recover.evidence import evidence_of
    from kho_inspect.recover.extract import Extractor, incomplete
    from kho_inspect.recover.selectors import select

    opened = given.open()
    memory, handover = opened.memory, inspect_opened(opened, given.options)
    items = select(handover, memory, selectors)
    evidence = evidence_of(handover)
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
