"""What a rule is: a code, a severity, a function of the case, and an explanation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias, TypeVar

from kho_inspect.model.faults import FaultKind
from kho_inspect.rules.base import (
    MAX_PLACES,
    About,
    Decision,
    Evidence,
    Finding,
    Need,
    Observation,
    Severity,
    Subject,
)
from kho_inspect.rules.case import Case

Check = Callable[[Case], Iterable[Observation]]
Explained = Callable[[], None]
T = TypeVar("T")
Given: TypeAlias = Need | FaultKind | About | Decision | Evidence | Subject


class Rule(NamedTuple):
    """One rule of the catalogue."""

    code: str
    severity: Severity
    hint: str
    needs: tuple[Need, ...]
    faults: tuple[FaultKind, ...]
    """The damage that this rule reports."""
    check: Check
    about: About
    decision: Decision
    """What the next kernel does because of a fatal finding."""
    evidence: Evidence
    subject: Subject | None
    hides_owners: bool
    """It is about what memory gets its owner from: damage there makes memory look unowned."""

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return self.explanation.splitlines()[0]

    @property
    def explanation(self) -> str:
        """The docstring: what is checked, ``Matters:``, ``Causes:``, ``Enforced by:``."""
        return (inspect.getdoc(self.check) or "").replace("``", "")

    def run(self, case: Case) -> Iterator[Finding]:
        """Every finding of this rule: one for each cause."""
        causes: dict[Hashable, list[Observation]] = {}
        for number, found in enumerate(self.check(case)):
            severity = self.severity if found.severity is None else found.severity
            # What is fatal is so for all owners.
            of_owner = self.about is About.HANDOVER and severity < Severity.FATAL
            if of_owner and case.ignores(found):
                continue
            alone = found.cause is None
            cause: Hashable = number if alone else (found.severity, found.cause)
            causes.setdefault(cause, []).append(found)
        yield from map(self._finding, causes.values())

    def _finding(self, places: Sequence[Observation]) -> Finding:
        first = places[0]
        severity = self.severity if first.severity is None else first.severity
        return Finding(
            code=self.code,
            severity=severity,
            message=first.message,
            paddr=first.paddr,
            path=first.path,
            hint=self.hint,
            about=self.about,
            decision=self.decision if severity is Severity.FATAL else Decision.ACCEPTS,
            evidence=first.evidence or self.evidence,
            places=tuple(places[:MAX_PLACES]),
            count=sum(place.count for place in places),
        )


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The rules of one module, in the order of their codes."""

    needs: tuple[Need, ...] = ()
    """Of each rule, before its own."""
    hides_owners: bool = False
    """Of each rule."""
    about: About = About.HANDOVER
    decision: Decision = Decision.PANICS
    subject: Subject | None = None
    """Of each rule that is not given its own."""
    rules: list[Rule] = field(default_factory=list)

    def needing(self, *needs: Need) -> Catalogue:
        """The same catalogue, for rules that have these needs too."""
        return replace(self, needs=(*self.needs, *needs))

    def rule(
        self, code: str, severity: Severity, hint: str, *given: Given
    ) -> Callable[[Check], Rule]:
        """Make a function a rule; ``given``: needs, reported damage, what differs from others."""

        def enter(check: Check) -> Rule:
            self.rules.append(
                Rule(
                    code=code,
                    severity=severity,
                    hint=hint,
                    needs=(*self.needs, *_each(Need, given)),
                    faults=tuple(_each(FaultKind, given)),
                    check=check,
                    about=next(_each(About, given), self.about),
                    decision=next(_each(Decision, given), self.decision),
                    evidence=next(_each(Evidence, given), Evidence.MEMORY),
                    subject=next(_each(Subject, given), self.subject),
                    hides_owners=self.hides_owners,
                )
            )
            return self.rules[-1]

        return enter

    def fault_rule(
        self, code: str, severity: Severity, hint: str, *given: Given
    ) -> Callable[[Explained], Rule]:
        """Make a docstring a rule that reports all damage of these kinds, as it was met."""

        def enter(explained: Explained) -> Rule:
            @functools.wraps(explained)
            def check(case: Case) -> Iterable[Observation]:
                return case.observed(*_each(FaultKind, given))

            return self.rule(code, severity, hint, *given)(check)

        return enter

    def not_stored(self, code: str, what: str, *given: Given) -> Callable[[Explained], Rule]:
        """The same of damage that is none: the dump lacks something, ``what`` in a word."""
        hint = f"dump more memory: the {what} is not in what was saved"
        return self.fault_rule(code, Severity.WARNING, hint, About.CAPTURE, *given)


def _each(kind: type[T], given: Iterable[object]) -> Iterator[T]:
    return (value for value in given if isinstance(value, kind))
