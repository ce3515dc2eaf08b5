"""``ranges``: every preserved range, streamed."""

from itertools import chain

import click

from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_handover, write_lines
from kho_inspect.cli.output import complain


@click.command("ranges", cls=Command)
@reads_handover
@click.option("--order", type=click.IntRange(0, 52), help="Only blocks of this order.")
@click.option("--by-order", is_flag=True, help="Runs of equal order instead of merged ranges.")
@click.option("--owners", is_flag=True, help="Say who owns each range.")
@click.option("--limit", type=click.IntRange(0), help="Stop after that many.")
def command(
    given: Input, order: int | None, by_order: bool, owners: bool, limit: int | None
) -> int:
    """Preserved ranges: START-END (end exclusive), size, blocks per order."""
    from kho_inspect.render.ranges import iter_order, iter_ranges, limited, range_lines, with_owners

    handover = given.inspect()
    preserved = handover.preserved
    if order is not None:
        batches = iter_order(preserved, order)
    elif by_order:
        batches = chain.from_iterable(iter_order(preserved, each) for each in preserved.orders)
    else:
        batches = iter_ranges(preserved)
    batches = limited(batches, limit)
    if owners:
        batches = with_owners(batches, handover)
    if order is not None and order not in preserved.runs:
        complain(f"no block of order {order} is preserved")
    if given.json:
        from kho_inspect.render.json import ranges_document

        given.write_json(ranges_document(handover, batches))
        return handover_status(handover)
    write_lines(map(range_lines, batches))
    if handover.faults:
        from kho_inspect.render.report import print_faults

        print_faults(given.console(), handover.faults)
    return handover_status(handover)
