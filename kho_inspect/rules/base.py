"""What a rule is: a code, a severity, a function of the case, and an explanation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from kho_inspect.units import PhysAddr

if TYPE_CHECKING:
    from kho_inspect.rules.case import Case


class Severity(IntEnum):
    """How bad a finding is, worst last."""

    INFO = 0
    WARNING = 1
    """Suspicious."""
    ERROR = 2
    """A consumer loses data."""
    FATAL = 3
    """The next kernel refuses, panics or corrupts."""

    @property
    def label(self) -> str:
        """``fatal``, ``error``, ``warning`` or ``info``."""
        return self.name.lower()


class Need(Enum):
    """What a rule cannot do without; the value says how to provide it, or what spoils it."""

    FDT = "the root FDT could not be read"
    ABI = "the ABI is unknown (--assume-abi)"
    TREE = "the preserved-memory map could not be read"
    TRUSTED = "the dump was taken too late: memory has been recycled (KHO201)"
    SCRATCH = "no scratch table: --scratch START+LEN, or --boot-dtb FILE"
    SOUND_SCRATCH = "the scratch table is malformed (KHO304)"
    TARGET = "no --target given"
    FDT_IN_MEMORY = "the root FDT was not found in the dump"
    ALL_CLAIMS = (
        "what some memory is for is hidden: damage, unknown content, or sessions not serialized"
    )
    EXPECTATIONS = "no --expect given"


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule's function yields: the message, the place, and a milder severity if any."""

    message: str
    paddr: PhysAddr | None = None
    path: str = ""
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a handover."""

    code: str
    severity: Severity
    message: str
    paddr: PhysAddr | None
    path: str
    hint: str


Check = Callable[["Case"], Iterable[Found]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the catalogue."""

    code: str
    severity: Severity
    hint: str
    needs: tuple[Need, ...]
    check: Check

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


class Catalogue:
    """The rules of one module, in the order of their codes."""

    def __init__(self, *always: Need) -> None:
        """``always``: what every rule of the module needs."""
        self.always = always
        self.rules: list[Rule] = []

    def rule(
        self, code: str, severity: Severity, hint: str, *needs: Need
    ) -> Callable[[Check], Check]:
        """Enter a function into the catalogue."""

        def enter(check: Check) -> Check:
            self.rules.append(Rule(code, severity, hint, (*self.always, *needs), check))
            return check

        return enter
