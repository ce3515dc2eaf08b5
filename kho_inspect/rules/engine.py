"""Running the catalogue over a case."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kho_inspect.rules import blobs, expected, luo, memfd, memory, root_fdt, subnodes, systemd, tree
from kho_inspect.rules.base import INFO, Finding, Need
from kho_inspect.rules.case import Case
from kho_inspect.rules.catalogue import Rule
from kho_inspect.rules.statements import (
    Capture,
    CaptureState,
    Conclusion,
    Integrity,
    Met,
    capture_of,
    conclude,
    expectations_of,
    integrity_of,
)

RULES: tuple[Rule, ...] = tuple(
    rule
    for module in (root_fdt, tree, memory, subnodes, luo, memfd, systemd, blobs, expected)
    for rule in module.CATALOGUE.rules
)

BY_CODE: dict[str, Rule] = {rule.code: rule for rule in RULES}

ORPHANS = "KHO308"
"""Left out where a damaged structure may be why memory looks unowned: one cause, one finding."""

ASKED_FOR = frozenset({Need.TARGET, Need.EXPECTATIONS})
"""Rules that need these are only for those who ask, and not reported as blocked otherwise."""


class Blocked(NamedTuple):
    """Rules that could not be applied."""

    codes: tuple[str, ...]
    reason: str


class Verdict(NamedTuple):
    """The outcome of all rules: three statements, and the findings that they rest on."""

    capture: Capture
    decision: Conclusion
    integrity: Integrity
    expectations: Met
    findings: tuple[Finding, ...]
    """Worst first, then by code."""
    blocked: tuple[Blocked, ...]
    not_applicable: tuple[str, ...]
    """Codes of rules about what this handover does not have."""
    ran: int
    """Rules that were applied."""

    @property
    def blocked_codes(self) -> frozenset[str]:
        """Codes of all rules that could not be applied."""
        return frozenset(code for group in self.blocked for code in group.codes)


def judge(case: Case, wanted: Callable[[str], bool] = lambda code: True) -> Verdict:
    """Apply every rule whose code is wanted, that applies, and whose needs the case meets."""
    findings: list[Finding] = []
    blocked: dict[str, list[str]] = {}
    missing, subjects = case.missing, case.subjects
    not_applicable: list[str] = []
    ran = 0
    for rule in RULES:
        absent = [need for need in rule.needs if need in missing]
        if not wanted(rule.code) or not ASKED_FOR.isdisjoint(absent):
            continue
        if absent:
            blocked.setdefault(case.why(absent[0]), []).append(rule.code)
        elif rule.subject is not None and rule.subject not in subjects:
            not_applicable.append(rule.code)
        else:
            ran += 1
            findings.extend(rule.run(case))
    others = [finding for finding in findings if finding.code != ORPHANS]
    if len(others) < len(findings) and any(
        one.severity > INFO and BY_CODE[one.code].hides_owners for one in others
    ):
        blocked.setdefault("what is damaged may have pointed to the rest", []).append(ORPHANS)
        ran -= 1
        findings = others
    findings.sort(key=lambda finding: (-finding.severity, finding.code))
    capture = capture_of(case)
    return Verdict(
        capture=capture,
        decision=conclude(case, capture, findings),
        integrity=integrity_of(case, capture, findings, ran),
        expectations=expectations_of(case, findings),
        findings=tuple(findings),
        blocked=tuple(Blocked(tuple(codes), reason) for reason, codes in blocked.items()),
        not_applicable=tuple(not_applicable),
        ran=ran,
    )


def unread(why: str, target_name: str = "") -> Verdict:
    """The verdict on what could not be opened at all: nothing was checked."""
    verdict = judge(Case(None, target_name=target_name), lambda code: False)
    return verdict._replace(
        capture=Capture(CaptureState.INCOMPLETE, (why,)), blocked=(Blocked(tuple(BY_CODE), why),)
    )


def cannot_judge(verdict: Verdict, required: Callable[[str], bool] = lambda code: False) -> bool:
    """Whether nothing follows from the absence of findings."""
    return (
        verdict.capture.state is not CaptureState.COMPLETE
        or verdict.integrity is Integrity.UNDECIDED
        or any(map(required, verdict.blocked_codes))
    )


def standing(verdict: Verdict, threshold: int) -> Sequence[Finding]:
    """Findings of a severity from which on they count, whatever the capture lacks."""
    return [
        finding
        for finding in verdict.findings
        if finding.severity >= threshold and verdict.capture.leaves(finding)
    ]
