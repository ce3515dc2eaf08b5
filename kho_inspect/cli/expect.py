"""``expect``: write expectations from a good image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.options import Input, reads_handover, write_text
from kho_inspect.errors import UnreadableInputError
from kho_inspect.units import plural

if TYPE_CHECKING:
    from kho_inspect.model.handover import Handover


@click.command("expect")
@reads_handover
@click.option("--force", is_flag=True, help="Write down a damaged image too.")
def command(given: Input, force: bool) -> int:
    """Write a starting file for check --expect from a good image."""
    handover = given.inspect()
    status = handover_status(handover)
    if status == exit_codes.CANNOT_JUDGE and not force:
        return status
    if not force and (trouble := _trouble(handover)):
        raise UnreadableInputError(
            f"{handover.source.path} is not a good image: {trouble}",
            hint="check says what is wrong; --force writes the file all the same",
        )
    from kho_inspect.render.expectations import expectation_file

    if given.json:
        import tomllib

        from kho_inspect.render.json import SCHEMA_VERSION

        document = tomllib.loads("".join(expectation_file(handover)))
        given.write_json({"schema_version": SCHEMA_VERSION, "expectations": document})
        return status
    write_text(expectation_file(handover))
    return status


def _trouble(handover: Handover) -> str | None:
    """Why a file of expectations would hold later images to damage."""
    if handover.faults:
        return plural(len(handover.faults), "fault")
    return None if handover.preserved.bytes else "nothing is preserved"
