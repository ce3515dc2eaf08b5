"""``check``: the verdict, for people and for CI."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from kho_inspect.cli.exit_codes import verdict_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import REPORTS, Input, judged, reads_handover
from kho_inspect.cli.params import code_prefixes
from kho_inspect.errors import ExpectationError
from kho_inspect.units import human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kho_inspect.inspection import Question
    from kho_inspect.rules.engine import Verdict
    from kho_inspect.rules.expectations import Expectation

LEVELS = ("fatal", "error", "warning", "info")


@click.command("check", cls=Command)
@reads_handover
@click.argument("more", metavar="[DUMP [DTB]]...", nargs=-1)
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
@click.option(
    "--ignore-owner",
    "ignored",
    multiple=True,
    metavar="SELECTOR",
    help="No findings below fatal on these owners alone: LUO/bulk-0*.",
)
@click.option(
    "--expect", metavar="FILE", help="Expectations in TOML or JSON, as expect writes. -: of stdin."
)
@click.option(
    "--require", multiple=True, metavar="CODES", help="Rules that must not be blocked; or all."
)
@click.option(
    "--format", "form", type=click.Choice(REPORTS), help="Form of the report; line is for grep."
)
def command(
    given: Input,
    more: tuple[str, ...],
    question: Question,
    fail_on: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    ignored: tuple[str, ...],
    require: tuple[str, ...],
    expect: str | None,
) -> int:
    """What the next kernel would do with this handover, and whether it is whole.

    DUMP DTB DUMP DTB …, or @FILE with a name on each line: one line an image.
    """
    from kho_inspect.cli.many import check_all, images_of
    from kho_inspect.inspection import examine
    from kho_inspect.rules.base import Severity
    from kho_inspect.rules.engine import judge

    wanted = _code_filter(select, ignore)
    if expect is not None:
        from kho_inspect.recover.content import digester

        question = question._replace(expectations=_expectations(expect), digests=digester)
    required = _code_filter(require, ()) if require and "all" not in require else None
    threshold = Severity.FATAL + 1 if fail_on == "never" else Severity[fail_on.upper()]

    def verdict_on(one: Input) -> Verdict:
        with one.opening() as advance:
            case = examine(one.dump, one.dtb, one.options, question, progress=advance)
        if ignored and case.opened is not None:
            from kho_inspect.recover.selectors import select_owners

            owners = *case.opened.claims.owners, *case.owners.values()
            case = replace(case, ignored=select_owners(owners, ignored))
        return judge(case, wanted)

    def status_of(verdict: Verdict) -> int:
        if not require:
            return verdict_status(verdict, threshold)
        return verdict_status(verdict, threshold, required or (lambda code: True))

    if images := images_of(given, more):
        return check_all(images, verdict_on, status_of, question.target_name)
    verdict = verdict_on(given)
    given.write_verdict(verdict, threshold)
    return status_of(verdict)


def _code_filter(select: Sequence[str], ignore: Sequence[str]) -> Callable[[str], bool]:
    """Codes match by prefix: ``KHO2`` (or ``KHO2xx``) is the whole group."""
    chosen, dropped = code_prefixes(select), code_prefixes(ignore)
    return lambda code: (not chosen or code.startswith(chosen)) and not code.startswith(dropped)


def _expectations(path: str) -> list[Expectation]:
    from kho_inspect.memory.files import read_head, shown_path
    from kho_inspect.rules.expectations import MAX_SIZE, parse_expectations

    data, path = read_head(path, MAX_SIZE + 1), shown_path(path)
    if len(data) > MAX_SIZE:
        raise ExpectationError(f"{path} has more than {human_size(MAX_SIZE)}", source=path)
    try:
        return parse_expectations(data.decode(), path)
    except UnicodeDecodeError as error:
        raise ExpectationError(f"cannot read {path}: not UTF-8", source=path) from error
