"""``owners``: who owns every preserved page."""

from __future__ import annotations

import click

from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.options import Input, reads_handover


@click.command("owners")
@reads_handover
@click.option("--sort", type=click.Choice(["size", "name", "blocks"]), help="Order of the owners.")
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Parts of names; sums below.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="That many owners; 0: all.")
def command(given: Input, sort: str | None, depth: int | None, limit: int | None) -> int:
    """Who owns every preserved page; what nobody owns, and what dangles."""
    handover = given.inspect()
    if given.json:
        from kho_inspect.render.json import owners_document

        given.write_json(owners_document(handover))
        return handover_status(handover)
    from kho_inspect.render.owners import print_owners
    from kho_inspect.render.report import print_faults

    console = given.console()
    print_owners(console, handover, sort=sort, depth=depth, limit=limit)
    print_faults(console, handover.faults)
    return handover_status(handover)
