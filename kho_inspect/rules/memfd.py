"""KHO52x to KHO53x: preserved memfds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kho_inspect import intervals
from kho_inspect.layouts.memfd import FOLIO_DIRTY, FOLIO_UPTODATE, MEMFD_SEALS
from kho_inspect.model.contents import Memfd
from kho_inspect.model.faults import FaultKind
from kho_inspect.rules.base import Catalogue, Found, Need, Severity
from kho_inspect.rules.case import Case, file_owner, paths_above
from kho_inspect.units import human_size

if TYPE_CHECKING:
    from kho_inspect.intervals import I64, Intervals

CATALOGUE = Catalogue(Need.FDT, Need.ABI, Need.TRUSTED)
rule = CATALOGUE.rule

_LOST = "the file cannot be retrieved whole: extract what is left of it"
_TABLE = "the folio table was overwritten: look up its pages with addr"
MAX_PAGES = 1 << 52


def _bad_folio(
    memfd: Memfd, token: int, bad: I64, words: str, severity: Severity | None = None
) -> Iterator[Found]:
    """One finding for all folios of a file with the same trouble."""
    if len(bad):
        first = int(bad[0])
        pfn, more = int(memfd.table.pfn[first]), len(bad) - 1
        yield Found(
            f"folio {first} of file {token:#x} (pfn {pfn:#x}) {words}"
            + (f"; so do {more:,} more of {len(memfd.table):,}" if more else ""),
            None,
            f"{memfd.path} → folio {first}",
            severity,
        )


@rule("KHO518", Severity.ERROR, _LOST)
def descriptor_unreadable(case: Case) -> Iterator[Found]:
    """A file's data points to its descriptor in RAM.

    Matters: the next kernel dereferences it without a check.
    Causes: an entry overwritten.
    Enforced by: ``kho_restore_free()`` after use; nobody before.
    """
    return case.found(FaultKind.MEMFD_MISSING)


@rule("KHO519", Severity.ERROR, _LOST)
def seals_unknown(case: Case) -> Iterator[Found]:
    """Seals are F_SEAL_* bits.

    Matters: the next kernel refuses a file with seals it does not know.
    Causes: a newer writer; a damaged descriptor.
    Enforced by: ``memfd_luo_retrieve()``: -EOPNOTSUPP.
    """
    known = sum(MEMFD_SEALS)
    for _, file, memfd in case.memfds():
        unknown = (memfd.seals or 0) & ~known
        if unknown:
            yield Found(
                f"seals of file {file.token:#x} are {memfd.seals:#x}, of which {unknown:#x} is "
                "unknown",
                memfd.paddr,
                memfd.path,
            )


@rule("KHO520", Severity.ERROR, _LOST)
def flags_unknown(case: Case) -> Iterator[Found]:
    """No memfd flags are set: none are defined yet.

    Matters: the next kernel refuses a file with flags it does not know.
    Causes: a newer writer; a damaged descriptor.
    Enforced by: ``memfd_luo_retrieve()``: -EOPNOTSUPP.
    """
    for _, file, memfd in case.memfds():
        if memfd.flags:
            yield Found(
                f"flags of file {file.token:#x} are {memfd.flags:#x}, should be 0",
                memfd.paddr,
                memfd.path,
            )


@rule("KHO521", Severity.ERROR, _TABLE)
def folios_beyond_table(case: Case) -> Iterator[Found]:
    """nr_folios is no more than the folio table holds.

    Matters: the next kernel reads entries out of the memory behind the table.
    Causes: a damaged descriptor; a vmalloc area that lost pages.
    Enforced by: nobody.
    """
    short = list(case.found(FaultKind.MEMFD_FOLIOS))
    if not short:
        return
    # An area with a fault of its own has lost pages; one that is overwritten says anything.
    broken = paths_above(
        fault.path
        for fault in case.there.faults
        if fault.kind not in (FaultKind.MEMFD_FOLIOS, FaultKind.VMALLOC_FLAGS)
    )
    lost = {found.path.rpartition(" / ")[0] for found in case.unpreserved("folio table")}
    owners = {memfd.path: file_owner(session, file) for session, file, memfd in case.memfds()}
    for found in short:
        owner = owners.get(found.path)
        if owner and owner not in lost and f"{found.path} → folios" not in broken:
            yield found


@rule("KHO522", Severity.ERROR, _LOST, Need.TREE)
def folio_unpreserved(case: Case) -> Iterator[Found]:
    """Every folio of a memfd is preserved.

    Matters: its page is handed to anybody: the file's content is overwritten.
    Causes: a bit lost in the tree; a folio table entry overwritten.
    Enforced by: ``kho_restore_folio()``: the whole file fails.
    """
    return case.unpreserved("folio")


@rule("KHO523", Severity.ERROR, _LOST, Need.TREE)
def folio_not_head(case: Case) -> Iterator[Found]:
    """Every folio of a memfd heads a preserved block.

    Matters: only the head of a block can be restored.
    Causes: a folio table entry off by some pages; a stray key of a higher order.
    Enforced by: ``kho_restore_folio()``: the whole file fails.
    """
    return case.inside_blocks("folio")


@rule("KHO524", Severity.WARNING, _TABLE)
def folio_pfn_zero(case: Case) -> Iterator[Found]:
    """No folio has pfn 0.

    Matters: the next kernel passes such an entry over: the file has a hole there.
    Causes: an entry overwritten with zeros; nr_folios too high.
    Enforced by: ``memfd_luo_retrieve_folios()`` passes it over.
    """
    for _, file, memfd in case.odd_memfds():
        bad = np.flatnonzero(memfd.table.pfn == 0)
        yield from _bad_folio(memfd, file.token, bad, "has pfn 0, should be a page frame")


def _extents(memfd: Memfd, page: int) -> tuple[I64, I64, I64, int]:
    """Folio numbers, their first and last page in the file, and the file's pages."""
    table = memfd.table
    # Beyond that, an index is out of any file's reach and would overflow.
    held = np.flatnonzero((table.pfn > 0) & (table.index < MAX_PAGES))
    starts = table.index[held].astype(np.int64)
    ends = starts + (np.int64(1) << np.maximum(table.order[held], 0))
    return held, starts, ends, -(-memfd.size // page)


@rule("KHO525", Severity.ERROR, _TABLE)
def folios_overlap(case: Case) -> Iterator[Found]:
    """Folios of a file do not overlap in it.

    Matters: only one of the two can stand in the page cache: retrieving the file fails.
    Causes: an index overwritten.
    Enforced by: ``shmem_add_to_page_cache()``: -EEXIST.
    """
    page = case.there.geometry.page_size
    for _, file, memfd in case.odd_memfds():
        bad = _overlapping(memfd, page)
        yield from _bad_folio(memfd, file.token, bad, "overlaps another in the file")


def _overlapping(memfd: Memfd, page: int) -> I64:
    """The folios that stand where another does in the file."""
    held, starts, ends, _ = _extents(memfd, page)
    order = np.argsort(starts, kind="stable")
    reach = np.maximum.accumulate(ends[order]) if len(order) else ends
    return held[order][1:][starts[order][1:] < reach[:-1]]


def last_page(memfd: Memfd, page: int) -> np.uint64:
    """Pages of the file."""
    return np.uint64(min(-(-memfd.size // page), (1 << 64) - 1))


@rule("KHO526", Severity.WARNING, _TABLE)
def folio_beyond_size(case: Case) -> Iterator[Found]:
    """Folios of a file start within its size.

    Matters: what lies beyond the end is never seen, and the size may be the wrong one.
    Causes: an index or the size overwritten.
    Enforced by: nobody.
    """
    page = case.there.geometry.page_size
    for _, file, memfd in case.odd_memfds():
        beyond = (memfd.table.pfn > 0) & (memfd.table.index >= last_page(memfd, page))
        words = f"starts beyond the file's size of {human_size(memfd.size)}"
        yield from _bad_folio(memfd, file.token, np.flatnonzero(beyond), words)


@rule("KHO527", Severity.WARNING, _LOST)
def file_gaps(case: Case) -> Iterator[Found]:
    """Folios cover the whole of a file.

    Matters: preserving a memfd fills its holes, so a gap is lost data that reads as zeros.
    Causes: an entry or the size overwritten; nr_folios too low.
    Enforced by: nobody.
    """
    page = case.there.geometry.page_size
    for _, file, memfd in case.odd_memfds():
        table = memfd.table
        if ((table.pfn == 0) | (table.order < 0)).any() or (
            table.index >= last_page(memfd, page)
        ).any():
            continue  # how much of the file the folios cover is not known: another rule's finding
        _, starts, ends, pages = _extents(memfd, page)
        whole: Intervals = intervals.from_pairs([(0, min(pages, MAX_PAGES))])
        gaps = intervals.subtract(whole, intervals.merge(starts, ends))
        missing = intervals.total(gaps)
        if missing and not len(_overlapping(memfd, page)):
            yield Found(
                f"file {file.token:#x} of {human_size(memfd.size)} has no folio for "
                f"{human_size(missing * page)} from offset {int(gaps[0][0]) * page:#x}",
                memfd.paddr,
                memfd.path,
            )


@rule("KHO528", Severity.WARNING, "was the file being written when it was frozen?")
def folio_not_uptodate(case: Case) -> Iterator[Found]:
    """Folios are UPTODATE.

    Matters: the next kernel zeroes a folio that is not: its content is lost.
    Causes: an entry overwritten; a folio allocated but never filled.
    Enforced by: ``memfd_luo_retrieve_folios()`` trusts the flag.
    """
    for _, file, memfd in case.odd_memfds():
        bad = np.flatnonzero((memfd.table.flags & FOLIO_UPTODATE == 0) & (memfd.table.pfn > 0))
        yield from _bad_folio(memfd, file.token, bad, "is not UPTODATE")


@rule("KHO529", Severity.WARNING, "was the file being written when it was frozen?")
def folio_not_dirty(case: Case) -> Iterator[Found]:
    """Folios are DIRTY.

    Matters: a clean page of a memfd may be dropped under memory pressure, and there is no disk
    to read it from again. Preserving marks all folios dirty.
    Causes: an entry overwritten; an old writer.
    Enforced by: ``memfd_luo_retrieve_folios()`` trusts the flag.
    """
    for _, file, memfd in case.odd_memfds():
        bad = np.flatnonzero((memfd.table.flags & FOLIO_DIRTY == 0) & (memfd.table.pfn > 0))
        yield from _bad_folio(memfd, file.token, bad, "is not DIRTY")


@rule("KHO530", Severity.WARNING, "written by a newer kernel, or the table was overwritten")
def folio_flags_unknown(case: Case) -> Iterator[Found]:
    """Folio flags are DIRTY and UPTODATE only.

    Matters: the next kernel ignores what it does not know.
    Causes: a newer writer; an entry overwritten.
    Enforced by: nobody.
    """
    known = FOLIO_DIRTY | FOLIO_UPTODATE
    for _, file, memfd in case.odd_memfds():
        bad = np.flatnonzero(memfd.table.flags & ~known)
        yield from _bad_folio(memfd, file.token, bad, "has unknown flags")


@rule("KHO531", Severity.ERROR, _TABLE)
def folio_table_junk(case: Case) -> Iterator[Found]:
    """The folio table holds folios.

    Matters: the file cannot be retrieved; the kernel would restore pages that are not its own.
    Causes: the table's page was recycled or overwritten.
    Enforced by: ``kho_restore_folio()``, at the first entry that names no preserved folio.
    """
    for _, file, memfd in case.junk_memfds():
        yield Found(
            f"folio table of file {file.token:#x} holds something else: most of its "
            f"{len(memfd.table):,} entries are no folios",
            memfd.folios.first or None,
            memfd.path,
        )
