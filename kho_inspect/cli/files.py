"""``files``: every file of every session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_handover, write_lines
from kho_inspect.cli.output import complain
from kho_inspect.units import plural

if TYPE_CHECKING:
    from kho_inspect.model.luo import ListedFile


@click.command("files", cls=Command)
@partial(reads_handover, more_arguments=True)
@click.argument("selectors", metavar="[SELECTOR]...", nargs=-1)
@click.option(
    "--long",
    is_flag=True,
    help="Position, seals, descriptor, given name, and what it looks like, too.",
)
@click.option("--sha256", is_flag=True, help="The SHA-256 of each file's content, too.")
def command(given: Input, selectors: tuple[str, ...], long: bool, sha256: bool) -> int:
    """List the files of all sessions: selector, bytes, folios, handler.

    One file a line; what is not known is -. In a pipe columns are separated by tabs, without a
    header. SELECTOR is as of extract: a file, its session, or either with * and ?. A file without
    all its content has no SHA-256, and makes the exit status 1.
    """
    from kho_inspect.inspection import inspect_opened
    from kho_inspect.recover.content import Reader
    from kho_inspect.recover.files import list_files
    from kho_inspect.render.files import file_documents, file_lines

    opened = given.open()
    memory, handover = opened.memory, inspect_opened(opened, given.options)
    found = list_files(
        handover,
        selectors,
        Reader(memory) if sha256 else None,
        Reader(memory) if long or given.json else None,
    )
    lacking = []

    def watched() -> Iterator[ListedFile]:
        for one in found:
            if sha256 and one.file.content and one.sha256 is None:
                lacking.append(one)
            yield one

    if given.json:
        from kho_inspect.render.json import answer

        given.write_json(answer(handover, files=file_documents(watched(), handover.names)))
    else:
        documents = file_documents(watched(), handover.names)
        write_lines(file_lines(documents, long, sha256, sys.stdout.isatty()))
    if lacking:
        complain(f"{plural(len(lacking), 'file')} without all content: no SHA-256")
    return handover_status(handover) or (exit_codes.FINDINGS if lacking else exit_codes.CLEAN)
