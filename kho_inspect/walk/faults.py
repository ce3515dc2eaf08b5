"""Collecting faults without letting a hostile image collect without end."""

from __future__ import annotations

from collections import Counter

from kho_inspect.model.faults import Fault, FaultKind
from kho_inspect.units import PhysAddr

MAX_PER_KIND = 256
"""Faults of one kind that are kept one by one; the rest is counted."""


class FaultLog:
    """An append-only list of faults, bounded per kind."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._seen: Counter[FaultKind] = Counter()

    def add(
        self,
        kind: FaultKind,
        message: str,
        *,
        paddr: PhysAddr | None = None,
        path: str = "",
        count: int = 1,
    ) -> None:
        """Record one fault; see :class:`~kho_inspect.model.faults.Fault` for ``count``."""
        self._seen[kind] += 1
        if self._seen[kind] <= MAX_PER_KIND:
            self._faults.append(Fault(kind, message, paddr, path, count))

    def result(self) -> tuple[Fault, ...]:
        """All that was kept, and one closing fault for each kind that had more."""
        more = [
            Fault(kind, f"{seen - MAX_PER_KIND} more faults of this kind", None, "", seen)
            for kind, seen in self._seen.items()
            if seen > MAX_PER_KIND
        ]
        return (*self._faults, *more)
