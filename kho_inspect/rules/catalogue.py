"""What a rule is: a code, a severity, a function of the case, and an explanation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from kho_inspect.model.faults import FaultKind
from kho_inspect.rules.base import Finding, Need, Observation, Severity
from kho_inspect.rules.case import Case

Check = Callable[[Case], Iterable[Observation]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the catalogue."""

    code: str
    severity: Severity
    hint: str
    needs: tuple[Need, ...]
    faults: tuple[FaultKind, ...]
    """The damage that this rule reports."""
    check: Check
    hides_owners: bool
    """It is about what says whose memory is whose: damage there makes memory look unowned."""

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return self.explanation.splitlines()[0]

    @property
    def explanation(self) -> str:
        """The docstring: what is checked, ``Matters:``, ``Causes:``, ``Enforced by:``."""
        return inspect.getdoc(self.check) or ""

    def run(self, case: Case) -> Iterator[Finding]:
        """Every finding of this rule."""
        for found in self.check(case):
            severity = self.severity if found.severity is None else found.severity
            yield Finding(self.code, severity, found.message, found.paddr, found.path, self.hint)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The rules of one module, in the order of their codes."""

    needs: tuple[Need, ...] = ()
    """Of each rule, before its own."""
    hides_owners: bool = False
    """Of each rule."""
    rules: list[Rule] = field(default_factory=list)

    def needing(self, *needs: Need) -> Catalogue:
        """The same catalogue, for rules that have these needs too."""
        return replace(self, needs=(*self.needs, *needs))

    def rule(
        self, code: str, severity: Severity, hint: str, *given: Need | FaultKind
    ) -> Callable[[Check], Rule]:
        """Make a function a rule; ``given`` is what it needs, and the damage that it reports."""

        def enter(check: Check) -> Rule:
            needs = tuple(need for need in given if isinstance(need, Need))
            faults = tuple(kind for kind in given if isinstance(kind, FaultKind))
            needs = (*self.needs, *needs)
            self.rules.append(Rule(code, severity, hint, needs, faults, check, self.hides_owners))
            return self.rules[-1]

        return enter

    def fault_rule(
        self, code: str, severity: Severity, hint: str, *faults: FaultKind
    ) -> Callable[[Callable[[], None]], Rule]:
        """Make a docstring a rule that reports all damage of these kinds, as it was met."""

        def enter(explained: Callable[[], None]) -> Rule:
            @functools.wraps(explained)
            def check(case: Case) -> Iterable[Observation]:
                return case.observed(*faults)

            return self.rule(code, severity, hint, *faults)(check)

        return enter


def not_saved(what: str) -> str:
    """The hint where a dump lacks something."""
    return f"dump more memory: the {what} is not in what was saved"
