"""Walking the preserved-memory radix tree (kho-v2, v3, v4).

Level by level, with numpy over the nodes of a level. Every page is read at most once, however
many pointers lead to it, so the work is bounded by the dump's own size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.errors import MissingMemoryError
from kho_inspect.layouts.radix import kho_radix_leaf, kho_radix_node
from kho_inspect.layouts.views import U64Array, dtype_of
from kho_inspect.limits import DEFAULT_LIMITS, Limits, exceeded
from kho_inspect.memory import Presence
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.map import RadixTree, TreeLevel
from kho_inspect.model.preserved import Preserved
from kho_inspect.units import PhysAddr, plural
from kho_inspect.walk.bitmap import runs_of_bits
from kho_inspect.walk.keys import KeyRuns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.geometry import PageGeometry
    from kho_inspect.intervals import I64, Intervals
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.walk.faults import FaultLog

BATCH_BYTES = 1 << 16
"""Node bytes that are held and searched at a time; a hundred times that in between."""

MAX_LOST = 4096
"""Unreadable subtrees whose extent is kept; with more, all memory counts as lost."""

_MISSING = {
    Presence.OUTSIDE: (FaultKind.NODE_OUTSIDE, "outside the dump's memory"),
    Presence.NOT_STORED: (FaultKind.NODE_NOT_STORED, "not stored in the dump"),
    Presence.EXCLUDED: (FaultKind.NODE_NOT_STORED, "excluded from the dump"),
}


def walk_radix(
    memory: PhysicalMemory,
    geometry: PageGeometry,
    root: PhysAddr,
    faults: FaultLog,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[RadixTree, Preserved]:
    """The tree under ``root`` and all blocks whose keys could be read and decoded.

    Damage goes to ``faults`` and costs the subtree under it, and so does what is beyond ``limits``.
    """
    walker = _Walker(memory, geometry, faults, limits)
    tree = walker.walk(root)
    walker.check_keys()
    return tree, Preserved(geometry.shift, walker.runs.result())


class _Walker:
    def __init__(
        self, memory: PhysicalMemory, geometry: PageGeometry, faults: FaultLog, limits: Limits
    ) -> None:
        self.memory = memory
        self.geometry = geometry
        self.faults = faults
        self.limits = limits
        self.seen: set[int] = set()
        self.runs = KeyRuns(geometry)
        self.leaves: TreeLevel | None = None
        self.pointers = 0
        self.asked = 0
        """Pages whose presence was asked for one by one."""
        self.lost: list[tuple[int, int]] = []
        """Half-open ranges of keys under pointers that could not be followed."""

    def walk(self, root: PhysAddr) -> RadixTree:
        top = self.geometry.levels - 1
        levels: list[TreeLevel] = []
        paddrs = np.array([root], dtype=np.uint64)
        keys = np.zeros(1, dtype=np.int64)
        paddrs, keys = self.keep_readable(paddrs, keys, top, None)
        for number in range(top, -1, -1):
            if not len(paddrs):
                break
            if number == 0:
                used = self.read_leaves(paddrs, keys)
                self.leaves = TreeLevel(0, paddrs[: len(used)], keys[: len(used)], used)
                levels.append(self.leaves)
            else:
                used, children, child_keys = self.read_tables(paddrs, keys, number, levels)
                levels.append(TreeLevel(number, paddrs[: len(used)], keys[: len(used)], used))
                paddrs, keys = children, child_keys
        lost = self.lost_pages()
        return RadixTree(root, self.geometry.levels, tuple(levels), self.pointers, lost)

    def read_tables(
        self, paddrs: NDArray[np.uint64], keys: I64, level: int, above: list[TreeLevel]
    ) -> tuple[I64, NDArray[np.uint64], I64]:
        """Entries used per table read, and the readable children of all, in key order."""
        dtype = dtype_of(kho_radix_node(self.geometry))
        shift = self.geometry.level_shift(level)
        batch = max(1, BATCH_BYTES // dtype.itemsize)
        used, children, child_keys = [], [], []
        for at in range(0, len(paddrs), batch):
            items = self.memory.gather(paddrs[at : at + batch], dtype)
            tables = items["table"]
            rows, columns = np.nonzero(tables)
            used.append(np.bincount(rows, minlength=len(tables)))
            pointed = keys[at + rows] | columns << shift
            # Not only nodes are counted: of pointers to the same few there may be billions.
            room = max(self.limits.nodes - 1 - self.pointers, 0)
            self.pointers += len(rows)
            kept = self.keep_readable(
                tables[rows, columns][:room],
                pointed[:room],
                level - 1,
                _Parents(paddrs[at : at + batch], rows, columns, level, above),
            )
            children.append(kept[0])
            child_keys.append(kept[1])
            if len(rows) > room:
                self.lose(keys[at + batch :], level)
                self.give_up(pointed[room:], level - 1, "tree nodes", "nodes")
                break
        return np.concatenate(used), np.concatenate(children), np.concatenate(child_keys)

    def read_leaves(self, paddrs: NDArray[np.uint64], keys: I64) -> I64:
        """Bits set per leaf read; the runs of keys go to :attr:`runs`."""
        dtype = dtype_of(kho_radix_leaf(self.geometry))
        batch = max(1, BATCH_BYTES // dtype.itemsize)
        used = []
        for at in range(0, len(paddrs), batch):
            items = self.memory.gather(paddrs[at : at + batch], dtype)
            runs, bits = runs_of_bits(items["bitmap"], keys[at : at + batch])
            self.runs.add(*runs)
            used.append(bits)
            if self.runs.count > self.limits.runs:
                self.give_up(keys[at + batch :], 0, "runs of preserved pages", "runs")
                break
        return np.concatenate(used)

    def give_up(self, keys: I64, level: int, what: str, option: str) -> None:
        """A fault for nodes that a budget leaves unread."""
        if len(keys):
            self.lose(keys, level)
            message = exceeded(what, option, getattr(self.limits, option))
            path = self.geometry.node_path(int(keys[0]), level)
            self.faults.add(FaultKind.LIMIT, message, path=path, count=len(keys))

    def keep_readable(
        self, paddrs: NDArray[np.uint64], keys: I64, level: int, parents: _Parents | None
    ) -> tuple[NDArray[np.uint64], I64]:
        """The pointers that lead to a page not read before; the others become faults."""
        page = self.geometry.page_size
        good = (paddrs & np.uint64(page - 1)) == 0
        self.report(
            ~good,
            FaultKind.NODE_MISALIGNED,
            f"not aligned to the {page // 1024}K page size",
            (paddrs, keys, level, parents),
        )
        stored = self.memory.stored_mask(paddrs, page)
        for presence, wrong in self.missing(paddrs, good & ~stored).items():
            kind, what = _MISSING[presence]
            self.report(wrong, kind, what, (paddrs, keys, level, parents))
        good &= stored
        candidates = np.flatnonzero(good)
        again = candidates[self.met_before(paddrs[candidates])]
        above = np.zeros(len(again), dtype=bool)
        if parents is not None and len(again):
            above = parents.are_ancestors(again, paddrs[again], keys[again])
        for indices, kind, what in (
            (again[above], FaultKind.NODE_CYCLE, "a node on the path that leads here"),
            (again[~above], FaultKind.NODE_ALIASED, "a node already reached by another path"),
        ):
            mask = np.zeros(len(paddrs), dtype=bool)
            mask[indices] = True
            self.report(mask, kind, what, (paddrs, keys, level, parents))
        good[again] = False
        return paddrs[good], keys[good]

    def met_before(self, pages: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which pages were read before, or stand earlier among these; all count as read now."""
        values: list[int] = pages.tolist()
        once = dict.fromkeys(values)
        met = np.zeros(len(pages), dtype=bool)
        if len(once) < len(values) or not self.seen.isdisjoint(once):
            met[:] = [page in self.seen for page in values]
            first = np.zeros(len(pages), dtype=bool)
            first[np.unique(pages, return_index=True)[1]] = True
            met |= ~first
        self.seen.update(once)
        return met

    def missing(
        self, paddrs: NDArray[np.uint64], wrong: NDArray[np.bool_]
    ) -> dict[Presence, NDArray[np.bool_]]:
        """Pages that are not stored, by what the dump says of them."""
        at = np.flatnonzero(wrong)
        # A hostile table has hundreds of such pointers: each page is asked for once, and of very
        # many only whether they are the machine's memory at all.
        pages, which = np.unique(paddrs[at], return_inverse=True)
        asked = pages[: max(0, MAX_LOST - self.asked)].tolist()
        self.asked += len(asked)
        said = [self.memory.presence(page, self.geometry.page_size) for page in asked]
        rest = pages[len(asked) :]
        inside = np.searchsorted(self.declared, rest, side="right") & 1
        said += [Presence.NOT_STORED if one else Presence.OUTSIDE for one in inside.tolist()]
        found = {}
        for presence in dict.fromkeys(said):
            found[presence] = np.zeros(len(paddrs), dtype=bool)
            found[presence][at] = np.array([one is presence for one in said], dtype=bool)[which]
        return found

    @cached_property
    def declared(self) -> NDArray[np.uint64]:
        """Where the machine's memory starts, ends, starts again …"""
        # No page starts at 2**64 - 1, so that can stand for 2**64.
        bounds = [
            min(bound, (1 << 64) - 1)
            for extent in self.memory.declared
            for bound in (extent.start, extent.end)
        ]
        return np.array(bounds, dtype=np.uint64)

    def lose(self, keys: I64, level: int) -> None:
        """Whatever the nodes at ``keys`` record is not known."""
        if len(self.lost) < MAX_LOST:
            span = 1 << self.geometry.level_shift(level + 1)
            self.lost += [(key, key + span) for key in keys[:MAX_LOST].tolist()]

    def report(
        self,
        wrong: NDArray[np.bool_],
        kind: FaultKind,
        what: str,
        pointers: tuple[NDArray[np.uint64], I64, int, _Parents | None],
    ) -> None:
        """One fault for each node that holds pointers gone wrong in the same way."""
        paddrs, keys, level, parents = pointers
        bad = np.flatnonzero(wrong)
        if not len(bad):
            return
        self.lose(keys[bad], level)
        if parents is None:
            paddr = int(paddrs[0])
            self.faults.add(kind, f"tree root {paddr:#x} is {what}", paddr=paddr, path="root")
            return
        rows, firsts, counts = np.unique(parents.rows[bad], return_index=True, return_counts=True)
        groups = zip(rows.tolist(), bad[firsts].tolist(), counts.tolist(), strict=True)
        for row, first, count in groups:
            target = int(paddrs[first])
            node = f"node {int(parents.paddrs[row]):#x}"
            entry = f"entry {int(parents.columns[first])}"
            more = f" (and {count - 1} more of its entries likewise)" if count > 1 else ""
            self.faults.add(
                kind,
                f"{entry} of {node} points to {target:#x}, {what}{more}",
                paddr=target,
                path=self.geometry.node_path(int(keys[first]), level),
                count=count,
            )

    def check_keys(self) -> None:
        """Keys that decode to no page are faults."""
        if self.runs.no_order:
            self.faults.add(
                FaultKind.KEY_NO_ORDER,
                "key 0 is set: it has no order bit, so it names no page",
                paddr=self.leaf_of(0),
                path=self.geometry.entry_path(0, 0),
            )
        if self.runs.too_high is not None:
            key, count = self.runs.too_high
            self.faults.add(
                FaultKind.KEY_ORDER_TOO_HIGH,
                f"{plural(count, 'key')} from {key:#x} have a bit set above the order-0 bit "
                f"{self.geometry.order0_bit}: no page has such a key",
                paddr=self.leaf_of(key),
                path=self.geometry.entry_path(key, 0),
                count=count,
            )

    def lost_pages(self) -> Intervals:
        """:attr:`lost` as page frames, whatever the order of the keys."""
        top = self.geometry.order0_bit
        pages = [(0, 1 << top)] if len(self.lost) >= MAX_LOST else []
        for low, high in self.lost:
            for bit in range(max(low.bit_length() - 1, 0), min(high.bit_length(), top + 1)):
                start, end = max(low, 1 << bit), min(high, 2 << bit)
                if start < end:
                    first = 1 << bit
                    pages.append(((start - first) << (top - bit), (end - first) << (top - bit)))
        return intervals.merge(*intervals.from_pairs(pages))

    def leaf_of(self, key: int) -> PhysAddr | None:
        """The leaf that holds a key's bit."""
        if self.leaves is None:
            return None
        at = int(np.searchsorted(self.leaves.key, key, side="right")) - 1
        return int(self.leaves.paddr[at])


@dataclass(frozen=True, slots=True)
class _Parents:
    """Which entry of which table each pointer of a batch came from."""

    paddrs: NDArray[np.uint64]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    level: int
    above: list[TreeLevel]
    """The levels over the tables', from the root down."""

    def are_ancestors(
        self, indices: NDArray[np.intp], paddrs: NDArray[np.uint64], keys: I64
    ) -> NDArray[np.bool_]:
        """Which of these pointers lead to the table that holds them, or to one above it."""
        found: NDArray[np.bool_] = self.paddrs[self.rows[indices]] == paddrs
        for level in self.above:
            at = np.searchsorted(level.key, keys, side="right") - 1
            found |= level.paddr[at] == paddrs
        return found


@dataclass(frozen=True, slots=True)
class Step:
    """One node on the way to a key."""

    level: int
    paddr: PhysAddr
    index: int
    """Entry of the table, or bit of the leaf."""
    value: int
    """The entry's content; 0 or 1 in a leaf."""


def look_up(memory: PhysicalMemory, geometry: PageGeometry, root: PhysAddr, key: int) -> list[Step]:
    """The nodes on the way to ``key``, ending at the first zero entry or unreadable node."""
    steps: list[Step] = []
    word_of, paddr = U64Array.element, root
    for level in range(geometry.levels - 1, -1, -1):
        index = geometry.index(key, level)
        word = index >> 6 if level == 0 else index
        try:
            if paddr % geometry.page_size:
                break
            (value,) = word_of.unpack(memory.read(paddr + word * word_of.size, word_of.size))
        except MissingMemoryError:
            break
        if level == 0:
            value = value >> (index & 63) & 1
        steps.append(Step(level, paddr, index, value))
        if not value:
            break
        paddr = value
    return steps
