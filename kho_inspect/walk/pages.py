"""The guards of pointers: memory that can be read, and lists of pages that come to an end."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kho_inspect.errors import MissingMemoryError, OutsideMemoryError
from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64
from kho_inspect.limits import Limits
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.identity import Path
from kho_inspect.units import PhysAddr, human_size
from kho_inspect.walk.faults import FaultLog, FaultLogs

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


@dataclass(eq=False)
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


class PageLists:
    """Many lists, each known by its number: one page more of all of them is read at a time.

    Every page begins with the address of the next one, as u64.
    """

    def __init__(
        self,
        page: ListPage,
        memory: PhysicalMemory,
        geometry: PageGeometry,
        first: NDArray[np.uint64],
        logs: FaultLogs,
        path: Callable[[int, int], Path],
    ) -> None:
        """``path``: that of a page, by the number of its list and its own in the list."""
        self._of, self._path, self._logs = (page, memory, geometry), path, logs
        self._lists: dict[int, PageList] = {}
        self.at = first.copy()
        """What each list goes on with; 0 at its end."""
        self.broken = np.zeros(len(first), dtype=bool)
        """Which lists came to a link that must not be followed."""
        self.depth = 0
        """Pages read of each list that goes on."""
        self._read: list[tuple[I64, NDArray[np.uint64]]] = []

    def read(
        self, too_long: Callable[[int], Trouble | None], long: NDArray[np.bool_]
    ) -> tuple[I64, NDArray[np.uint64]]:
        """The numbers of the lists that go on, and the address of a page of each.

        ``long``: which lists are ``too_long``.
        """
        _, memory, geometry = self._of
        numbers = np.flatnonzero(self.at)
        here, stop = self.at[numbers], long[numbers]
        if self.depth:
            pairs = zip(numbers.tolist(), here.tolist(), strict=True)
            stop |= [at in self._lists[number].addresses for number, at in pairs]
        stop |= here % np.uint64(geometry.page_size) != 0
        stop[~stop] = ~memory.stored_mask(here[~stop], geometry.page_size)
        for number, at in zip(numbers[stop].tolist(), here[stop].tolist(), strict=True):
            self._list(number).read(at, self._path(number, self.depth), too_long(number))
        self.at[numbers[stop]], self.broken[numbers[stop]] = 0, True
        numbers, here = numbers[~stop], here[~stop]
        following = memory.gather(here, np.dtype("<u8"))
        self.at[numbers] = following
        self._read.append((numbers, here))
        on = following > 0
        for number, at in zip(numbers[on].tolist(), here[on].tolist(), strict=True):
            self._list(number).addresses[at] = None
        self.depth += 1
        return numbers, here

    def _list(self, number: int) -> PageList:
        if number not in self._lists:
            self._lists[number] = PageList(*self._of, self._logs.of(number))
        return self._lists[number]

    def pages(self) -> tuple[NDArray[np.uint64], I64]:
        """The addresses of all pages read, list by list, and the bounds of each list in them."""
        none: list[Any] = [np.empty(0, dtype=np.uint64)]
        return by_number(
            len(self.at), [one for one, _ in self._read], none + [one for _, one in self._read]
        )


def by_number(
    count: int, numbers: list[I64], columns: list[NDArray[Any]]
) -> tuple[NDArray[Any], I64]:
    """What was found of ``count`` things, thing by thing, and the bounds of each in it.

    ``numbers``: whose each of the concatenated ``columns`` is.
    """
    whose = np.concatenate([np.empty(0, dtype=np.int64), *numbers])
    bounds = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(whose, minlength=count), out=bounds[1:])
    return np.concatenate(columns)[np.argsort(whose, kind="stable")], bounds


def joined_bounds(parts: Iterable[I64]) -> I64:
    """The bounds of things whose columns stand behind each other."""
    counts = [np.diff(bounds) for bounds in parts]
    return np.append(0, np.cumsum(np.concatenate([np.empty(0, dtype=np.int64), *counts])))
