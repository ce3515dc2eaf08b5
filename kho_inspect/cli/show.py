"""``show``: the report."""

from __future__ import annotations

import click

from kho_inspect.cli.options import Input, exit_status, reads_handover


@click.command("show")
@reads_handover
@click.option("--full", is_flag=True, help="Print every node of the radix tree.")
def command(given: Input, full: bool) -> int:
    """The whole report (the default)."""
    handover = given.inspect()
    if given.json:
        from kho_inspect.render.json import show_document

        given.write_json(show_document(handover))
    else:
        from kho_inspect.render.report import print_report

        print_report(given.console(), handover, full_tree_wanted=full)
    return exit_status(handover)
