"""``expect``: write expectations from a good image."""

from __future__ import annotations

import click

from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.options import Input, reads_handover, write_text


@click.command("expect")
@reads_handover
def command(given: Input) -> int:
    """Write a starting file for check --expect from a good image."""
    handover = given.inspect()
    from kho_inspect.render.expectations import expectation_file

    if given.json:
        import tomllib

        from kho_inspect.render.json import SCHEMA_VERSION

        document = tomllib.loads("".join(expectation_file(handover)))
        given.write_json({"schema_version": SCHEMA_VERSION, "expectations": document})
        return handover_status(handover)
    write_text(expectation_file(handover))
    return handover_status(handover)
