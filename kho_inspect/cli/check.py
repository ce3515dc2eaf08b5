"""``check``: the verdict, for people and for CI."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from kho_inspect.abi import Abi, find_target
from kho_inspect.cli import exit_codes
from kho_inspect.cli.options import DumpFormat, Input, ParamType, reads_handover, write_text
from kho_inspect.errors import UnreadableInputError
from kho_inspect.units import Extent, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kho_inspect.rules.expectations import Expectation

MAX_EXPECTATIONS = 64 << 20
"""Bytes read of a file of expectations: a million files make as many."""
LEVELS = ("fatal", "error", "warning", "info")
REPORTS = ("text", "json", "junit", "sarif", "github")


class Area(ParamType):
    """``START+LEN``."""

    name = "start+len"

    def convert(self, value: object, param: object, ctx: object) -> Extent:
        if isinstance(value, Extent):
            return value
        try:
            start, size = (parse_size(part) for part in str(value).split("+"))
        except ValueError:
            self.fail(f"{value!r} is not START+LEN, each in hex or decimal")
        if not size:
            self.fail(f"{value!r} is an area of no size")
        return Extent(start, start + size)


class Target(ParamType):
    """``kho-v4``, ``v4``, ``linux-7.3``."""

    name = "target"

    def convert(self, value: object, param: object, ctx: object) -> tuple[str, Abi]:
        if isinstance(value, tuple):
            return value
        abi = find_target(str(value))
        if abi is None:
            self.fail(f"{value!r} is no kernel or ABI that is known: kho-v4, linux-7.1, …")
        return str(value), abi


_DUMP_FORMAT = click.option(
    "--dump-format",
    "format",
    type=DumpFormat(),
    default="auto",
    help="Dump format, elsewhere --format.",
)


@click.command("check")
@partial(reads_handover, dump_format=_DUMP_FORMAT)
@click.option("--target", type=Target(), help="Kernel to decide for: kho-v4, linux-7.1, …")
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
    "--scratch", type=Area(), multiple=True, help="A scratch area, START+LEN; repeat for each."
)
@click.option("--boot-dtb", type=click.Path(), help="Boot DTB whose /chosen names the scratch.")
@click.option(
    "--format",
    "formats",
    type=DumpFormat(REPORTS),
    metavar=f"[{'|'.join(REPORTS)}]",
    multiple=True,
    help="Form of the report; a dump format is taken too, as by the other commands.",
)
def command(
    given: Input,
    target: tuple[str, Abi] | None,
    fail_on: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    expect: str | None,
    formats: tuple[str, ...],
) -> int:
    """Would the next kernel take this handover, and would the data survive?"""
    from kho_inspect.inspection import Question, examine
    from kho_inspect.rules.base import Severity
    from kho_inspect.rules.engine import judge

    wanted = _code_filter(select, ignore)
    report = next((name for name in reversed(formats) if name in REPORTS), "text")
    dump_format = next(
        (name for name in reversed(formats) if name not in REPORTS), given.options.format
    )
    options = replace(given.options, format=dump_format)
    name, abi = target or ("", None)
    question = Question(abi, name, _expectations(expect))
    with given.opening() as advance:
        case = examine(given.dump, given.dtb, options, question, progress=advance)
    verdict = judge(case, wanted)
    threshold = Severity.FATAL + 1 if fail_on == "never" else Severity[fail_on.upper()]
    if given.json or report == "json":
        from kho_inspect.render.check_json import check_document

        given.write_json(check_document(verdict, given.dump, given.dtb))
    elif report == "text":
        from kho_inspect.render.findings import print_verdict

        print_verdict(given.console(), verdict)
    elif report == "junit":
        from kho_inspect.render.junit import junit

        write_text(junit(verdict, given.dump, threshold))
    elif report == "sarif":
        from kho_inspect.render.sarif import sarif

        write_text(sarif(verdict, given.dump))
    else:
        from kho_inspect.render.github import github

        write_text(github(verdict, given.dump))
    failed = any(finding.severity >= threshold for finding in verdict.findings)
    return exit_codes.FINDINGS if failed else exit_codes.CLEAN


def _code_filter(select: Sequence[str], ignore: Sequence[str]) -> Callable[[str], bool]:
    """Codes match by prefix: ``KHO2`` (or ``KHO2xx``) is the whole group."""
    chosen, dropped = _prefixes(select), _prefixes(ignore)
    return lambda code: (not chosen or code.startswith(chosen)) and not code.startswith(dropped)


def _prefixes(lists: Sequence[str]) -> tuple[str, ...]:
    from kho_inspect.rules.engine import BY_CODE

    found = []
    for code in ",".join(lists).split(","):
        if not code.strip():
            continue
        prefix = code.strip().upper().rstrip("X")
        prefix = prefix if prefix.startswith("KHO") else f"KHO{prefix}"
        if not any(known.startswith(prefix) for known in BY_CODE):
            raise click.UsageError(f"no rule {code.strip()!r}; explain --all lists them")
        found.append(prefix)
    return tuple(found)


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
