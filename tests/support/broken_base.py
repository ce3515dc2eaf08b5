"""What a broken image is; the images themselves are in ``broken`` and ``broken_contents``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kho_inspect.rules.engine import BY_CODE
from tests.support.reference import MIB, RAM_END, Reference

HOLE = 0x5000_0000
"""RAM that no dump of the reference stores."""
FREE = 0x6000_0000
"""The same, with nothing that has any part in it up to the scratch areas."""
BEYOND = RAM_END + 16 * MIB
"""Outside RAM."""


class Seen(NamedTuple):
    """What the finding should say."""

    paddr: int | None
    path: str
    words: str
    """A part of the message."""


Damage = Callable[[Reference], Seen]


@dataclass(frozen=True)
class Broken:
    """One rule's broken image: what to do to the reference, and what should be found."""

    code: str
    severity: str
    damage: Damage
    where: str
    """What is damaged, as a path of structures; what lies below it can no longer be seen.

    Two damages are independent when neither's path leads through the other's. "" is the whole
    handover, or what decides whether others are looked for at all: independent of nothing.
    """
    blind: bool
    """It hides what some memory is for, so that orphans (KHO308) are not judged."""
    also: frozenset[str]
    """Other codes that name a root cause of this very damage."""
    target: str
    expect: str
    """Text of an expectation file."""

    def independent_of(self, other: Broken) -> bool:
        """Whether both can be seen when both are there."""
        if not self.where or not other.where:
            return False
        if "KHO308" in (self.code, other.code):
            # Damage to what says whose memory is whose leaves nothing to say of orphans.
            told = self if other.code == "KHO308" else other
            if told.blind or (BY_CODE[told.code].hides_owners and told.severity != "info"):
                return False
        mine, yours = self.where.split("/"), other.where.split("/")
        length = min(len(mine), len(yours))
        return mine[:length] != yours[:length]


class Table:
    """Broken images by rule code."""

    def __init__(self) -> None:
        self.cases: dict[str, Broken] = {}

    def __call__(
        self,
        code: str,
        severity: str,
        where: str = "",
        *,
        blind: bool = False,
        also: frozenset[str] = frozenset(),
        target: str = "",
        expect: str = "",
    ) -> Callable[[Damage], Damage]:
        """Enter a function that does the damage."""

        def enter(damage: Damage) -> Damage:
            assert code not in self.cases, code
            self.cases[code] = Broken(code, severity, damage, where, blind, also, target, expect)
            return damage

        return enter
