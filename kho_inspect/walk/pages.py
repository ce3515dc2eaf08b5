"""The guards of pointers: memory that can be read, and lists of pages that come to an end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from kho_inspect.errors import MissingMemoryError, OutsideMemoryError
from kho_inspect.geometry import PageGeometry
from kho_inspect.limits import Limits
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.identity import Path
from kho_inspect.units import PhysAddr, human_size
from kho_inspect.walk.faults import FaultLog

Trouble: TypeAlias = tuple[FaultKind, str]
"""A fault and its message, in which ``{at}``, ``{last}`` (page read) and ``{number}`` may stand."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a pointer leads to, and the fault where that cannot be read."""

    name: str
    """How messages call it; ``{size}``, and ``{number}`` of a list's page, may stand in it."""
    outside: FaultKind
    not_stored: FaultKind

    def read(
        self,
        memory: PhysicalMemory,
        paddr: PhysAddr,
        size: int,
        path: Path,
        faults: FaultLog,
        number: int = 0,
    ) -> memoryview | None:
        """``size`` bytes at ``paddr``; None, and a fault, where the dump cannot give them."""
        try:
            return memory.read(paddr, size)
        except MissingMemoryError as error:
            kind = self.outside if isinstance(error, OutsideMemoryError) else self.not_stored
            name = self.name.format(number=number, size=human_size(size))
            faults.add(kind, f"{name}: {error.message}", paddr=paddr, path=path)
            return None


@dataclass
class MapWalker:
    """What the walks of a radix tree and of a chunk list need and keep."""

    memory: PhysicalMemory
    geometry: PageGeometry
    faults: FaultLog
    limits: Limits
    read_before: set[PhysAddr] = field(default_factory=set)
    """Nodes of the map that were read: none is read twice."""
    pointers: int = 0
    """Non-zero pointers read, good and bad."""
    lost: list[tuple[int, int]] = field(default_factory=list)
    """Half-open ranges of what nodes that could not be read may have recorded."""


@dataclass(frozen=True, slots=True)
class ListPage(Target):
    """A page of a singly linked list, and what else can be wrong with a link to it."""

    link: str
    """How messages call a link to it, with the placeholders of :data:`Trouble`."""
    cycle: Trouble
    misaligned: FaultKind


class PageList:
    """The pages of one list, each read at most once."""

    def __init__(
        self, page: ListPage, memory: PhysicalMemory, geometry: PageGeometry, faults: FaultLog
    ) -> None:
        self._page, self._memory, self._faults = page, memory, faults
        self._size = geometry.page_size
        self.addresses: dict[PhysAddr, None] = {}
        """The pages read, in list order."""

    def read(self, at: PhysAddr, path: Path, too_long: Trouble | None = None) -> memoryview | None:
        """The page that the list goes on with; None, and a fault, where it must not be followed.

        A list that is ``too_long`` and goes in a circle is reported as the latter.
        """
        if at in self.addresses:
            kind, message = self._page.cycle
        elif too_long:
            kind, message = too_long
        elif at % self._size:
            kind, message = self._page.misaligned, f"{self._page.link} is not aligned to a page"
        else:
            data = self._page.read(
                self._memory, at, self._size, path, self._faults, len(self.addresses)
            )
            if data is not None:
                self.addresses[at] = None
            return data
        last = next(reversed(self.addresses), 0)
        words = message.format(at=at, last=last, number=len(self.addresses))
        self._faults.add(kind, words, paddr=at, path=path)
        return None
