"""Verdicts as GitHub workflow commands."""

from collections.abc import Iterator

from kho_inspect.errors import KhoError
from kho_inspect.render.findings import statements
from kho_inspect.render.safe import no_command, safe
from kho_inspect.render.verdicts import counted, level, place
from kho_inspect.rules.engine import Verdict


def github(verdict: Verdict, dump: str, error: KhoError | None = None) -> Iterator[str]:
    """Commands that GitHub shows as annotations, and the statements in plain words.

    An ``error`` is why nothing could be judged.
    """
    if error is not None:
        text = " ".join(filter(None, (error.message, error.hint)))
        yield _annotation("error", error.source or dump, "input", text)
    for finding in verdict.findings:
        text = f"{counted(finding)} [{place(finding)}] {finding.hint}"
        title = f"{finding.code} {finding.severity.label}"
        yield _annotation(level(finding.severity, "notice"), dump, title, text)
    for line in statements(verdict):
        yield no_command(f"{_escaped(line.plain)}\n")


def _annotation(kind: str, path: str, title: str, text: str) -> str:
    properties = (
        f"file={_escaped(path, is_property=True)},title={_escaped(title, is_property=True)}"
    )
    return "::" + no_command(f"{kind} {properties}::{_escaped(text)}\n")


def _escaped(text: str, *, is_property: bool = False) -> str:
    text = safe(text).replace("%", "%25")
    return text.replace(":", "%3A").replace(",", "%2C") if is_property else text
