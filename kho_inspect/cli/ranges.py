"""``ranges``: every preserved range, streamed."""

from __future__ import annotations

from itertools import chain, islice

import click

from kho_inspect.cli.options import Input, exit_status, reads_handover, write_text


@click.command("ranges")
@reads_handover
@click.option("--order", type=click.IntRange(0, 52), help="Only blocks of this order.")
@click.option("--by-order", is_flag=True, help="Runs of equal order instead of merged ranges.")
@click.option("--owners", is_flag=True, help="Say who owns each range.")
@click.option("--limit", type=click.IntRange(0), help="Stop after that many.")
def command(
    given: Input, order: int | None, by_order: bool, owners: bool, limit: int | None
) -> int:
    """Preserved ranges: START-END (end exclusive), size, blocks per order."""
    from kho_inspect.render.ranges import iter_order, iter_ranges, range_line, with_owners

    handover = given.inspect()
    preserved = handover.preserved
    if order is not None:
        ranges = iter_order(preserved, order)
    elif by_order:
        ranges = chain.from_iterable(iter_order(preserved, each) for each in preserved.orders)
    else:
        ranges = iter_ranges(preserved)
    ranges = islice(ranges, limit)
    if owners:
        from kho_inspect.ownership import OwnerIndex

        ranges = with_owners(ranges, OwnerIndex(preserved, handover.claims), preserved.page_shift)
    if given.json:
        from kho_inspect.render.json import ranges_document

        given.write_json(ranges_document(handover, ranges))
        return exit_status(handover)
    write_text(f"{range_line(found)}\n" for found in ranges)
    if handover.faults:
        from kho_inspect.render.report import print_faults

        print_faults(given.console(), handover.faults)
    return exit_status(handover)
