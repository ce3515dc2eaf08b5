"""``carve``: what structures of a handover yield by their contents, without DTB and map."""

from functools import partial

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, carved, reads_handover
from kho_inspect.cli.output import complain
from kho_inspect.cli.params import Address


@click.command("carve", cls=Command)
@partial(reads_handover, needs_dtb=False)
@click.option(
    "--sessions", type=Address(), metavar="PADDR", help="Begin at this block of sessions."
)
def command(given: Input, sessions: int | None) -> int:
    """List what a dump yields by its contents alone: files, regions and blobs.

    Structures of LUO, memfds, memblock and kho_test are found by what they hold and held to each
    other; no DTB or map is read. "confirmed" has every structure that the kernel writes for it,
    "likely" all but one, "doubtful" reads well by itself only. extract --carved writes them.
    """
    from kho_inspect.recover.selectors import numbered

    memory, carving = carved(given, sessions)
    items = list(numbered(list(carving.items)))
    if given.json and not items:
        complain(f"nothing in {memory.path} reads as part of a handover")
    if given.json:
        from kho_inspect.recover.content import Reader
        from kho_inspect.render.carved_json import carve_document

        given.write_json(carve_document(memory, carving, items, map(Reader(memory).digest, items)))
    else:
        from kho_inspect.render.carved import print_carving

        print_carving(given.console(), memory.path, carving, items)
    return exit_codes.CLEAN if items else exit_codes.UNREADABLE
