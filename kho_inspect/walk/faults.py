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

    def extend(self, other: FaultLog) -> None:
        """All faults of another log behind those of this one."""
        for fault in other._faults:
            self.add(
                fault.kind, fault.message, paddr=fault.paddr, path=fault.path, count=fault.count
            )
        for kind, count in other._counts.items():
            self._counts[kind] += max(0, count - MAX_PER_KIND)

    def result(self) -> tuple[Fault, ...]:
        """All that was kept, and one closing fault for each kind that had more."""
        more = [
            Fault(kind, f"{count - MAX_PER_KIND} more faults of this kind", None, (), count)
            for kind, count in self._counts.items()
            if count > MAX_PER_KIND
        ]
        return (*self._faults, *more)


class FaultLogs:
    """The faults of many things that are read together, each in a log of its own."""

    def __init__(self) -> None:
        self._logs: dict[int, FaultLog] = {}

    def of(self, number: int) -> FaultLog:
        """The log of one thing."""
        return self._logs.setdefault(number, FaultLog())

    def update(self, other: FaultLogs, shift: int = 0) -> None:
        """Add those of other logs, whose numbers count from ``shift``."""
        for number, log in other._logs.items():
            self.of(number + shift).extend(log)

    def drop(self, number: int) -> None:
        """Forget the faults of one thing."""
        self._logs.pop(number, None)

    def pass_on(self, faults: FaultLog) -> None:
        """Enter all of them in one log, in the order of the things."""
        for number in sorted(self._logs):
            faults.extend(self._logs[number])
