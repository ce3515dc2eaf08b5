"""``blobs``: what the sub-nodes point to."""

from functools import partial

import click

from kho_inspect.cli.exit_codes import handover_status, misfit_of
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_handover, write_lines
from kho_inspect.model.selector import parse_glob
from kho_inspect.render.safe import safe


@click.command("blobs", cls=Command)
@partial(reads_handover, more_arguments=True)
@click.argument("name", required=False)
@click.option("--hexdump", is_flag=True, help="Print all bytes, whatever they are.")
def command(given: Input, name: str | None, hexdump: bool) -> int:
    """Sub-node blobs, all or those called NAME (or that * and ? find)."""
    handover = given.inspect()
    blobs = list(handover.blobs)
    if name is not None:
        glob = parse_glob(name)
        matches = glob.fullmatch if glob else name.__eq__
        blobs = [blob for blob in blobs if matches(blob.name)]
        if not blobs:
            known = ", ".join(blob.name for blob in handover.blobs) or "none"
            raise click.UsageError(safe(f"no sub-node {name!r}; there are: {known}"))
    known_map = misfit_of(handover) is None
    if given.json:
        from kho_inspect.render.json import blobs_document

        given.write_json(blobs_document(handover, blobs, known=known_map))
        return handover_status(handover)
    from kho_inspect.render.blobs import blob_content, blob_table, hexdump_lines
    from kho_inspect.render.console import plain
    from kho_inspect.render.contents import content_view
    from kho_inspect.render.report import print_faults

    console = given.console()
    console.print(blob_table(blobs, known=known_map))
    for blob in blobs:
        if hexdump:
            console.print(plain(blob.name, "bold"))
            write_lines(hexdump_lines(blob))
        else:
            if blob.content is not None:
                console.print(content_view(blob.name, blob.content, handover.names))
            console.print(blob_content(blob))
    print_faults(console, handover.faults)
    return handover_status(handover)
