"""Which page size a tree was written with: the FDT has no such property, the tree has evidence.

Under a wrong page size a table is cut short or runs into its neighbours, and its pointers stop
being aligned, stored page addresses after a step or two. A bounded part of the tree is tried
under each candidate, and the sub-nodes' blobs, which are preserved by construction, are looked
up in it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kho_inspect.abi import Abi
from kho_inspect.geometry import PAGE_SHIFTS, PageGeometry, page_size_name
from kho_inspect.layouts.radix import kho_radix_node
from kho_inspect.layouts.views import dtype_of
from kho_inspect.limits import DEFAULT_LIMITS, Limits
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.radix_tree import look_up
from kho_inspect.units import PhysAddr, plural
from kho_inspect.walk.chunk_list import walk_chunks
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.radix import word_reader

MAX_TRIED = 64
"""Tables that are tried under each candidate, and sub-nodes whose blobs are looked up in it."""
MAX_ORDER = 20
"""Highest order under which a blob's page is looked up."""


class Evidence(NamedTuple):
    """How the tree reads under one candidate page size."""

    geometry: PageGeometry
    aligned: bool
    """The root is page-aligned and stored."""
    good: int = 0
    """Pointers that lead to an aligned, stored page."""
    bad: int = 0
    """Pointers that do not, and keys without a valid order."""
    blobs: int = 0
    """Sub-node blobs that the tree records as preserved."""
    blob_orders: int = 0
    """Sum of the orders of the blocks that hold them: writers need a page or a few."""

    @property
    def rank(self) -> tuple[bool, int, bool, float, int, int]:
        """Sorts the best candidate last; ties go to the smaller page."""
        share = self.good / (self.good + self.bad) if self.good + self.bad else 0.0
        sound = self.bad == 0
        return (self.aligned, self.blobs, sound, share, -self.blob_orders, -self.geometry.shift)


def find_page_size(
    memory: PhysicalMemory,
    abi: Abi,
    root: FdtNode,
    memory_map: PhysAddr,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Evidence, str]:
    """Try every page size on the map at ``memory_map``; the best one, and why, in words.

    A map of a kind that is not known is no evidence.
    """
    if not abi.reads_map:
        smallest = min(PAGE_SHIFTS.values())
        reason = f"assumed {page_size_name(smallest)}: the layout of the map is not known"
        return Evidence(PageGeometry(smallest, abi), aligned=False), reason
    blobs = blob_pointers(root, abi)
    geometries = [PageGeometry(shift, abi) for shift in PAGE_SHIFTS.values()]
    if abi.radix:
        candidates = [_examine(memory, one, memory_map, blobs) for one in geometries]
    else:
        candidates = [_examine_chunks(memory, one, memory_map, blobs, limits) for one in geometries]
    candidates.sort(key=lambda evidence: evidence.rank)
    best = candidates[-1]
    return best, _reason(best, candidates[-2], len(blobs))


def blob_pointers(root: FdtNode, abi: Abi) -> list[PhysAddr]:
    """Where the blobs of the first :data:`MAX_TRIED` sub-nodes are said to stand."""
    pointers = [node.u64(abi.blob_property) for node in root.children[:MAX_TRIED]]
    return [paddr for paddr in pointers if paddr]


def _examine(
    memory: PhysicalMemory, geometry: PageGeometry, root: PhysAddr, blobs: Sequence[PhysAddr]
) -> Evidence:
    page = geometry.page_size
    if root % page or not memory.stored_mask(np.array([root], dtype=np.uint64), page)[0]:
        return Evidence(geometry, aligned=False)
    dtype = dtype_of(kho_radix_node(geometry))
    good = bad = 0
    queue = [(root, 0, geometry.levels - 1)]
    queued = {root}
    for _ in range(MAX_TRIED):
        if not queue:
            break
        paddr, key, level = queue.pop()
        table = memory.gather(np.array([paddr], dtype=np.uint64), dtype)["table"][0]
        columns = np.flatnonzero(table)
        children = table[columns]
        sound = ((children & np.uint64(page - 1)) == 0) & memory.stored_mask(children, page)
        keys = key | columns << geometry.level_shift(level)
        # The whole subtree must have its order bit at or below bit `order0_bit`.
        sound &= keys >> (geometry.order0_bit + 1) == 0
        good += int(sound.sum())
        bad += len(columns) - int(sound.sum())
        if level > 1:
            for child, child_key in zip(
                children[sound].tolist(), keys[sound].tolist(), strict=True
            ):
                if child in queued:
                    bad += 1
                else:
                    queued.add(child)
                    queue.append((child, child_key, level - 1))
    orders = [preserved_order(memory, geometry, root, paddr) for paddr in blobs]
    found = [order for order in orders if order is not None]
    return Evidence(geometry, True, good, bad, len(found), sum(found))


def _examine_chunks(
    memory: PhysicalMemory,
    geometry: PageGeometry,
    root: PhysAddr,
    blobs: Sequence[PhysAddr],
    limits: Limits,
) -> Evidence:
    """kho-v1: a list is short enough to be walked as a whole."""
    faults = FaultLog()
    chunks, preserved = walk_chunks(memory, geometry, root, faults, limits)
    bad = sum(fault.count for fault in faults.result())
    holders = [preserved.blocks_at(paddr) for paddr in blobs]
    orders = [held[0].order for held in holders if held]
    good = max(chunks.pointers - bad, 0)
    return Evidence(geometry, chunks.readable, good, bad, len(orders), sum(orders))


def preserved_order(
    memory: PhysicalMemory, geometry: PageGeometry, root: PhysAddr, paddr: PhysAddr
) -> int | None:
    """The lowest order of a preserved block that holds ``paddr``."""
    page = paddr & ~(geometry.page_size - 1)
    read = word_reader(memory)
    for order in range(MAX_ORDER + 1):
        block = page & ~((geometry.page_size << order) - 1)
        key = geometry.encode(block, order)
        steps = look_up(read, geometry, root, key)
        if len(steps) == geometry.levels and steps[-1].value:
            return order
    return None


def _reason(best: Evidence, second: Evidence, blobs: int) -> str:
    name = page_size_name(best.geometry.shift)
    if not best.aligned:
        return f"assumed {name}: the tree root is not a stored, aligned page of any size"
    if best.rank[:-1] == second.rank[:-1]:
        other = page_size_name(second.geometry.shift)
        return f"assumed {name}: the tree is as good under {other}"
    if not best.good + best.bad:
        return "the tree is empty, but its root is aligned for no larger page"
    if not best.blobs and best.bad:
        return f"best fit, though {best.bad} of {best.good + best.bad} pointers tried are bad"
    tried = plural(best.good + best.bad, "pointer")
    sound = "sound" if not best.bad else f"{best.good} sound"
    kept = f", {best.blobs} of {plural(blobs, 'blob')} preserved" if blobs else ""
    return f"{tried} tried, {sound}{kept}"
