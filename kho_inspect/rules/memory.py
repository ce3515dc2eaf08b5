"""KHO3xx: preserved memory and scratch."""

import itertools
from collections.abc import Hashable, Iterable, Iterator

from kho_inspect import intervals
from kho_inspect.model.handover import Scratch
from kho_inspect.model.identity import ClaimKind, Path, Place, Step, StepKind
from kho_inspect.rules.base import (
    ERROR,
    FATAL,
    MAX_PLACES,
    WARNING,
    About,
    Decision,
    Evidence,
    Need,
    Observation,
    Severity,
)
from kho_inspect.rules.case import Case
from kho_inspect.rules.catalogue import Catalogue
from kho_inspect.rules.claims_view import is_sessions
from kho_inspect.units import Extent, human_size

CATALOGUE = Catalogue((Need.FDT, Need.ABI))
tree_rule = CATALOGUE.needing(Need.TREE, Need.TRUSTED).rule
scratch_rule = CATALOGUE.needing(Need.SCRATCH, Need.SOUND_SCRATCH).rule

_IN_SCRATCH = "the old kernel must not preserve scratch memory: find who allocated it there"
_ORPHAN = "find who preserved it (owners lists the neighbours): the next kernel never frees it"
_GIVEN = "leave --scratch and --boot-dtb out, unless the dump's own table was overwritten"
_NO_TABLE = "the table was overwritten, or is not the right one"
_SECTION = {16: 29}
"""Page shift → log2 of the memory that has struct pages together, where that is not 27."""
MAX_LISTED = 8
"""Ranges without a common cause that become findings of their own; the rest is one more."""


def _ranges(
    case: Case,
    batches: Iterable[intervals.Intervals],
    words: str,
    severity: Severity | None = None,
    cause: Hashable = None,
) -> Iterator[Observation]:
    """A place per range, up to a point."""
    shift = case.handover.geometry.shift
    most = MAX_LISTED if cause is None else MAX_PLACES - 1
    listed: list[Extent] = []
    count = pages = 0
    for batch in batches:
        listed += itertools.islice(intervals.extents(batch, shift), most + 1 - len(listed))
        count, pages = count + len(batch[0]), pages + intervals.total(batch)
    for extent in listed[:most]:
        blocks = case.handover.preserved.blocks_at(extent.start)
        order = f" (block of order {blocks[0].order})" if blocks else ""
        message = f"{human_size(extent.size)} at {extent}{order} {words}"
        yield Observation(message, extent.start, severity=severity, cause=cause)
    if more := count - most if len(listed) > most else 0:
        size = human_size((pages << shift) - sum(extent.size for extent in listed[:most]))
        message = f"{size} in {more:,} more ranges {words}"
        paddr = listed[most].start
        yield Observation(message, paddr, severity=severity, cause=cause, count=more)


@tree_rule(
    "KHO301", FATAL, "a stray bit in the tree; or the dump lacks RAM: --map, --base", Evidence.RAM
)
def block_outside_ram(case: Case) -> Iterator[Observation]:
    """Preserved blocks lie in RAM.

    Matters: the next kernel writes to the struct page of each block. They exist for every section
    (128 MiB, with 64K pages 512 MiB) that has some RAM; without RAM the write is a page fault
    before the console is up. Within a section that has RAM nothing is lost: a warning.
    Causes: a stray bit in the tree; a dump that does not cover all RAM.
    Enforced by: no kernel checks this: ``kho_preserved_memory_reserve()`` (7.1 to 7.3.4) takes any
    address.
    """
    outside = intervals.subtract(case.map.preserved.merged, case.map.ram)
    section = _SECTION.get(case.handover.geometry.shift, 27) - case.handover.geometry.shift
    starts, ends = case.map.ram
    known = intervals.merge(starts >> section << section, -(-ends >> section) << section)
    bad = intervals.Ruler(intervals.subtract(outside, known)).within(*outside) > 0
    words = "is preserved, but lies outside the memory of the dump"
    for part, severity in ((bad, FATAL), (~bad, WARNING)):
        pages = outside[0][part], outside[1][part]
        yield from _ranges(case, [pages], words, severity, cause="outside RAM")


@tree_rule("KHO302", ERROR, "a stray bit, or two users of one page: see addr for both blocks")
def blocks_overlap(case: Case) -> Iterator[Observation]:
    """No page is preserved by two blocks of different orders.

    Matters: the second restore finds no head and fails, or frees pages of the first.
    Causes: a page preserved by itself and as part of a folio; a stray bit.
    Enforced by: no kernel checks this (7.1 to 7.3.4): of two blocks with one head, the smaller
    order is read last and is what restores. Nothing was seen in 7.3.4, of blocks without a user.
    """
    # One stray block of a high order lies over many: they are reported as one.
    reported: set[tuple[int, int]] = set()
    for extent in intervals.extents(case.map.overlaps, case.handover.geometry.shift):
        inner, *_, outer = case.map.preserved.blocks_at(extent.start)
        if (outer.paddr, outer.order) in reported:
            continue
        reported.add((outer.paddr, outer.order))
        yield Observation(
            f"{human_size(extent.size)} at {extent} is preserved by several blocks: order "
            f"{outer.order} at {outer.paddr:#x}, order {inner.order} at {inner.paddr:#x}",
            extent.start,
        )
        if len(reported) == MAX_LISTED:
            return


@tree_rule("KHO303", FATAL, _IN_SCRATCH, Need.SCRATCH, Need.SOUND_SCRATCH, Decision.ACCEPTS)
def block_in_scratch(case: Case) -> Iterator[Observation]:
    """No preserved block overlaps a scratch area.

    Matters: the next kernel allocates from scratch before it looks at the map: the data is
    overwritten.
    Causes: memory of a movable allocation preserved where it stood.
    Enforced by: no kernel checks it when it is handed over. ``kho_preserve_folio()`` and
    ``kho_preserve_pages()`` of the old kernel do: ``kho_scratch_overlap()``, -EINVAL, with
    CONFIG_KEXEC_HANDOVER_DEBUG only (7.0, 7.2 and 7.3.4).
    """
    for area in case.scratch.areas:
        shared = intervals.intersect(case.map.preserved.merged, case.map.pages([area]))
        words = f"is preserved, but lies in scratch area {area}"
        yield from _ranges(case, [shared], words, cause=area)


@CATALOGUE.rule("KHO304", FATAL, _NO_TABLE, Need.SCRATCH)
def scratch_malformed(case: Case) -> Iterator[Observation]:
    """The scratch table is a list of areas with sizes.

    Matters: until the preserved memory is known, the next kernel allocates from scratch areas
    only: without any it stops early. One area of size 0 among others is passed over: a warning.
    Causes: the table's page was recycled; a wrong address.
    Enforced by: ``kho_populate()`` (7.1 to 7.3.4): "failed to memremap scratch" for a table of size
    0 or over 256 KiB, "disabling KHO revival". ``memblock_add()`` accepts any area; a size that is
    no multiple of 16 is rounded down (seen in 7.3.4).
    """
    scratch, path = case.scratch, _source(case.scratch)
    table = scratch.table.start if scratch.table else None
    if case.scratch_trouble is not None:
        yield Observation(case.scratch_trouble, table, path)
        return
    if scratch.table and scratch.table.size % 16:
        words = f"scratch table is {scratch.table.size} bytes, should be a multiple of 16"
        yield Observation(words, table, path, WARNING)
    for number, (addr, size) in itertools.islice(enumerate(scratch.entries), MAX_LISTED):
        if not size or addr + size > 1 << 64:
            words = f"scratch area {number} is {addr:#x}+{size:#x}, should have a size and an end"
            severity = WARNING if scratch.areas and not size else None
            yield Observation(words, table, (*path, Step(StepKind.AREA, number)), severity)


@scratch_rule("KHO305", WARNING, _NO_TABLE)
def scratch_overlaps(case: Case) -> Iterator[Observation]:
    """Scratch areas do not overlap each other.

    Matters: one is counted twice, and the next kernel has less memory to boot in than it needs.
    Causes: a damaged table.
    Enforced by: no kernel checks this: ``memblock_add()`` (7.1 to 7.3.4) merges them.
    """
    for before, after in itertools.pairwise(sorted(case.scratch.areas)):
        if before.overlaps(after):
            words = f"scratch areas {before} and {after} overlap"
            yield Observation(words, after.start, _source(case.scratch))


@scratch_rule("KHO306", WARNING, _NO_TABLE)
def scratch_misaligned(case: Case) -> Iterator[Observation]:
    """Scratch areas start and end on pages.

    Matters: the old kernel allots them as whole CMA areas; anything else is damage.
    Causes: a damaged table; a wrong --scratch.
    Enforced by: no kernel checks this (7.1 to 7.3.4). A comment in 7.3.4 says what it may cost with
    CONFIG_DEFERRED_STRUCT_PAGE_INIT: a crash, as the page allocator reads struct pages that are not
    initialized.
    """
    page = case.handover.geometry.page_size
    for area in case.scratch.areas:
        if (area.start % page or area.end % page) and _in_ram(case, area):
            words = f"scratch area {area} is not aligned to pages of {human_size(page)}"
            yield Observation(words, area.start, _source(case.scratch))


@scratch_rule(
    "KHO307", ERROR, "the table is another machine's, or the dump lacks RAM", Evidence.RAM
)
def scratch_outside_ram(case: Case) -> Iterator[Observation]:
    """Scratch areas lie in RAM.

    Matters: the next kernel boots in them.
    Causes: a damaged table; a dump that does not cover all RAM.
    Enforced by: no kernel checks this: ``memblock_add()`` (7.1 to 7.3.4) makes it memory to
    allocate from. Nothing was seen in 7.3.4, which had other areas.
    """
    for area in case.scratch.areas:
        if not _in_ram(case, area):
            words = f"scratch area {area} lies outside the memory of the dump"
            yield Observation(words, area.start, _source(case.scratch))


def _in_ram(case: Case, area: Extent) -> bool:
    return any(ram.contains(area.start, area.size) for ram in case.handover.source.declared)


def _source(scratch: Scratch) -> Path:
    return (Step(StepKind.POINTER, scratch.source),)


@tree_rule("KHO308", WARNING, _ORPHAN, Need.ALL_CLAIMS)
def orphans(case: Case) -> Iterator[Observation]:
    """Every preserved page has an owner.

    Matters: no user restores or frees an orphan: a leak that grows with each handover.
    Causes: a user that failed half-way and did not unpreserve; a stray bit.
    Enforced by: no kernel checks this (7.1 to 7.3.4): the memory stays reserved (seen in 7.3.4:
    nothing else).
    """
    # A stray block in the wrong place is reported as that by its own rule.
    known = [case.claims.ownership.claimed, case.map.node_pfns, case.map.doubtful]
    if case.handover.scratch is not None and case.scratch_trouble is None:
        known.append(case.map.pages(case.scratch.areas))
    elsewhere, ram = intervals.union(known), case.map.ram
    pages = (
        intervals.subtract(intervals.intersect(batch, ram), elsewhere)
        for batch in intervals.batches(case.map.preserved.merged)
    )
    return _ranges(case, pages, "is preserved, but nothing points to it: an orphan")


@tree_rule("KHO309", ERROR, "preserve it, or drop the pointer")
def dangling(case: Case) -> Iterator[Observation]:
    """Claimed memory is preserved (whatever no more specific rule looks at).

    Matters: the next kernel allocates unpreserved pages to other users; the data is overwritten.
    Causes: a missing ``kho_preserve_*()`` call; a bit lost in the tree.
    Enforced by: ``kho_restore_page()`` (7.1 to 7.3.4): WARN_ON_ONCE and NULL, for memory that is
    restored. No kernel checks the rest.
    """
    return case.claims.unpreserved(ClaimKind.STRUCTURE)


@tree_rule("KHO310", ERROR, "one of the two pointers is wrong: see addr for both owners")
def shared(case: Case) -> Iterator[Observation]:
    """No page has two owners.

    Matters: both restore it; the second fails, or both write to it.
    Causes: a stale pointer; a page preserved for two users.
    Enforced by: no kernel checks this (7.1 to 7.3.4): ``kho_restore_page()`` clears the page's
    magic for the first that restores it; the second gets NULL.
    """
    # What reaches too far is reported by its own rule, KHO603 or KHO409.
    too_far = case.claims.unpreserved_owners(ClaimKind.REGION, ClaimKind.BLOB)
    for extent, places in itertools.islice(case.claims.shared(), MAX_LISTED):
        # KHO604, KHO111 and KHO514 report these in more detail.
        alike = {place.kind for place in places} in ({ClaimKind.REGION}, {ClaimKind.BLOB})
        if alike or all(is_sessions(place.owner) for place in places):
            continue
        if not any(place.owner in too_far for place in places):
            first, *others = places[:2]
            by: tuple[str | Place, ...] = (" and by ", *others) if others else ()
            words = f"{human_size(extent.size)} at {extent} is claimed by "
            yield Observation((words, first, *by), extent.start, first.path)


@CATALOGUE.rule("KHO311", WARNING, _GIVEN, Need.SCRATCH, About.CAPTURE)
def scratch_contradicted(case: Case) -> Iterator[Observation]:
    """The scratch areas that were given are those of the dump's own table.

    Matters: the next kernel goes by the table; what is said of scratch here goes by what was given.
    Causes: a mistyped --scratch, or one area of several; the boot DTB of another boot; a table
    that was overwritten.
    Enforced by: no kernel; it concerns the capture.
    """
    given, own = case.scratch, case.handover.scratch_found
    if own is not None and set(given.areas) != set(own.areas):
        words = f"{given.source} names {_listed(given)}; {own.source} names {_listed(own)}"
        yield Observation(words, own.table and own.table.start, _source(own))


def _listed(scratch: Scratch) -> str:
    named = ", ".join(map(str, scratch.areas[:MAX_LISTED])) or "no area"
    more = len(scratch.areas) - MAX_LISTED
    return f"{named} and {more:,} more" if more > 0 else named
