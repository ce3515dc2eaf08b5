"""KHO3xx: preserved memory and scratch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.rules.base import Catalogue, Found, Need, Severity
from kho_inspect.rules.case import Case, is_sessions
from kho_inspect.units import Extent, human_size

if TYPE_CHECKING:
    from kho_inspect.intervals import Intervals

CATALOGUE = Catalogue(Need.FDT, Need.ABI)
rule = CATALOGUE.rule

MAX_LISTED = 8
"""Ranges of one kind that become findings of their own; the rest is summed up in one."""

SPECIFIC = frozenset(
    (
        "root FDT",
        "blob",
        "session array",
        "file array",
        "session block",
        "file block",
        "FLB array",
        "memfd descriptor",
        "folio table",
        "folio table vmalloc chunk",
        "folios_info",
        "folios_info vmalloc chunk",
        "folio",
        "test folio",
        "region",
    )
)
"""Kinds of claims whose being unpreserved is another rule's business."""


def _ranges(case: Case, pages: Intervals, words: str) -> Iterator[Found]:
    """A finding per range, up to a point."""
    shift = case.there.geometry.shift
    starts, ends = pages
    for start, end in zip(starts[:MAX_LISTED].tolist(), ends[:MAX_LISTED].tolist(), strict=True):
        extent = Extent(start << shift, end << shift)
        blocks = case.there.preserved.blocks_at(extent.start)
        order = f" (block of order {blocks[0].order})" if blocks else ""
        yield Found(f"{human_size(extent.size)} at {extent}{order} {words}", extent.start, "")
    if len(starts) > MAX_LISTED:
        left = int((ends[MAX_LISTED:] - starts[MAX_LISTED:]).sum()) << shift
        count = len(starts) - MAX_LISTED
        paddr = int(starts[MAX_LISTED]) << shift
        yield Found(f"{human_size(left)} in {count:,} more ranges {words}", paddr, "")


def _pages(extents: tuple[Extent, ...], shift: int) -> Intervals:
    pairs = [(extent.start >> shift, -(-extent.end >> shift)) for extent in extents]
    return intervals.merge(*intervals.from_pairs(pairs))


@rule(
    "KHO301",
    Severity.ERROR,
    "a stray bit in the tree; or the dump lacks RAM: --map, --base",
    Need.TREE,
    Need.TRUSTED,
)
def block_outside_ram(case: Case) -> Iterator[Found]:
    """Preserved blocks lie in RAM.

    Matters: the next kernel initializes struct pages for them; there are none outside RAM.
    Causes: a stray bit in the tree; a dump that does not cover all RAM.
    Enforced by: nobody: ``kho_restore_page()`` trusts ``pfn_to_online_page()``.
    """
    outside = intervals.subtract(case.preserved.merged, case.ram)
    return _ranges(case, outside, "is preserved, but lies outside the memory of the dump")


@rule(
    "KHO302",
    Severity.ERROR,
    "a stray bit, or two users of one page: see addr for both blocks",
    Need.TREE,
    Need.TRUSTED,
)
def blocks_overlap(case: Case) -> Iterator[Found]:
    """No page is preserved by two blocks of different orders.

    Matters: the second restore finds no head and fails, or frees pages of the first.
    Causes: a page preserved by itself and as part of a folio; a stray bit.
    Enforced by: nobody.
    """
    # One stray block of a high order lies over many: they are told as one.
    shift = case.there.geometry.shift
    told: set[tuple[int, int]] = set()
    for start, end in zip(*case.overlaps, strict=True):
        paddr = int(start) << shift
        outer = case.preserved.blocks_at(paddr)[-1]
        if (outer.paddr, outer.order) in told:
            continue
        told.add((outer.paddr, outer.order))
        inner = case.preserved.blocks_at(paddr)[0]
        extent = Extent(paddr, int(end) << shift)
        yield Found(
            f"{human_size(extent.size)} at {extent} is preserved by several blocks: order "
            f"{outer.order} at {outer.paddr:#x}, order {inner.order} at {inner.paddr:#x}",
            paddr,
            "",
        )
        if len(told) == MAX_LISTED:
            return


@rule(
    "KHO303",
    Severity.FATAL,
    "the old kernel must not preserve scratch memory: find who allocated it there",
    Need.TREE,
    Need.TRUSTED,
    Need.SCRATCH,
    Need.SOUND_SCRATCH,
)
def block_in_scratch(case: Case) -> Iterator[Found]:
    """No preserved block overlaps a scratch area.

    Matters: the next kernel allocates from scratch before it looks at the map: the data is
    overwritten.
    Causes: memory of a movable allocation preserved where it stood.
    Enforced by: ``kho_scratch_overlap()``, in debug builds only.
    """
    assert case.scratch is not None
    shift = case.there.geometry.shift
    shared = intervals.intersect(case.preserved.merged, _pages(case.scratch.areas, shift))
    return _ranges(case, shared, "is preserved, but lies in a scratch area")


@rule("KHO304", Severity.FATAL, "the table was overwritten, or is not the right one", Need.SCRATCH)
def scratch_malformed(case: Case) -> Iterator[Found]:
    """The scratch table is a list of areas with sizes.

    Matters: the next kernel has no memory to boot in.
    Causes: the table's page was recycled; a wrong address.
    Enforced by: ``kho_populate()``: ``memblock_mark_kho_scratch()`` of each area.
    """
    scratch = case.scratch
    assert scratch is not None
    if case.scratch_trouble is not None:
        message, path = case.scratch_trouble
        yield Found(message, scratch.table.start if scratch.table else None, path)
        return
    for number, (addr, size) in itertools.islice(enumerate(scratch.entries), MAX_LISTED):
        if not size or addr + size > 1 << 64:
            yield Found(
                f"scratch area {number} is {addr:#x}+{size:#x}, should have a size and an end",
                scratch.table.start if scratch.table else None,
                f"{scratch.source} → area {number}",
            )


@rule(
    "KHO305",
    Severity.ERROR,
    "the table was overwritten, or is not the right one",
    Need.SCRATCH,
    Need.SOUND_SCRATCH,
)
def scratch_overlaps(case: Case) -> Iterator[Found]:
    """Scratch areas do not overlap each other.

    Matters: one is counted twice, and the next kernel has less memory to boot in than it needs.
    Causes: a damaged table.
    Enforced by: nobody.
    """
    assert case.scratch is not None
    for before, after in itertools.pairwise(sorted(case.scratch.areas)):
        if before.overlaps(after):
            yield Found(
                f"scratch areas {before} and {after} overlap", after.start, case.scratch.source
            )


@rule(
    "KHO306",
    Severity.WARNING,
    "the table was overwritten, or is not the right one",
    Need.SCRATCH,
    Need.SOUND_SCRATCH,
)
def scratch_misaligned(case: Case) -> Iterator[Found]:
    """Scratch areas start and end on pages.

    Matters: the old kernel allots them as whole CMA areas; anything else is damage.
    Causes: a damaged table; a wrong --scratch.
    Enforced by: nobody.
    """
    assert case.scratch is not None
    page = case.there.geometry.page_size
    for area in case.scratch.areas:
        if (area.start % page or area.end % page) and _in_ram(case, area):
            yield Found(
                f"scratch area {area} is not aligned to pages of {human_size(page)}",
                area.start,
                case.scratch.source,
            )


@rule(
    "KHO307",
    Severity.ERROR,
    "the table is another machine's, or the dump lacks RAM",
    Need.SCRATCH,
    Need.SOUND_SCRATCH,
)
def scratch_outside_ram(case: Case) -> Iterator[Found]:
    """Scratch areas lie in RAM.

    Matters: the next kernel boots in them.
    Causes: a damaged table; a dump that does not cover all RAM.
    Enforced by: nobody.
    """
    assert case.scratch is not None
    for area in case.scratch.areas:
        if not _in_ram(case, area):
            yield Found(
                f"scratch area {area} lies outside the memory of the dump",
                area.start,
                case.scratch.source,
            )


def _in_ram(case: Case, area: Extent) -> bool:
    return any(ram.contains(area.start, area.size) for ram in case.there.source.declared)


@rule(
    "KHO308",
    Severity.WARNING,
    "find who preserved it (owners lists the neighbours): the next kernel never frees it",
    Need.TREE,
    Need.TRUSTED,
    Need.ALL_CLAIMS,
)
def orphans(case: Case) -> Iterator[Found]:
    """Every preserved page has an owner.

    Matters: nobody will ever restore or free an orphan: a leak that grows with each handover.
    Causes: a user that failed half-way and did not unpreserve; a stray bit.
    Enforced by: nobody.
    """
    pages = case.ownership.orphans
    # A stray block in the wrong place is told as that, by its own rule.
    shift = case.there.geometry.shift
    nodes = [(nodes.paddr >> np.uint64(shift)).astype(np.int64) for nodes in case.map_nodes()]
    pfns = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *nodes]))
    pages = intervals.subtract(pages, intervals.merge(pfns, pfns + 1))
    pages = intervals.intersect(pages, case.ram)
    pages = intervals.subtract(pages, case.doubtful)
    if case.scratch is not None and case.scratch_trouble is None:
        pages = intervals.subtract(pages, _pages(case.scratch.areas, shift))
    return _ranges(case, pages, "is preserved, but nothing points to it: an orphan")


@rule("KHO309", Severity.ERROR, "preserve it, or drop the pointer", Need.TREE, Need.TRUSTED)
def dangling(case: Case) -> Iterator[Found]:
    """Claimed memory is preserved (whatever no more specific rule looks at).

    Matters: the next kernel hands unpreserved pages to anybody; the data is overwritten.
    Causes: a missing ``kho_preserve_*()`` call; a bit lost in the tree.
    Enforced by: ``kho_restore_page()``, for memory that is restored as folios.
    """
    return case.unpreserved(but=tuple(SPECIFIC))


@rule(
    "KHO310",
    Severity.ERROR,
    "one of the two pointers is wrong: see addr for both owners",
    Need.TREE,
    Need.TRUSTED,
)
def shared(case: Case) -> Iterator[Found]:
    """No page has two owners.

    Matters: both restore it; the second fails, or both write to it.
    Causes: a stale pointer; a page preserved for two users.
    Enforced by: nobody.
    """
    shift = case.there.geometry.shift
    pages = intervals.subtract(case.ownership.shared, case.doubtful)
    # What reaches too far is told by its own rule, KHO603 or KHO409.
    told = {found.path.rpartition(" / ")[0] for found in case.unpreserved("region", "blob")}
    for start, end in itertools.islice(zip(*pages, strict=True), MAX_LISTED):
        extent = Extent(int(start) << shift, int(end) << shift)
        claimants = case.index.owners(start, end)
        if any(one.claim.owner in told for one in claimants):
            continue
        kinds = {one.claim.what for one in claimants}
        if kinds in ({"region"}, {"blob"}) or all(is_sessions(one.claim) for one in claimants):
            continue  # KHO604, KHO111 and KHO514 say that better
        chains = [one.chain(extent.start, shift) for one in claimants]
        yield Found(
            f"{human_size(extent.size)} at {extent} is claimed by {' and by '.join(chains[:2])}",
            extent.start,
            chains[0] if chains else "",
        )
