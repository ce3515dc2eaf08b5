"""``show``: the report."""

from __future__ import annotations

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.options import Input, reads_handover


@click.command("show")
@reads_handover
@click.option("--full", is_flag=True, help="Print every node of the radix tree.")
def command(given: Input, full: bool) -> int:
    """The whole report (the default)."""
    from kho_inspect.inspection import case_of
    from kho_inspect.rules.base import Severity
    from kho_inspect.rules.engine import judge

    handover = given.inspect()
    verdict = judge(case_of(handover))
    if given.json:
        from kho_inspect.render.check_json import findings_json
        from kho_inspect.render.json import show_document

        document = show_document(handover)
        given.write_json({**document, "verdict": verdict.word, "findings": findings_json(verdict)})
    else:
        from kho_inspect.render.report import print_report

        print_report(given.console(), handover, verdict, full_tree_wanted=full)
    bad = handover.faults or verdict.worst >= Severity.WARNING
    return exit_codes.FINDINGS if bad else exit_codes.CLEAN
