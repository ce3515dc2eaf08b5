"""KHO52x to KHO53x: preserved memfds."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kho_inspect import intervals
from kho_inspect.decoders.memfd import Memfd
from kho_inspect.layouts.memfd import FOLIO_DIRTY, FOLIO_UPTODATE, MEMFD_SEALS
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.identity import ClaimKind, Step, StepKind, above
from kho_inspect.rules.base import (
    ERROR,
    FATAL,
    WARNING,
    Evidence,
    Need,
    Observation,
    Severity,
    Subject,
)
from kho_inspect.rules.case import Case
from kho_inspect.rules.catalogue import Catalogue
from kho_inspect.rules.memfds_view import MAX_PAGES
from kho_inspect.units import human_size

CATALOGUE = Catalogue(
    (Need.FDT, Need.ABI, Need.TRUSTED, Need.SESSIONS), hides_owners=True, subject=Subject.MEMFD
)
rule = CATALOGUE.rule

_LOST = "the file cannot be retrieved whole: extract what is left of it"
_TABLE = "the folio table was overwritten: look up its pages with addr"
_FROZEN = "was the file being written when it was frozen?"


def _folios(
    case: Case, words: str, bad: Callable[[Memfd], intervals.I64], of_v1: Severity | None = None
) -> Iterator[Observation]:
    """One finding for all folios of a file with the same trouble, by their numbers."""
    for file, memfd in case.memfds.odd():
        numbers = bad(memfd)
        if len(numbers):
            first, count = int(numbers[0]), len(memfd.table)
            more = f"; so do {len(numbers) - 1:,} more of {count:,}" if len(numbers) > 1 else ""
            yield Observation(
                f"folio {first} of file {file.token:#x} (pfn {int(memfd.table.pfn[first]):#x}) "
                f"{words.format(size=human_size(memfd.size))}{more}",
                None,
                (*memfd.path, Step(StepKind.FOLIO, first)),
                of_v1 if memfd.compatible == "memfd-v1" else None,
            )


@CATALOGUE.fault_rule(
    "KHO518", FATAL, _LOST, FaultKind.MEMFD_MISSING, FaultKind.MEMFD_MISALIGNED, Evidence.RAM
)
def descriptor_unreadable() -> None:
    """A file's data points to its descriptor: a page in RAM.

    Matters: the next kernel reads through the pointer without a check: a page fault outside RAM;
    off a page, other fields are taken for pointers.
    Causes: an entry overwritten.
    Enforced by: no kernel checks this: ``memfd_luo_retrieve()`` (7.1 to 7.3.4) reads through it:
    "unable to handle page fault" and panic, outside RAM and off a page (both seen in 7.3.4).
    """


@rule("KHO519", ERROR, _LOST)
def seals_unknown(case: Case) -> Iterator[Observation]:
    """Seals are F_SEAL_* bits.

    Matters: the next kernel refuses a file with seals it does not know.
    Causes: a newer writer; a damaged descriptor.
    Enforced by: ``memfd_luo_retrieve()`` (7.1 to 7.3.4): -EOPNOTSUPP, and no message. memfd-v1 (up
    to 7.0) has no seals.
    """
    for file, memfd in case.memfds.with_bits("seals", ~sum(MEMFD_SEALS)):
        unknown = (memfd.seals or 0) & ~sum(MEMFD_SEALS)
        if unknown:
            words = f"are {memfd.seals:#x}, of which {unknown:#x} is unknown"
            yield Observation(f"seals of file {file.token:#x} {words}", memfd.paddr, memfd.path)


@rule("KHO520", WARNING, _LOST)
def flags_unknown(case: Case) -> Iterator[Observation]:
    """No memfd flags are set: none are defined yet.

    Matters: no kernel up to 7.3 reads the field.
    Causes: a newer writer; a damaged descriptor.
    Enforced by: no kernel checks this: ``memfd_luo_retrieve()`` (7.1 to 7.3.4) checks the seals
    only (seen in 7.3.4 and 7.1.13: nothing lost).
    """
    for file, memfd in case.memfds.with_bits("flags", -1):
        if memfd.flags:
            words = f"flags of file {file.token:#x} are {memfd.flags:#x}, should be 0"
            yield Observation(words, memfd.paddr, memfd.path)


@rule("KHO521", FATAL, _TABLE, FaultKind.MEMFD_FOLIOS)
def folios_beyond_table(case: Case) -> Iterator[Observation]:
    """nr_folios is no more than the folio table holds.

    Matters: the next kernel reads on into the guard page behind the table: a page fault.
    Causes: a damaged descriptor; a vmalloc area that lost pages.
    Enforced by: no kernel checks this: ``memfd_luo_retrieve_folios()`` (7.1 to 7.3.4) goes by
    nr_folios alone.
    """
    short = list(case.observed(*folios_beyond_table.faults))
    if not short:
        return
    # An area with a fault of its own has lost pages; the count of one overwritten means nothing.
    other = set(FaultKind) - {FaultKind.MEMFD_FOLIOS, FaultKind.VMALLOC_FLAGS}
    broken = above([fault.path for fault in case.faults(*other)])
    unpreserved = case.claims.unpreserved_owners(ClaimKind.FOLIO_TABLE)
    memfds = {memfd.path: memfd for _, memfd in case.memfds}
    for found in short:
        memfd = memfds.get(found.path)
        if memfd and memfd.owner not in unpreserved and memfd.folios.path not in broken:
            yield found


@rule("KHO522", ERROR, _LOST, Need.TREE)
def folio_unpreserved(case: Case) -> Iterator[Observation]:
    """Every folio of a memfd is preserved.

    Matters: its page is allocated to another user: the file's content is overwritten.
    Causes: a bit lost in the tree; a folio table entry overwritten.
    Enforced by: ``memfd_luo_retrieve_folios()`` (7.1 to 7.3.4): "Unable to restore folio at
    physical address: …", -EIO (seen in 7.3.4 and 7.1.13).
    """
    return case.claims.unpreserved(ClaimKind.FOLIO, but=case.memfds.distrusted)


@rule("KHO523", ERROR, _LOST, Need.TREE)
def folio_not_head(case: Case) -> Iterator[Observation]:
    """Every folio of a memfd heads a preserved block.

    Matters: only the head of a block can be restored.
    Causes: a folio table entry off by some pages; a stray key of a higher order.
    Enforced by: ``memfd_luo_retrieve_folios()`` (7.1 to 7.3.4): "Unable to restore folio at
    physical address: …", -EIO.
    """
    return case.claims.inside_blocks(ClaimKind.FOLIO, but=case.memfds.distrusted)


@rule("KHO524", ERROR, _TABLE)
def folio_pfn_zero(case: Case) -> Iterator[Observation]:
    """No folio has pfn 0.

    Matters: the next kernel passes such an entry over: the file has a hole there.
    Causes: an entry overwritten with zeros; nr_folios too high.
    Enforced by: no kernel checks this: ``memfd_luo_retrieve_folios()`` (7.1 to 7.3.4) passes it
    over, and the hole reads as zeros (seen in 7.3.4 and 7.1.13).
    """
    words = "has pfn 0, should be a page frame"
    return _folios(case, words, lambda memfd: np.flatnonzero(memfd.table.pfn == 0))


def _extents(memfd: Memfd) -> tuple[intervals.I64, intervals.I64, intervals.I64]:
    """Folio numbers, their first page in the file and the one after their last."""
    table = memfd.table
    # Beyond that, an index is out of any file's reach and would overflow.
    held = np.flatnonzero((table.pfn > 0) & (table.index < MAX_PAGES))
    starts = table.index[held].astype(np.int64)
    return held, starts, starts + (np.int64(1) << np.maximum(table.order[held], 0))


def _overlapping(memfd: Memfd) -> intervals.I64:
    """The folios that stand where another does in the file."""
    held, starts, ends = _extents(memfd)
    order = np.argsort(starts, kind="stable")
    reach = np.maximum.accumulate(ends[order])
    return held[order][1:][starts[order][1:] < reach[:-1]]


@rule("KHO525", ERROR, _TABLE)
def folios_overlap(case: Case) -> Iterator[Observation]:
    """Folios of a file do not overlap in it.

    Matters: only one of the two can stand in the page cache: retrieving the file fails.
    Causes: an index overwritten.
    Enforced by: ``shmem_add_to_page_cache()`` (7.1 to 7.3.4): "failed to add to page cache folio
    index 1: -17", -EEXIST (seen in 7.3.4).
    """
    return _folios(case, "overlaps another in the file", _overlapping)


@rule("KHO526", ERROR, _TABLE)
def folio_beyond_size(case: Case) -> Iterator[Observation]:
    """Folios of a file start within its size.

    Matters: what lies beyond the end is never seen: the file lacks it at its own place, or its
    size is too small and the tail is cut off.
    Causes: an index or the size overwritten.
    Enforced by: no kernel checks this: ``memfd_luo_retrieve_folios()`` (7.1 to 7.3.4) inserts the
    folio at any index (seen in 7.3.4: its own place reads as zeros).
    """

    def beyond(memfd: Memfd) -> intervals.I64:
        pages = case.memfds.pages(memfd)
        return np.flatnonzero((memfd.table.pfn > 0) & (memfd.table.index >= pages))

    return _folios(case, "starts beyond the file's size of {size}", beyond)


@rule("KHO527", ERROR, _LOST)
def file_gaps(case: Case) -> Iterator[Observation]:
    """Folios cover the whole of a file.

    Matters: preserving a memfd fills its holes, so a gap is lost data that reads as zeros.
    Causes: an entry or the size overwritten; nr_folios too low.
    Enforced by: no kernel checks this (7.1 to 7.3.4): zeros were read for nr_folios 0 in 7.3.4 and
    7.1.13. A size beyond the folios was accepted by both, one of 2^63 and more lost the content in
    7.3.4.
    """
    page = case.handover.geometry.page_size
    for file, memfd in case.memfds.odd():
        table, pages = memfd.table, case.memfds.pages(memfd)
        unclear = (table.pfn == 0) | (table.order < 0) | (table.index >= pages) | _off(memfd)
        if unclear.any():
            continue  # how much of the file the folios cover is not known: another rule's finding
        _, starts, ends = _extents(memfd)
        gaps = intervals.subtract(intervals.from_pairs([(0, pages)]), intervals.merge(starts, ends))
        missing = intervals.total(gaps)
        if missing and not len(_overlapping(memfd)):
            yield Observation(
                f"file {file.token:#x} of {human_size(memfd.size)} has no folio for "
                f"{human_size(missing * page)} from offset {int(gaps[0][0]) * page:#x}",
                memfd.paddr,
                memfd.path,
            )


def _without(flag: int) -> Callable[[Memfd], intervals.I64]:
    """Finds the folios without a flag."""
    return lambda memfd: np.flatnonzero((memfd.table.flags & flag == 0) & (memfd.table.pfn > 0))


@rule("KHO528", ERROR, _FROZEN)
def folio_not_uptodate(case: Case) -> Iterator[Observation]:
    """Folios are UPTODATE.

    Matters: the next kernel zeroes a folio that is not: its content is lost. Kernels from 7.0 on
    write all folios UPTODATE; 6.19 (memfd-v1) copies the folio's own flag, and one that is not
    has no content: a warning.
    Causes: an entry overwritten; a folio allocated but never filled.
    Enforced by: ``shmem_get_folio_gfp()`` (7.2 and 7.3.4): ``clear_highpage()``, when the file is
    read; no message (zeros seen in 7.1.13).
    """
    return _folios(case, "is not UPTODATE", _without(FOLIO_UPTODATE), WARNING)


@rule("KHO529", ERROR, _FROZEN)
def folio_not_dirty(case: Case) -> Iterator[Observation]:
    """Folios are DIRTY.

    Matters: a clean page of a memfd may be dropped under memory pressure, and there is no disk
    to read it from again. Preserving marks all folios dirty.
    Causes: an entry overwritten; an old writer.
    Enforced by: no kernel checks this: ``memfd_luo_retrieve_folios()`` (7.1 to 7.3.4) takes the
    flag as it is.
    """
    return _folios(case, "is not DIRTY", _without(FOLIO_DIRTY))


@rule("KHO530", WARNING, "written by a newer kernel, or the table was overwritten")
def folio_flags_unknown(case: Case) -> Iterator[Observation]:
    """Folio flags are DIRTY and UPTODATE only.

    Matters: the next kernel ignores what it does not know.
    Causes: a newer writer; an entry overwritten.
    Enforced by: no kernel checks this (7.1 to 7.3.4): seen in 7.3.4 to cost nothing.
    """
    known = FOLIO_DIRTY | FOLIO_UPTODATE
    return _folios(
        case, "has unknown flags", lambda memfd: np.flatnonzero(memfd.table.flags & ~known)
    )


@rule("KHO531", ERROR, _TABLE)
def folio_table_junk(case: Case) -> Iterator[Observation]:
    """The folio table holds folios.

    Matters: the file cannot be retrieved; the kernel would restore pages that are not its own.
    Causes: the table's page was recycled or overwritten.
    Enforced by: ``memfd_luo_retrieve_folios()`` (7.1 to 7.3.4): "Unable to restore folio at
    physical address: …", -EIO, at the first entry that names no preserved folio.
    """
    for file, memfd in case.memfds.junk():
        yield Observation(
            f"folio table of file {file.token:#x} holds something else: most of its "
            f"{len(memfd.table):,} entries are no folios",
            memfd.folios.first or None,
            memfd.path,
        )


def _repeated(memfd: Memfd) -> intervals.I64:
    """The folios that stand in the table before."""
    held = np.flatnonzero(memfd.table.pfn)
    by_pfn = held[np.argsort(memfd.table.pfn[held], kind="stable")]
    pfn = memfd.table.pfn[by_pfn]
    return np.sort(by_pfn[1:][pfn[1:] == pfn[:-1]])


@rule("KHO533", ERROR, _TABLE)
def folio_repeated(case: Case) -> Iterator[Observation]:
    """A folio table names each folio once.

    Matters: the second time the folio cannot be restored, and the whole file fails.
    Causes: an entry overwritten with a copy of another.
    Enforced by: ``memfd_luo_retrieve_folios()`` (7.1 to 7.3.4): "Unable to restore folio at
    physical address: …", -EIO, as ``kho_restore_page()`` took the magic away.
    """
    return _folios(case, "stands in the table before", _repeated)


@rule("KHO534", ERROR, _TABLE)
def folio_index_misaligned(case: Case) -> Iterator[Observation]:
    """The index of a folio is a multiple of its pages.

    Matters: the page cache holds a folio at such an index only: it is stored at another than its
    own. With CONFIG_DEBUG_VM the next kernel stops at a VM_BUG_ON_FOLIO.
    Causes: an index overwritten; a stray key of a higher order over the folio.
    Enforced by: ``shmem_add_to_page_cache()`` (7.2 and 7.3.4): VM_BUG_ON_FOLIO, with
    CONFIG_DEBUG_VM only.
    """
    words = "has an index that is no multiple of its pages"
    return _folios(case, words, lambda memfd: np.flatnonzero(_off(memfd)))


def _off(memfd: Memfd) -> NDArray[np.bool_]:
    """Which folios have an index at which the page cache holds none of their order."""
    pages = np.uint64(1) << np.maximum(memfd.table.order, 0).astype(np.uint64)
    off: NDArray[np.bool_] = (memfd.table.pfn > 0) & (memfd.table.index % pages != 0)
    return off
