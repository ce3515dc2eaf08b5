"""``addr``: what an address, or a place in a file, is to the handover."""

import sys
from collections.abc import Iterable, Iterator
from functools import partial

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.exit_codes import handover_status, misfit_of
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_handover, takes_scratch
from kho_inspect.cli.output import complain


@click.command("addr", cls=Command)
@partial(reads_handover, more_arguments=True)
@takes_scratch
@click.argument("places", metavar="PLACE...", nargs=-1, required=True)
def command(given: Input, places: tuple[str, ...]) -> int:
    """Look addresses up: owner, block, map, sub-node, scratch.

    PLACE is PADDR, pfn:N, SELECTOR[+OFFSET] (as of extract: a file, or what * and ? find), or - for
    one a line on stdin. A virtual address is one of the kernel that was booted last, whose page
    tables give the physical one. What has none is named on stderr, and makes the exit status 1.
    """
    from kho_inspect.inspection import inspect_opened
    from kho_inspect.ownership.address import describe_address
    from kho_inspect.recover.places import Places

    opened = given.open()
    handover = inspect_opened(opened, given.options)
    known = handover.fdt.reads_map and misfit_of(handover) is None
    finder = Places(opened.memory, handover)
    asked = [one for place in _lines(places) for one in finder.find(place)]
    lacking = [one for one in asked if one.paddr is None]
    for one in lacking:
        complain(f"{one.asked}: {one.why}")
    resolved = [one for one in asked if one.paddr is not None]
    found = [describe_address(opened.memory, handover, one.paddr or 0) for one in resolved]
    if given.json:
        from kho_inspect.render.json import addresses_document

        document = addresses_document(handover, found, known=known)
        for entry, one in zip(document["addresses"], resolved, strict=True):
            entry["asked"] = one.asked
            entry["translated_by"] = one.kernel and {
                "release": one.kernel.release,
                "build_id": one.kernel.build_id,
                "order": one.kernel.order,
            }
        lost = [{"asked": one.asked, "why": one.why} for one in lacking]
        given.write_json({**document, "unresolved": lost})
        return handover_status(handover) or (exit_codes.FINDINGS if lacking else exit_codes.CLEAN)
    from kho_inspect.render.addresses import print_address
    from kho_inspect.render.console import plain

    console = given.console()
    for one, info in zip(resolved, found, strict=True):
        if one.is_named:
            tables = f" by the page tables of Linux {one.kernel.release}" if one.kernel else ""
            console.print(plain(f"{one.asked} → {info.paddr:#x}{tables}"))
        print_address(console, info, handover.names, known=known)
    return handover_status(handover) or (exit_codes.FINDINGS if lacking else exit_codes.CLEAN)


def _lines(places: Iterable[str]) -> Iterator[str]:
    """The places, with those on stdin in the place of ``-``."""
    for place in places:
        if place != "-":
            yield place
        else:
            yield from (line.strip() for line in sys.stdin or () if line.strip())
