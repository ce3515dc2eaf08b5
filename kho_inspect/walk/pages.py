"""The guards of pointers: memory that can be read, and lists of pages that come to an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kho_inspect.errors import MissingMemoryError, OutsideMemoryError
from kho_inspect.model.faults import FaultKind
from kho_inspect.units import PhysAddr, human_size

if TYPE_CHECKING:
    from kho_inspect.geometry import PageGeometry
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.walk.faults import FaultLog

Trouble: TypeAlias = tuple[FaultKind, str]
"""A fault and its message, in which ``{at}``, ``{last}`` (page read) and ``{path}`` may stand."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a pointer leads to, and the fault where that cannot be read."""

    name: str
    """How messages call it; ``{path}`` and ``{size}`` may stand in it."""
    outside: FaultKind
    not_stored: FaultKind

    def read(
        self, memory: PhysicalMemory, paddr: PhysAddr, size: int, path: str, faults: FaultLog
    ) -> memoryview | None:
        """``size`` bytes at ``paddr``; None, and a fault, where the dump cannot give them."""
        try:
            return memory.read(paddr, size)
        except MissingMemoryError as error:
            kind = self.outside if isinstance(error, OutsideMemoryError) else self.not_stored
            name = self.name.format(path=path, size=human_size(size))
            faults.add(kind, f"{name}: {error.message}", paddr=paddr, path=path)
            return None


@dataclass(frozen=True, slots=True)
class ListPage(Target):
    """A page of a singly linked list, and what else can be wrong with a link to it."""

    cycle: Trouble
    misaligned: Trouble


class PageList:
    """The pages of one list, each read at most once."""

    __slots__ = ("_faults", "_memory", "_page", "_size", "seen")

    def __init__(
        self, page: ListPage, memory: PhysicalMemory, geometry: PageGeometry, faults: FaultLog
    ) -> None:
        self._page, self._memory, self._faults = page, memory, faults
        self._size = geometry.page_size
        self.seen: dict[PhysAddr, None] = {}
        """The pages read, in list order."""

    def read(self, at: PhysAddr, path: str, too_long: Trouble | None = None) -> memoryview | None:
        """The page that the list goes on with; None, and a fault, where it must not be followed.

        A list that is ``too_long`` and goes in a circle is told to be the latter.
        """
        if at in self.seen:
            kind, message = self._page.cycle
        elif too_long:
            kind, message = too_long
        elif at % self._size:
            kind, message = self._page.misaligned
        else:
            data = self._page.read(self._memory, at, self._size, path, self._faults)
            if data is not None:
                self.seen[at] = None
            return data
        last = next(reversed(self.seen), 0)
        self._faults.add(kind, message.format(at=at, last=last, path=path), paddr=at, path=path)
        return None
