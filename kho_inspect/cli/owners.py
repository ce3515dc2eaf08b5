"""``owners``: who owns every preserved page."""

from dataclasses import replace

import click

from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_handover


@click.command("owners", cls=Command)
@reads_handover
@click.argument("selectors", metavar="[SELECTOR]...", nargs=-1)
@click.option("--sort", type=click.Choice(["size", "name", "blocks"]), help="Order of the owners.")
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Parts of names; sums below.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="That many owners; 0: all.")
def command(
    given: Input, selectors: tuple[str, ...], sort: str | None, depth: int | None, limit: int | None
) -> int:
    """Who owns every preserved page; what nobody owns, and what dangles.

    SELECTOR is an owner or the first parts of its name, either with * and ?: only these are
    listed, without the rest of the account.
    """
    from kho_inspect.recover.selectors import select_owners

    handover = given.inspect()
    if selectors:
        account = handover.ownership
        chosen = select_owners((share.owner for share in account.shares), selectors)
        handover = replace(handover, ownership=account.only(chosen))
    if given.json:
        from kho_inspect.render.json import owners_document

        given.write_json(owners_document(handover))
        return handover_status(handover)
    from kho_inspect.render.owners import print_owners
    from kho_inspect.render.report import print_faults

    console = given.console()
    print_owners(console, handover, sort=sort, depth=depth, limit=limit, whole=not selectors)
    print_faults(console, handover.faults)
    return handover_status(handover)
