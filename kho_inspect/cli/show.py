"""``show``: the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kho_inspect.cli.check import exit_status
from kho_inspect.cli.options import Input, judged, reads_handover
from kho_inspect.cli.pager import paged

if TYPE_CHECKING:
    from kho_inspect.inspection import Question


@click.command("show")
@reads_handover
@judged
@click.option("--full", is_flag=True, help="Orders, ranges, tree and contents too; in a pager.")
def command(given: Input, question: Question, full: bool) -> int:
    """What it is, whether it is sound, and what to do (the default)."""
    from kho_inspect.inspection import examine
    from kho_inspect.rules.base import Severity
    from kho_inspect.rules.engine import judge

    with given.opening() as advance:
        case = examine(given.dump, given.dtb, given.options, question, progress=advance)
    if case.fdt_error is not None:
        raise case.fdt_error
    verdict = judge(case)
    if given.json:
        from kho_inspect.render.check_json import statements_json
        from kho_inspect.render.json import show_document

        document = show_document(case.handover)
        given.write_json({**document, "check": statements_json(verdict)})
    elif full:
        from kho_inspect.render.report import print_full

        with paged(given.console()) as console:
            print_full(console, case.handover, verdict)
    else:
        from kho_inspect.render.first_screen import print_first_screen

        print_first_screen(given.console(), case.handover, verdict)
    return exit_status(verdict, Severity.WARNING)
