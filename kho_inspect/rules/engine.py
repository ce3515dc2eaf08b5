"""Running the catalogue over a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kho_inspect.rules import blobs, expected, luo, memfd, memory, root_fdt, subnodes, tree
from kho_inspect.rules.base import Finding, Need, Rule, Severity
from kho_inspect.rules.case import Case

RULES: tuple[Rule, ...] = tuple(
    rule
    for module in (root_fdt, tree, memory, subnodes, luo, memfd, blobs, expected)
    for rule in module.CATALOGUE.rules
)

BY_CODE: dict[str, Rule] = {rule.code: rule for rule in RULES}

ORPHANS = "KHO308"
"""Given up where a damaged structure may be why memory looks unowned: one cause, told once."""

ASKED_FOR = frozenset({Need.TARGET, Need.EXPECTATIONS})
"""Rules that need these are only for those who ask: not to be told of otherwise."""

_VERDICTS = {
    Severity.FATAL: "fatal",
    Severity.ERROR: "damaged",
    Severity.WARNING: "suspicious",
    Severity.INFO: "sound",
}


@dataclass(frozen=True, slots=True)
class NotChecked:
    """A rule that could not be applied."""

    code: str
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of all rules."""

    findings: tuple[Finding, ...]
    """Worst first, then by code."""
    not_checked: tuple[NotChecked, ...]
    checked: int
    """Rules that were applied."""

    @property
    def worst(self) -> Severity:
        """INFO when there is no finding."""
        return max((finding.severity for finding in self.findings), default=Severity.INFO)

    @property
    def word(self) -> str:
        """``sound``, ``suspicious``, ``damaged`` or ``fatal``."""
        return _VERDICTS[self.worst]


def judge(case: Case, wanted: Callable[[str], bool] = lambda code: True) -> Verdict:
    """Apply every rule whose code is wanted and whose needs the case meets."""
    findings: list[Finding] = []
    not_checked: list[NotChecked] = []
    missing = case.missing
    checked = 0
    for rule in RULES:
        if not wanted(rule.code):
            continue
        absent = [need for need in rule.needs if need in missing]
        if any(need in ASKED_FOR for need in absent):
            continue
        if absent:
            not_checked.append(NotChecked(rule.code, absent[0].value))
            continue
        checked += 1
        findings.extend(rule.run(case))
    if any(_hides_owners(finding) for finding in findings):
        if any(finding.code == ORPHANS for finding in findings):
            not_checked.append(NotChecked(ORPHANS, "what is damaged may have pointed to the rest"))
            checked -= 1
        findings = [finding for finding in findings if finding.code != ORPHANS]
    findings.sort(key=lambda finding: (-finding.severity, finding.code))
    return Verdict(tuple(findings), tuple(not_checked), checked)


def _hides_owners(finding: Finding) -> bool:
    """Whether it is about a structure that says what memory is for: KHO4xx, KHO5xx, KHO6xx."""
    return finding.severity > Severity.INFO and finding.code[3] in "456"
