"""``find``: every place of some bytes."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_handover, write_lines
from kho_inspect.cli.output import complain
from kho_inspect.cli.progress import progress_bar
from kho_inspect.errors import KhoError
from kho_inspect.units import human_size, parse_size

if TYPE_CHECKING:
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.model.handover import Handover


@click.command("find", cls=Command)
@partial(reads_handover, more_arguments=True)
@click.argument("pattern", metavar="TEXT")
@click.option("--hex", "as_hex", is_flag=True, help="TEXT is bytes in hex: DEADBEEF, de ad be ef.")
@click.option("--u64", is_flag=True, help="TEXT is a number, stored as a little-endian u64.")
@click.option("--limit", type=click.IntRange(1), help="Stop after that many places.")
def command(given: Input, pattern: str, as_hex: bool, u64: bool, limit: int | None) -> int:
    """Find text or bytes in all stored memory: each place, and whose it is.

    TEXT is searched as UTF-8, case counts. With auto for DTB, and no handover in the dump, there
    are still the places. Exit status 1 where there is none.
    """
    from kho_inspect.locate.search import search

    if as_hex and u64:
        raise click.UsageError("--hex or --u64?")
    wanted = _bytes(pattern, as_hex, u64)
    memory = given.open_memory()
    handover = _handover(given, memory)
    found = 0

    def count(size: int) -> None:
        nonlocal found
        found += size

    stored = sum(extent.size for extent in memory.stored)
    with progress_bar("search", stored, beside_output=False) as advance:
        places = islice(search(memory, wanted, advance), limit)
        if given.json:
            from kho_inspect.render.found import find_document

            given.write_json(find_document(memory, handover, wanted, places, count))
        else:
            from kho_inspect.render.found import found_lines

            write_lines(found_lines(places, handover, count))
    if not found:
        complain(f"not found in {human_size(stored)} that the dump stores")
    status = handover_status(handover) if handover else exit_codes.CLEAN
    return status if found or status else exit_codes.FINDINGS


def _bytes(pattern: str, as_hex: bool, u64: bool) -> bytes:
    """What is searched. Raises click.UsageError."""
    from kho_inspect.locate.search import MAX_PATTERN

    if as_hex:
        try:
            wanted = bytes.fromhex(pattern.removeprefix("0x"))
        except ValueError:
            raise click.UsageError(f"{pattern!r} is not hex: two digits for each byte") from None
    elif u64:
        try:
            wanted = parse_size(pattern).to_bytes(8, "little")
        except (ValueError, OverflowError) as error:
            raise click.UsageError(str(error)) from error
    else:
        wanted = pattern.encode("utf-8", "surrogateescape")
    if not wanted:
        raise click.UsageError("nothing to find")
    if len(wanted) > MAX_PATTERN:
        raise click.UsageError(f"more than {MAX_PATTERN:,} bytes to find")
    if not any(wanted):
        raise click.UsageError("zeros alone are everywhere in memory that is not used")
    return wanted


def _handover(given: Input, memory: PhysicalMemory) -> Handover | None:
    """The handover; None where none was named and there is none in the dump."""
    from kho_inspect.inspection import inspect_opened, open_root

    try:
        return inspect_opened(open_root(memory, given.dtb, given.options), given.options)
    except KhoError as error:
        if given.dtb is not None:
            raise
        complain(f"caution: {error.message}: owners are not known")
        return None
