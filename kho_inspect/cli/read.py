"""``read``: the bytes at an address, or of a file."""

from functools import partial

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_handover, write_text
from kho_inspect.cli.output import binary_stdout, complain, report_gaps, require_bounded
from kho_inspect.cli.params import Address


@click.command("read", cls=Command)
@partial(reads_handover, more_arguments=True)
@click.argument("where")
@click.option("--length", type=Address(), metavar="N", help="Bytes to read at most.")
@click.option("--u64", is_flag=True, help="Little-endian numbers of 64 bits, one a line.")
@click.option("--strings", is_flag=True, help="Printable text of at least 4 characters.")
@click.option("--raw", is_flag=True, help="The bytes as they are, to stdout.")
@click.option("--force", is_flag=True, help="Write --raw to a terminal, too.")
def command(
    given: Input, where: str, length: int | None, u64: bool, strings: bool, raw: bool, force: bool
) -> int:
    """Show bytes of memory, or of one file, blob or region.

    WHERE is PADDR (256 bytes), PADDR+LEN, START-END, or SELECTOR[+OFFSET], up to the end. For an
    address, DTB is not read. Lines of a SELECTOR begin with the offset in it.

    Memory that is not stored is named on stderr, and makes the exit status 1. --raw writes zeros
    for it, as for a hole of a file, so that what follows stands at its offset.
    """
    from kho_inspect.inspection import inspect_opened
    from kho_inspect.model.contents import Item, Piece
    from kho_inspect.recover.content import Account, Reader, write_stream
    from kho_inspect.recover.evidence import evidence_of
    from kho_inspect.recover.places import NoAddressError, Places, parse_address

    if u64 + strings + raw + given.json > 1:
        raise click.UsageError("--u64, --strings, --raw and --json are forms of one output")
    out = binary_stdout(force) if raw else None
    try:
        extent = parse_address(where, length)
    except NoAddressError as error:
        complain(f"{error.message}; {error.hint}")
        return exit_codes.FINDINGS
    handover, evidence, start = None, None, 0
    if extent is None:
        opened = given.open()
        memory, handover = opened.memory, inspect_opened(opened, given.options)
        evidence = evidence_of(handover)
        item, start = Places(memory, handover).sole(where)
    else:
        memory = given.open_memory()
        item = Item(extent, extent.size, [Piece(0, extent.start, extent.size)])
    end = item.size if length is None else min(item.size, start + length)
    account = Account()
    parts = account.watched(Reader(memory).parts(item, start, end))
    in_file = handover is not None
    if out:
        require_bounded(end - start, sum(stored.size for stored in memory.stored))
        write_stream(out, parts)
    elif given.json:
        from kho_inspect.render.json import answer, dump_head
        from kho_inspect.render.reading import part_documents

        members = {"selector": item.name, "parts": part_documents(parts)}
        head = answer(handover, **members) if handover else {**dump_head(memory), **members}
        given.write_json(head)
    else:
        from kho_inspect.render.reading import hexdump_lines, string_lines, u64_lines

        lines = u64_lines if u64 else string_lines if strings else hexdump_lines
        write_text(lines(parts, in_file))
    status = handover_status(handover) if handover else exit_codes.CLEAN
    lacking = report_gaps(item, account.marked(evidence))
    return exit_codes.FINDINGS if lacking and not status else status
