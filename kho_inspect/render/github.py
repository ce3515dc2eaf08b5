"""Verdicts as GitHub workflow commands."""

from __future__ import annotations

from collections.abc import Iterator

from kho_inspect.render.findings import counted, place, statements
from kho_inspect.render.safe import safe
from kho_inspect.rules.base import Severity
from kho_inspect.rules.engine import Verdict

_LEVELS = {
    Severity.FATAL: "error",
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.INFO: "notice",
}


def github(verdict: Verdict, dump: str) -> Iterator[str]:
    """Commands that GitHub shows as annotations, and the statements in plain words."""
    for finding in verdict.findings:
        level = _LEVELS[finding.severity]
        text = f"{counted(finding)} [{place(finding)}] {finding.hint}"
        title = _escaped(f"{finding.code} {finding.severity.label}", is_property=True)
        file = _escaped(dump, is_property=True)
        yield f"::{level} file={file},title={title}::{_escaped(text)}\n"
    for line in statements(verdict):
        yield f"{_escaped(line.plain)}\n"


def _escaped(text: str, *, is_property: bool = False) -> str:
    text = safe(text).replace("%", "%25")
    return text.replace(":", "%3A").replace(",", "%2C") if is_property else text
