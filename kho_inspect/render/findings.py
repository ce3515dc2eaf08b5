"""Verdict and findings on the console."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from kho_inspect.render.console import grid, plain
from kho_inspect.render.names import message_text, path_name
from kho_inspect.rules.base import Finding, Severity
from kho_inspect.rules.engine import NotChecked, Verdict
from kho_inspect.units import plural

MAX_LISTED = 1000
"""Findings that ``check`` prints as text: Rich needs a millisecond for each."""

STYLES = {
    Severity.FATAL: "bold red",
    Severity.ERROR: "red",
    Severity.WARNING: "yellow",
    Severity.INFO: "cyan",
}
_WORDS = {
    "fatal": "FATAL: the next kernel would refuse it, panic, or corrupt memory",
    "damaged": "DAMAGED: the next kernel would take it, but data is lost",
    "suspicious": "SUSPICIOUS: the next kernel would take it, but see the warnings",
    "sound": "SOUND: the next kernel would take it, and the data would survive",
}


def verdict_line(verdict: Verdict) -> Text:
    """``✔ SOUND …``"""
    mark, style = ("✔", "bold green") if verdict.word == "sound" else ("✘", STYLES[verdict.worst])
    return Text(f"{mark} {_WORDS[verdict.word]}", style)


def counts_line(verdict: Verdict) -> Text:
    """``74 rules: 1 fatal, 2 warnings; 5 not checked``"""
    counts = []
    for severity in sorted(Severity, reverse=True):
        count = sum(finding.severity is severity for finding in verdict.findings)
        if count:
            noun = severity.label if severity in (Severity.FATAL, Severity.INFO) else ""
            counts.append(f"{count} {noun}" if noun else plural(count, severity.label))
    found = ", ".join(counts) or "nothing found"
    left = f"; {len(verdict.not_checked)} not checked" if verdict.not_checked else ""
    return Text(f"{plural(verdict.checked, 'rule')}: {found}{left}")


def print_findings(
    console: Console,
    findings: Sequence[Finding],
    limit: int,
    rest: str = "kho-inspect check DUMP DTB",
) -> None:
    """Grouped by severity, worst first: what, where, what to do; ``rest`` says how to get more."""
    shown = findings[:limit]
    for number, finding in enumerate(shown):
        if number == 0 or shown[number - 1].severity != finding.severity:
            console.print()
            console.print(Text(finding.severity.label, STYLES[finding.severity]))
        words = [plain(message_text(finding.message)), plain(f"→ {finding.hint}")]
        if where := place(finding):
            words.insert(1, plain(f"at {where}", "dim"))
        code = Text(finding.code, STYLES[finding.severity])
        console.print(grid([(code if not row else "", text) for row, text in enumerate(words)], 2))
    if len(findings) > limit:
        console.print(Text(f"  … {len(findings) - limit:,} more: {rest}", "dim"))


def place(finding: Finding) -> str:
    """Structure path and address."""
    address = "" if finding.paddr is None else f"{finding.paddr:#x}"
    path = path_name(finding.path)
    return f"{path} ({address})" if path and address else path or address


def print_not_checked(console: Console, not_checked: Sequence[NotChecked]) -> None:
    """The reasons, each with the rules that it concerns."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for one in not_checked:
        reasons[one.why].append(one.code)
    if not reasons:
        return
    console.print()
    console.print(Text("not checked", "bold"))
    for why, codes in reasons.items():
        listed = " ".join(codes) if len(codes) <= 6 else f"{codes[0]} … {codes[-1]} ({len(codes)})"
        console.print(Padding(plain(f"{listed}: {why}", "dim"), (0, 0, 0, 2)))


def print_verdict(console: Console, verdict: Verdict) -> None:
    """The whole of ``check``."""
    console.print(verdict_line(verdict))
    console.print(counts_line(verdict))
    print_findings(console, verdict.findings, MAX_LISTED, "--json lists them all")
    print_not_checked(console, verdict.not_checked)
