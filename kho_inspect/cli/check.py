"""``check``: the verdict, for people and for CI."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from kho_inspect.cli.exit_codes import verdict_status
from kho_inspect.cli.options import REPORTS, Input, judged, reads_handover
from kho_inspect.cli.params import code_prefixes
from kho_inspect.errors import UnreadableInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kho_inspect.inspection import Question
    from kho_inspect.rules.expectations import Expectation

MAX_EXPECTATIONS = 64 << 20
"""Bytes read of a file of expectations: a million files make as many."""
LEVELS = ("fatal", "error", "warning", "info")


@click.command("check")
@reads_handover
@judged
@click.option(
    "--fail-on",
    type=click.Choice([*LEVELS, "never"]),
    default="warning",
    show_default=True,
    help="Least severity that makes the exit status 1.",
)
@click.option("--select", multiple=True, metavar="CODES", help="Only these: KHO2,KHO308.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Not these.")
@click.option("--expect", type=click.Path(), help="TOML file of expectations.")
@click.option(
    "--require", multiple=True, metavar="CODES", help="Rules that must not be blocked; or all."
)
@click.option(
    "--format", "form", type=click.Choice(REPORTS), help="Form of the report; line is for grep."
)
def command(
    given: Input,
    question: Question,
    fail_on: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    require: tuple[str, ...],
    expect: str | None,
) -> int:
    """What the next kernel would do with this handover, and whether it is whole."""
    from kho_inspect.inspection import examine
    from kho_inspect.rules.base import Severity
    from kho_inspect.rules.engine import judge

    wanted = _code_filter(select, ignore)
    question = replace(question, expectations=_expectations(expect))
    required = _code_filter(require, ()) if require and "all" not in require else None
    with given.opening() as advance:
        case = examine(given.dump, given.dtb, given.options, question, progress=advance)
    verdict = judge(case, wanted)
    threshold = Severity.FATAL + 1 if fail_on == "never" else Severity[fail_on.upper()]
    given.write_verdict(verdict, threshold)
    if not require:
        return verdict_status(verdict, threshold)
    return verdict_status(verdict, threshold, required or (lambda code: True))


def _code_filter(select: Sequence[str], ignore: Sequence[str]) -> Callable[[str], bool]:
    """Codes match by prefix: ``KHO2`` (or ``KHO2xx``) is the whole group."""
    chosen, dropped = code_prefixes(select), code_prefixes(ignore)
    return lambda code: (not chosen or code.startswith(chosen)) and not code.startswith(dropped)


def _expectations(path: str | None) -> list[Expectation] | None:
    if path is None:
        return None
    from kho_inspect.memory.files import read_head
    from kho_inspect.rules.expectations import parse_expectations

    try:
        text = read_head(path, MAX_EXPECTATIONS).decode()
    except UnicodeDecodeError as error:
        raise UnreadableInputError(f"cannot read {path}: not UTF-8", source=path) from error
    return parse_expectations(text, path)
