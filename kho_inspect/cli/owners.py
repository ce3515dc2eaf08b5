"""``owners``: who owns every preserved page."""

from __future__ import annotations

import click

from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.options import Input, reads_handover


@click.command("owners")
@reads_handover
def command(given: Input) -> int:
    """Who owns every preserved page; what nobody owns, and what dangles."""
    handover = given.inspect()
    if given.json:
        from kho_inspect.render.json import owners_document

        given.write_json(owners_document(handover))
        return handover_status(handover)
    from kho_inspect.render.owners import print_owners
    from kho_inspect.render.report import print_faults

    console = given.console()
    print_owners(console, handover)
    print_faults(console, handover.faults)
    return handover_status(handover)
