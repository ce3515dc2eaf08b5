"""``show``: the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kho_inspect.cli.exit_codes import verdict_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, judged, reads_handover
from kho_inspect.cli.pager import paged

if TYPE_CHECKING:
    from kho_inspect.inspection import Question


@click.command("show", cls=Command)
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
    verdict = judge(case)
    if given.json:
        from kho_inspect.render.check_json import statements_json
        from kho_inspect.render.json import head, show_document

        document = {**head(given.dump, given.dtb), "fdt": None}
        if case.opened is not None:
            document = show_document(case.opened, known=verdict.capture.fits)
        given.write_json({**document, "check": statements_json(verdict)})
    elif case.opened is None:
        given.write_verdict(verdict)
    elif full:
        from kho_inspect.render.report import print_full

        with paged(given.console()) as console:
            print_full(console, case.opened, verdict)
    else:
        from kho_inspect.render.first_screen import print_first_screen

        print_first_screen(given.console(), case.opened, verdict)
    return verdict_status(verdict, Severity.WARNING)
