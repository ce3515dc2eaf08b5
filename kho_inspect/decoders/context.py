"""What every decoder works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kho_inspect.limits import DEFAULT_LIMITS, Limits, exceeded
from kho_inspect.memory import Presence
from kho_inspect.model.faults import FaultKind
from kho_inspect.units import PhysAddr
from kho_inspect.walk.vmalloc import pages_of, read_area, walk_vmalloc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.geometry import PageGeometry
    from kho_inspect.intervals import I64
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.model.contents import Content, Memfd, VmallocArea
    from kho_inspect.model.handover import Blob
    from kho_inspect.model.preserved import Preserved
    from kho_inspect.ownership.claims import ClaimLog
    from kho_inspect.walk.faults import FaultLog

T = TypeVar("T")

LOOKED_UP = 1 << 18
"""Page frames whose blocks are looked up together."""


@dataclass(frozen=True, slots=True)
class Context:
    """The handover around a blob."""

    memory: PhysicalMemory
    geometry: PageGeometry
    preserved: Preserved
    claims: ClaimLog
    faults: FaultLog
    file_decoders: Mapping[str, FileDecoder]
    """``luo_file_ser.compatible`` → decoder of that handler's data."""
    followed: dict[PhysAddr, tuple[str, str]] = field(default_factory=dict)
    """Lists and descriptors that were followed, with owner and path: none is followed twice."""
    left: dict[str, int] = field(default_factory=dict)
    """What is left of the budgets for all blobs together: bytes of tables, pages of vmalloc areas,
    entries of lists."""
    later: list[tuple[I64, NDArray[np.int8], I64]] = field(default_factory=list)
    """Arguments of :meth:`find_blocks` that were not answered yet."""
    limits: Limits = DEFAULT_LIMITS

    def is_first(self, paddr: PhysAddr, owner: str, what: str, path: str) -> bool:
        """Whether nobody followed this pointer before.

        That somebody else did is a fault; a copy of an entry, with its owner's very name, is one
        of another kind.
        """
        if self.memory.presence(paddr) is not Presence.STORED:
            return True  # leads nowhere, and whoever follows it will say so
        first, where = self.followed.setdefault(paddr, (owner, path))
        if where == path:
            return True
        if first != owner:
            self.faults.add(
                FaultKind.LUO_SHARED,
                f"{what} at {paddr:#x} belongs to two: {first} and {owner}",
                paddr=paddr,
                path=path,
            )
        return False

    def read_table(self, area: VmallocArea, size: int) -> bytes:
        """The first ``size`` bytes of an area, fewer where the dump could not hold so many."""
        if "tables" not in self.left:
            self.left["tables"] = sum(extent.size for extent in self.memory.stored)
        held = read_area(self.memory, self.geometry, area, min(size, self.left["tables"]))
        self.left["tables"] -= len(held)
        return held

    def find_blocks(self, pfns: I64, orders: NDArray[np.int8], ends: I64) -> None:
        """Fill in order (-1: none) and end of the preserved block that starts at each of ``pfns``.

        Not at once: a hundred thousand small tables are looked up together, in a fraction of the
        time. Whoever needs the answer before the blob is done says :meth:`look_up`.
        """
        self.later.append((pfns, orders, ends))
        self.left["later"] = self.left.get("later", LOOKED_UP) - len(pfns)
        if self.left["later"] < 0:
            self.look_up()

    def look_up(self) -> None:
        """Answer all that was asked of :meth:`find_blocks`."""
        if self.later:
            pfns = np.concatenate([asked for asked, _, _ in self.later])
            orders = self.preserved.orders_at(pfns)
            ends = pfns + (np.int64(1) << np.maximum(orders, 0))
            at = 0
            for asked, its_orders, its_ends in self.later:
                its_orders[:] = orders[at : at + len(asked)]
                its_ends[:] = ends[at : at + len(asked)]
                at += len(asked)
        self.later.clear()
        self.left["later"] = LOOKED_UP

    @property
    def room(self) -> int:
        """Entries of lists that the budget still has room for."""
        return self.left.setdefault("entries", self.limits.files)

    def afford(self, entries: Sequence[T], path: str) -> Sequence[T]:
        """As many entries of a list as the budget has room for."""
        if len(entries) > self.room:
            message = exceeded("LUO sessions, files and FLBs", "files", self.limits.files)
            self.faults.add(FaultKind.LUO_LIMIT, message, path=path)
            entries = entries[: self.room]
        self.left["entries"] -= len(entries)
        return entries

    def vmalloc(self, descriptor: SimpleNamespace, path: str, owner: str, what: str) -> VmallocArea:
        """Follow a vmalloc area and claim its chunks and pages."""
        if "pages" not in self.left:
            self.left["pages"] = pages_of(self.memory, self.geometry)
        limit = self.left["pages"]
        area = walk_vmalloc(self.memory, self.geometry, descriptor, path, self.faults, limit)
        self.left["pages"] -= len(area.chunks) + len(area.phys)
        for chunk in area.chunks:
            self.claims.add(owner, f"{what} vmalloc chunk", chunk, self.geometry.page_size)
        if len(area.phys) == 1:
            size = self.geometry.page_size << area.order
            self.claims.add(owner, what, int(area.phys[0]) & -self.geometry.page_size, size)
        elif len(area.phys):
            pfns = (area.phys >> self.geometry.shift).astype("int64")
            self.claims.add_many(owner, what, pfns, 1 << area.order)
        return area


FileDecoder = Callable[[Context, PhysAddr, str, str], "Memfd | None"]
"""``(context, data, owner, path)`` → the file, None when its descriptor cannot be read."""


@dataclass(frozen=True, slots=True)
class BlobDecoder:
    """One row of the registry."""

    kind: str
    """What ``Blob.kind`` becomes: the compatible string, as a rule."""
    node: str
    """Name of the sub-node."""
    matches: Callable[[Blob], bool]
    """Whether the blob's own compatible string, or shape, is this decoder's."""
    decode: Callable[[Context, Blob, str], Content | None]
    """``(context, blob, kind)`` → content; None when not even its first struct can be read."""


def is_fdt(compatible: str) -> Callable[[Blob], bool]:
    """Matches blobs that are device trees with that root compatible string."""
    return lambda blob: blob.fdt is not None and blob.fdt.string("compatible") == compatible
