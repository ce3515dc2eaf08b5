"""Collecting faults, with a bound on how many of a hostile image are kept."""

from __future__ import annotations

from collections import Counter

from kho_inspect.model.faults import Fault, FaultKind
from kho_inspect.model.identity import Message, Path
from kho_inspect.units import PhysAddr

MAX_PER_KIND = 256
"""Faults of one kind that are kept one by one; the rest is counted."""


class FaultLog:
    """An append-only list of faults, bounded per kind."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._counts: Counter[FaultKind] = Counter()

    def add(
        self,
        kind: FaultKind,
        message: Message,
        *,
        paddr: PhysAddr | None = None,
        path: Path = (),
        count: int = 1,
    ) -> None:
        """Record one fault; see :class:`~kho_inspect.model.faults.Fault` for ``count``."""
        self._counts[kind] += 1
        if self._counts[kind] <= MAX_PER_KIND:
            self._faults.append(Fault(kind, message, paddr, path, count))

    def result(self) -> tuple[Fault, ...]:
        """All that was kept, and one closing fault for each kind that had more."""
        more = [
            Fault(kind, f"{count - MAX_PER_KIND} more faults of this kind", None, (), count)
            for kind, count in self._counts.items()
            if count > MAX_PER_KIND
        ]
        return (*self._faults, *more)
