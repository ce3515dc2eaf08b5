"""Walking the preserved-memory radix tree (kho-v2, v3, v4).

Level by level, with numpy over the nodes of a level. Every page is read at most once, however
many pointers lead to it, so the work is bounded by the dump's own size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kho_inspect import intervals
from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64, Intervals
from kho_inspect.layouts.radix import kho_radix_leaf, kho_radix_node
from kho_inspect.layouts.views import U64Array, dtype_of
from kho_inspect.limits import DEFAULT_LIMITS, Limits, exceeded
from kho_inspect.memory import PhysicalMemory, Presence
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.identity import Step, StepKind
from kho_inspect.model.map import WordReader
from kho_inspect.model.preserved import Preserved
from kho_inspect.model.radix_tree import RadixTree, TreeLevel, entry_path, node_path
from kho_inspect.units import PhysAddr, plural
from kho_inspect.walk.bitmap import KeyRuns, runs_of_bits
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.pages import MapWalker

BATCH_BYTES = 1 << 16
"""Node bytes that are held and searched at a time; a hundred times that in between."""

FEW_RUNS = 256
"""Runs of a leaf up to which more of them are searched at a time."""

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


@dataclass(eq=False)
class _Walker(MapWalker):
    levels: list[TreeLevel] = field(default_factory=list)
    """What was read, from the root level down."""
    looked_up: int = 0
    """Pages whose presence was looked up one by one."""

    def __post_init__(self) -> None:
        self.runs = KeyRuns(self.geometry)

    def walk(self, root: PhysAddr) -> RadixTree:
        top = self.geometry.levels - 1
        paddrs = np.array([root], dtype=np.uint64)
        keys = np.zeros(1, dtype=np.int64)
        paddrs, keys = self.keep_readable(_Pointers(paddrs, keys, top))
        for level in range(top, -1, -1):
            if not len(paddrs):
                break
            children, child_keys = paddrs, keys
            if level:
                used, children, child_keys = self.read_tables(paddrs, keys, level)
            else:
                used = self.read_leaves(paddrs, keys)
            self.levels.append(TreeLevel(level, paddrs[: len(used)], keys[: len(used)], used))
            paddrs, keys = children, child_keys
        return RadixTree(
            root=root,
            depth=self.geometry.levels,
            pointers=self.pointers,
            lost=self.lost_pages(),
            geometry=self.geometry,
            levels=tuple(self.levels),
        )

    def read_tables(
        self, paddrs: NDArray[np.uint64], keys: I64, level: int
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
            # Pointers count, not only nodes: billions of them may lead to the same few nodes.
            room = max(self.limits.nodes - 1 - self.pointers, 0)
            self.pointers += len(rows)
            parents = _Parents(paddrs[at : at + batch], rows, columns, self.levels)
            kept = self.keep_readable(
                _Pointers(tables[rows, columns][:room], pointed[:room], level - 1, parents)
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
        batch = few = max(1, BATCH_BYTES // dtype.itemsize)
        used, at = [], 0
        while at < len(paddrs) and self.runs.count <= self.limits.runs:
            part = slice(at, at + batch)
            items = self.memory.gather(paddrs[part], dtype)
            (starts, ends), bits = runs_of_bits(items["bitmap"], keys[part])
            # What comes of a batch should fit into a cache, and of most leaves little comes.
            at, batch = part.stop, few if len(starts) > FEW_RUNS * len(bits) else 4 * few
            self.runs.add(starts, ends)
            used.append(bits)
        if self.runs.count > self.limits.runs:
            self.give_up(keys[at:], 0, "runs of preserved pages", "runs")
        return np.concatenate(used)

    def give_up(self, keys: I64, level: int, what: str, option: str) -> None:
        """A fault for nodes that a budget leaves unread."""
        if len(keys):
            self.lose(keys, level)
            message = exceeded(what, option, getattr(self.limits, option))
            path = node_path(self.geometry, int(keys[0]), level)
            self.faults.add(FaultKind.LIMIT, message, path=path, count=len(keys))

    def keep_readable(self, pointers: _Pointers) -> tuple[NDArray[np.uint64], I64]:
        """Pages that were not read before, and their keys; all other pointers become faults."""
        page, paddrs = self.geometry.page_size, pointers.paddrs
        aligned = (paddrs & np.uint64(page - 1)) == 0
        what = f"not aligned to the {page // 1024}K page size"
        self.report(pointers, np.flatnonzero(~aligned), FaultKind.NODE_MISALIGNED, what)
        stored = self.memory.stored_mask(paddrs, page)
        missing = self.missing(paddrs, np.flatnonzero(aligned & ~stored))
        for presence, wrong in missing.items():
            self.report(pointers, wrong, *_MISSING[presence])
        good = np.flatnonzero(aligned & stored)
        repeated = self.is_repeated(paddrs[good])
        again = good[repeated]
        above = pointers.lead_up(again)
        what = "a node on the path that leads here"
        self.report(pointers, again[above], FaultKind.NODE_CYCLE, what)
        what = "a node already reached by another path"
        self.report(pointers, again[~above], FaultKind.NODE_ALIASED, what)
        good = good[~repeated]
        return paddrs[good], pointers.keys[good]

    def is_repeated(self, pages: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which pages were read before, or stand earlier among these; all count as read now."""
        values: list[int] = pages.tolist()
        once = dict.fromkeys(values)
        again = np.zeros(len(pages), dtype=bool)
        if len(once) < len(values) or not self.read_before.isdisjoint(once):
            again[:] = [page in self.read_before for page in values]
            first = np.zeros(len(pages), dtype=bool)
            first[np.unique(pages, return_index=True)[1]] = True
            again |= ~first
        self.read_before.update(once)
        return again

    def missing(
        self, paddrs: NDArray[np.uint64], wrong: NDArray[np.intp]
    ) -> dict[Presence, NDArray[np.intp]]:
        """The ``wrong`` of some pages, which are not stored, by their presence in the dump."""
        # A hostile table has hundreds of such pointers: each page is looked up once, and of very
        # many only whether they are the machine's memory at all.
        pages, which = np.unique(paddrs[wrong], return_inverse=True)
        first = pages[: max(0, MAX_LOST - self.looked_up)].tolist()
        self.looked_up += len(first)
        found = [self.memory.presence(page, self.geometry.page_size) for page in first]
        inside = np.searchsorted(self.declared, pages[len(first) :], side="right") & 1
        found += [Presence.NOT_STORED if odd else Presence.OUTSIDE for odd in inside.tolist()]
        return {
            presence: wrong[np.array([other is presence for other in found])[which]]
            for presence in dict.fromkeys(found)
        }

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
        self, pointers: _Pointers, wrong: NDArray[np.intp], kind: FaultKind, what: str
    ) -> None:
        """One fault for each node that holds pointers gone ``wrong`` in the same way."""
        if not len(wrong):
            return
        paddrs, keys, level, parents = pointers
        self.lose(keys[wrong], level)
        if parents is None:
            paddr, path = int(paddrs[0]), (Step(StepKind.TREE_NODE),)
            self.faults.add(kind, f"tree root {paddr:#x} is {what}", paddr=paddr, path=path)
            return
        rows, firsts, counts = np.unique(parents.rows[wrong], return_index=True, return_counts=True)
        groups = zip(rows.tolist(), wrong[firsts].tolist(), counts.tolist(), strict=True)
        for row, first, count in groups:
            target = int(paddrs[first])
            node = f"node {int(parents.paddrs[row]):#x}"
            entry = f"entry {int(parents.columns[first])}"
            more = f" (and {count - 1} more of its entries likewise)" if count > 1 else ""
            self.faults.add(
                kind,
                f"{entry} of {node} points to {target:#x}, {what}{more}",
                paddr=target,
                path=node_path(self.geometry, int(keys[first]), level),
                count=count,
            )

    def check_keys(self) -> None:
        """Keys that decode to no page are faults."""
        if self.runs.no_order:
            message = "key 0 is set: it has no order bit, so it names no page"
            self.report_keys(FaultKind.KEY_NO_ORDER, 0, message)
        if self.runs.too_high is not None:
            key, count = self.runs.too_high
            message = (
                f"{plural(count, 'key')} from {key:#x} have a bit set above the order-0 bit "
                f"{self.geometry.order0_bit}: no page has such a key"
            )
            self.report_keys(FaultKind.KEY_ORDER_TOO_HIGH, key, message, count)

    def report_keys(self, kind: FaultKind, key: int, message: str, count: int = 1) -> None:
        """A fault of ``count`` keys that are set, at the leaf and bit of the first."""
        leaves, path = self.levels[-1], entry_path(self.geometry, key, 0)
        leaf = int(leaves.paddr[np.searchsorted(leaves.key, key, side="right") - 1])
        self.faults.add(kind, message, paddr=leaf, path=path, count=count)

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


class _Parents(NamedTuple):
    """Which entry of which table each pointer of a batch came from."""

    paddrs: NDArray[np.uint64]
    """The tables of the batch."""
    rows: NDArray[np.intp]
    """Of each pointer: its table, as an index of ``paddrs``."""
    columns: NDArray[np.intp]
    """Of each pointer: its entry in the table."""
    above: list[TreeLevel]
    """The levels over the tables', from the root down."""


class _Pointers(NamedTuple):
    """A batch of pointers to nodes of one level."""

    paddrs: NDArray[np.uint64]
    keys: I64
    """Lowest key that each node covers."""
    level: int
    """The nodes'; 0 for leaves."""
    parents: _Parents | None = None
    """None: the pointer to the root."""

    def lead_up(self, indices: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of these pointers lead to the table that holds them, or to one above it."""
        found = np.zeros(len(indices), dtype=bool)
        if self.parents is not None and len(indices):
            paddrs, keys = self.paddrs[indices], self.keys[indices]
            found |= self.parents.paddrs[self.parents.rows[indices]] == paddrs
            for level in self.parents.above:
                at = np.searchsorted(level.key, keys, side="right") - 1
                found |= level.paddr[at] == paddrs
        return found


def word_reader(memory: PhysicalMemory) -> WordReader:
    """Reads one word of a node, table entry or bits."""
    word = U64Array.element
    return lambda paddr: int(word.unpack(memory.read(paddr, word.size))[0])
