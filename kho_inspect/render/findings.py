"""Verdict and findings on the console."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from kho_inspect.render.console import grid, most, plain
from kho_inspect.render.names import message_text
from kho_inspect.render.verdicts import decision_reasons, place
from kho_inspect.rules.base import Decision, Finding, Severity
from kho_inspect.rules.engine import BY_CODE, Blocked, Verdict
from kho_inspect.rules.statements import CaptureState, Integrity, Met
from kho_inspect.units import plural

MAX_ALIKE = 3
"""Findings of one rule that are printed as text: what is alike has one cause, as a rule."""

STYLES = {
    Severity.FATAL: "bold red",
    Severity.ERROR: "red",
    Severity.WARNING: "yellow",
    Severity.INFO: "cyan",
}
_CAPTURE = {
    CaptureState.COMPLETE: "complete",
    CaptureState.INCOMPLETE: "incomplete: not all that the handover points to could be read",
    CaptureState.RECYCLED: "recycled: taken after the next kernel had reused this memory",
    CaptureState.MISMATCH: "does not fit: dump, DTB, base, map or page size",
}
_DECISION = {
    Decision.ACCEPTS: "accepts it",
    Decision.REFUSES: "refuses it",
    Decision.PANICS: "panics or hangs",
}
_INTEGRITY = {
    Integrity.NO_DEFECT: "no defect found",
    Integrity.SUSPICIOUS: "suspicious",
    Integrity.DAMAGED: "damaged",
    Integrity.UNDECIDED: "undecided",
}


def statements(verdict: Verdict, most: int | None = None) -> list[Text]:
    """Capture, decision, integrity and what was expected, a line each; ``most`` reasons."""
    capture, decision, integrity = verdict.capture, verdict.decision, verdict.integrity
    lines = [
        _statement("capture", _CAPTURE[capture.state], capture.state is CaptureState.COMPLETE),
        *_reasons([message_text(reason) for reason in capture.reasons], most),
    ]
    if capture.suggestion:
        where = " in place of the DTB" if capture.suggestion == "auto" else ""
        lines.append(plain(f"    this fits: {capture.suggestion}{where}", "bold"))
    codes = ", ".join(decision.reasons)
    words = f"unknown for {decision.target}"
    if decision.state is not Decision.UNKNOWN:
        words = f"{decision.target} {_DECISION[decision.state]}"
    words += f": {codes}" if codes else ""
    lines.append(_statement("decision", words, decision.state is Decision.ACCEPTS))
    lines += _reasons(decision_reasons(verdict), most)
    blocked = len(verdict.blocked_codes)
    counts = f"{plural(verdict.ran, 'rule')} ran, {len(verdict.not_applicable)} do not apply"
    counts += f", {blocked} blocked" if blocked else ""
    words = f"{_INTEGRITY[integrity]} ({counts})"
    lines.append(_statement("integrity", words, integrity is Integrity.NO_DEFECT))
    if verdict.expectations is not Met.NONE:
        met = verdict.expectations is Met.MET
        lines.append(_statement("expected", "met" if met else "differs", met))
    return lines


def _reasons(reasons: Sequence[str], most: int | None) -> list[Text]:
    """A line each; the first says how many there are where not all are listed."""
    head = f"({most} of {len(reasons)}: check) " if most and len(reasons) > most else ""
    listed = reasons[:most]
    return [plain(f"    {'' if at else head}{words}", "dim") for at, words in enumerate(listed)]


def _statement(name: str, words: str, good: bool) -> Text:
    mark, style = ("✔", "bold green") if good else ("✘", "bold red")
    return Text.assemble((f"{mark} {name:<10} ", style), plain(words))


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Grouped by severity and code, worst first: what, where, and once what to do."""
    severity = None
    for (worst, name), group in groupby(findings, lambda finding: (finding.severity, finding.code)):
        if severity is not worst:
            severity = worst
            console.print()
            console.print(Text(worst.label, STYLES[worst]))
        alike = list(group)
        words = []
        listed = most([spot for finding in alike for spot in finding.places], MAX_ALIKE)
        for spot in listed:
            words.append(plain(message_text(spot.message)))
            if where := place(spot):
                words.append(plain(f"at {where}", "dim"))
        left = sum(finding.count for finding in alike) - len(listed)
        if left > 0:
            kept = sum(len(finding.places) for finding in alike) - len(listed)
            words.append(plain(f"… {left:,} more{_kept(kept, left)}", "dim"))
        words.append(plain(f"→ {alike[0].hint}"))
        code = Text(name, STYLES[worst])
        console.print(grid([(code if not row else "", text) for row, text in enumerate(words)], 2))


def _kept(kept: int, left: int) -> str:
    """Where the places are that are not printed; of a great many, only the first are kept."""
    if not kept:
        return ""
    return ": --json lists " + ("them" if kept == left else f"{kept:,} of them")


def print_blocked(console: Console, blocked: Sequence[Blocked]) -> None:
    """The reasons, each with the rules that it concerns."""
    if not blocked:
        return
    console.print()
    console.print(Text("not checked", "bold"))
    for group in blocked:
        words = plain(f"{_intervals(group.codes)}: {group.reason}", "dim")
        console.print(Padding(words, (0, 0, 0, 2), expand=False))


def _intervals(codes: Sequence[str]) -> str:
    """``KHO101 KHO301…KHO304``: each interval holds just the rules that are named."""
    known = list(BY_CODE)
    places = sorted(map(known.index, codes))
    runs = groupby(enumerate(places), lambda pair: pair[1] - pair[0])
    spans = [[known[place] for _, place in run] for _, run in runs]
    return " ".join(f"{span[0]}…{span[-1]}" if len(span) > 2 else " ".join(span) for span in spans)


def print_verdict(console: Console, verdict: Verdict) -> None:
    """The whole of ``check``."""
    for line in statements(verdict):
        indent = len(line.plain) - len(line.plain.lstrip())
        console.print(Padding(line[indent:], (0, 0, 0, indent), expand=False))
    print_findings(console, verdict.findings)
    print_blocked(console, verdict.blocked)
