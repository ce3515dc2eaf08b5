"""What every decoder works with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64
from kho_inspect.layouts.views import Layout, parse_record
from kho_inspect.limits import DEFAULT_LIMITS, Limits
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import (
    FileContent,
    FileEntries,
    FileEntry,
    VmallocArea,
    VmallocAreas,
)
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.features import Features
from kho_inspect.model.handover import Blob
from kho_inspect.model.identity import Path, Step, StepKind
from kho_inspect.model.preserved import Preserved
from kho_inspect.ownership.claims import ClaimLog
from kho_inspect.units import PhysAddr
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.vmalloc import pages_of, read_area, read_areas


@dataclass(eq=False)
class Context:
    """The handover around a blob, the logs that decoders write to, and what is left of budgets."""

    memory: PhysicalMemory
    geometry: PageGeometry
    preserved: Preserved
    claims: ClaimLog
    faults: FaultLog
    file_decoders: Mapping[str, FileDecoder]
    """Name of a file handler, or known part of a composite one → decoder of its files."""
    limits: Limits = DEFAULT_LIMITS
    spent: Counter[str] = field(default_factory=Counter)
    """What decoders used up of budgets of their own, by name."""
    followed: dict[PhysAddr, tuple[Callable[[int], FileEntry], int]] = field(default_factory=dict)
    """Stored memory that a list of LUO pointed to → which entry that was first."""

    def __post_init__(self) -> None:
        self.entries_left = self.limits.files
        self.table_bytes_left = sum(extent.size for extent in self.memory.stored)
        """Bytes of tables that may still be read: all together, no more than the dump stores."""
        self.pages_left = pages_of(self.memory, self.geometry)
        """Pages that vmalloc lists may still name: all together, no more than the machine has."""

    def features(
        self,
        header: Any,
        names: tuple[str, ...],
        paddr: PhysAddr,
        path: Path,
        faults: FaultLog | None = None,
    ) -> Features:
        """A feature header; bits that its writer cannot have set are a fault."""
        found = Features(names, header.supp, header.req, header.active)
        stray = (found.required | found.active) & ~found.supported
        if stray:
            words = f"features {found.words(stray)} are required or active, but not supported"
            (faults or self.faults).add(FaultKind.FEATURES, words, paddr=paddr, path=path)
        return found

    def inactive(
        self,
        features: Features | None,
        name: str,
        held: int,
        paddr: PhysAddr,
        path: Path,
        faults: FaultLog | None = None,
    ) -> bool:
        """Whether a feature is not active; its field that is ``held`` all the same is a fault."""
        if features is None or features.has(name):
            return False
        if held:
            words = f"feature {name} is not active, but its field is {held:#x}"
            (faults or self.faults).add(FaultKind.FEATURES, words, paddr=paddr, path=path)
        return True

    def read_struct(
        self, layout: Layout, blob: Blob, kind: str, short: FaultKind
    ) -> SimpleNamespace | None:
        """The struct that a blob begins with; None, and the fault ``short``, when it is cut off."""
        if len(blob.data) >= layout.sizeof():
            return parse_record(layout, blob.data)
        words = f"{kind} blob is {len(blob.data)} bytes, should be {layout.sizeof()}"
        path = (Step(StepKind.SUBNODE, blob.name),)
        self.faults.add(short, words, paddr=blob.paddr, path=path)
        return None

    def read_integers(
        self, node: FdtNode | None, *names: str, size: int, kind: FaultKind, what: str, path: Path
    ) -> Iterator[int | None]:
        """Properties of ``size`` bytes; None, and a fault of that ``kind``, without them."""
        for name in names:
            value = node.integer(name, size) if node else None
            if value is None:
                message = f"{what} property {name!r} is missing or not {size} bytes"
                self.faults.add(kind, message, path=path)
            yield value

    def read_table(self, area: VmallocArea, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        """The first ``count`` entries of an area, fewer where the dump could not hold so many."""
        size = min(count * dtype.itemsize, self.table_bytes_left)
        held = read_area(self.memory, self.geometry, area, size)
        self.table_bytes_left -= len(held)
        return np.frombuffer(held, dtype, len(held) // dtype.itemsize)

    def read_tables(
        self, areas: VmallocAreas, dtype: np.dtype[Any], counts: I64
    ) -> Iterator[tuple[NDArray[Any], I64]]:
        """The same of many areas, some at a time, one behind the other: how many each gives."""
        left = self.table_bytes_left
        for found, held in read_areas(self.memory, self.geometry, areas, dtype, counts, left):
            self.table_bytes_left -= found.nbytes
            yield found, held


FileDecoder = Callable[[Context, FileEntries], Sequence[FileContent | None]]
"""Many files of one handler at once: a hundred thousand small ones are quicker read together.
None for each whose descriptor cannot be read."""
