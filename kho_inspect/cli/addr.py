"""``addr``: what one physical address is to the handover."""

from __future__ import annotations

from functools import partial

import click

from kho_inspect.cli.exit_codes import handover_status, misfit_of
from kho_inspect.cli.options import Address, Input, reads_handover, takes_scratch
from kho_inspect.units import PhysAddr


@click.command("addr")
@partial(reads_handover, more_arguments=True)
@takes_scratch
@click.argument("paddrs", metavar="PADDR...", type=Address(), nargs=-1, required=True)
def command(given: Input, paddrs: tuple[PhysAddr, ...]) -> int:
    """Look addresses up: owner, block, map, sub-node, scratch."""
    from kho_inspect.inspection import inspect_opened
    from kho_inspect.ownership.address import describe_address

    for paddr in paddrs:
        if paddr >= 1 << 64:
            raise click.UsageError(f"{paddr:#x} is beyond 64 bits")
    opened = given.open()
    handover = inspect_opened(opened, given.options)
    known = handover.fdt.reads_map and misfit_of(handover) is None
    found = [describe_address(opened.memory, handover, paddr) for paddr in paddrs]
    if given.json:
        from kho_inspect.render.json import addresses_document

        given.write_json(addresses_document(handover, found, known=known))
        return handover_status(handover)
    from kho_inspect.render.addresses import print_address

    console = given.console()
    for info in found:
        print_address(console, info, known=known)
    return handover_status(handover)
