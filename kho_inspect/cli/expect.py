"""``expect``: write expectations from a good image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_handover, takes_mode, write_document, write_text
from kho_inspect.cli.output import complain
from kho_inspect.errors import UnreadableInputError
from kho_inspect.units import plural

if TYPE_CHECKING:
    from kho_inspect.model.handover import Handover
    from kho_inspect.model.identity import Owner


@click.command("expect", cls=Command)
@reads_handover
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File to write. -: to stdout, as without it.",
)
@click.option("--content", is_flag=True, help="The SHA-256 of each file's content, too.")
@click.option(
    "--force", is_flag=True, help="Write down a damaged image too; overwrite FILE if it exists."
)
@takes_mode
def command(given: Input, output: Path | None, content: bool, force: bool, mode: int) -> int:
    """Write a starting file for check --expect from a good image.

    TOML, or with --json the same in JSON. Sizes are bounds: preserved.min_bytes is at least, every
    other at most that much. Of files, size and --content are exact.
    """
    from kho_inspect.inspection import inspect_opened
    from kho_inspect.recover.atomic import atomic_file, require_absent, require_replaceable
    from kho_inspect.recover.content import Reader
    from kho_inspect.recover.files import list_files

    path = None if output is None or str(output) == "-" else output
    if path is not None:
        require_absent(path, force)
        require_replaceable(path, given.inputs())
    opened = given.open()
    handover = inspect_opened(opened, given.options)
    status = handover_status(handover)
    if status == exit_codes.CANNOT_JUDGE and not force:
        return status
    digests: dict[Owner, str | None] = {}
    if content:
        files = list_files(handover, (), Reader(opened.memory))
        digests = {one.file.owner: one.sha256 for one in files if one.file.content}
    for trouble in _troubles(handover, digests):
        words = f"{handover.source.path} is not a good image: {trouble}"
        if not force:
            hint = "check says what is wrong; --force writes the file all the same"
            raise UnreadableInputError(words, hint=hint)
        complain(f"caution: {words}")
        status = status or exit_codes.FINDINGS
    pieces = _expectations(given, handover, digests)
    if path is None:
        (write_document if given.json else write_text)(pieces)
        return status
    with atomic_file(path, mode) as file:
        file.writelines(piece.encode() for piece in pieces)
    return status


def _troubles(handover: Handover, digests: Mapping[Owner, str | None]) -> Iterable[str]:
    """Why a file of expectations would hold later images to damage, or to less than was asked."""
    from kho_inspect.inspection import case_of
    from kho_inspect.render.names import owner_name
    from kho_inspect.rules.engine import judge
    from kho_inspect.rules.statements import Integrity

    verdict = judge(case_of(handover))
    if handover.faults:
        yield plural(len(handover.faults), "fault")
    elif verdict.integrity is Integrity.DAMAGED:
        codes = dict.fromkeys(one.code for one in verdict.findings if one.severity.label != "info")
        yield f"it is damaged ({', '.join(codes)})"
    if not handover.preserved.bytes:
        yield "nothing is preserved"
    lacking = [owner_name(owner) for owner, digest in digests.items() if digest is None]
    if lacking:
        more = f", nor have {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
        yield f"{lacking[0]} has no SHA-256{more}: content is lacking, or holes are too large"


def _expectations(
    given: Input, handover: Handover, digests: Mapping[Owner, str | None]
) -> Iterable[str]:
    from kho_inspect.render.expectations import expectation_file

    lines = expectation_file(handover, digests)
    if not given.json:
        return lines
    import tomllib

    from kho_inspect.render.json import SCHEMA_VERSION, stream

    expectations = tomllib.loads("".join(lines))
    return stream({"schema_version": SCHEMA_VERSION, "expectations": expectations})
