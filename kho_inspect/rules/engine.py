"""Running the catalogue over a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kho_inspect.rules import blobs, expected, luo, memfd, memory, root_fdt, subnodes, tree
from kho_inspect.rules.base import INFO, Finding, Need, Severity
from kho_inspect.rules.case import Case
from kho_inspect.rules.catalogue import Rule

RULES: tuple[Rule, ...] = tuple(
    rule
    for module in (root_fdt, tree, memory, subnodes, luo, memfd, blobs, expected)
    for rule in module.CATALOGUE.rules
)

BY_CODE: dict[str, Rule] = {rule.code: rule for rule in RULES}

ORPHANS = "KHO308"
"""Left out where a damaged structure may be why memory looks unowned: one cause, one finding."""

ASKED_FOR = frozenset({Need.TARGET, Need.EXPECTATIONS})
"""Rules that need these are only for those who ask, and not reported as unchecked otherwise."""


@dataclass(frozen=True, slots=True)
class NotChecked:
    """A rule that could not be applied."""

    code: str
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of all rules."""

    findings: tuple[Finding, ...]
    """Worst first, then by code."""
    not_checked: tuple[NotChecked, ...]
    checked: int
    """Rules that were applied."""

    @property
    def worst(self) -> Severity:
        """INFO when there is no finding."""
        return max((finding.severity for finding in self.findings), default=INFO)

    @property
    def word(self) -> str:
        """The worst severity in a word."""
        return ("sound", "suspicious", "damaged", "fatal")[self.worst]


def judge(case: Case, wanted: Callable[[str], bool] = lambda code: True) -> Verdict:
    """Apply every rule whose code is wanted and whose needs the case meets."""
    findings: list[Finding] = []
    not_checked: list[NotChecked] = []
    missing = case.missing
    checked = 0
    for rule in RULES:
        absent = [need for need in rule.needs if need in missing]
        if not wanted(rule.code) or not ASKED_FOR.isdisjoint(absent):
            continue
        if absent:
            not_checked.append(NotChecked(rule.code, absent[0].value))
            continue
        checked += 1
        findings.extend(rule.run(case))
    others = [finding for finding in findings if finding.code != ORPHANS]
    if len(others) < len(findings) and any(_hides_owners(finding) for finding in others):
        not_checked.append(NotChecked(ORPHANS, "what is damaged may have pointed to the rest"))
        checked -= 1
        findings = others
    findings.sort(key=lambda finding: (-finding.severity, finding.code))
    return Verdict(tuple(findings), tuple(not_checked), checked)


def _hides_owners(finding: Finding) -> bool:
    return finding.severity > INFO and BY_CODE[finding.code].hides_owners
