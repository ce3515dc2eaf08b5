"""KHO4xx: sub-nodes of the root FDT, and vmalloc areas wherever they occur."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from kho_inspect import fdt, intervals
from kho_inspect.abi import ABIS
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import Blob
from kho_inspect.model.identity import ClaimKind, above
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
from kho_inspect.rules.case import Case, fdt_property, in_blob, subnode
from kho_inspect.rules.catalogue import Catalogue
from kho_inspect.units import Extent, human_size

CATALOGUE = Catalogue((Need.FDT, Need.ABI, Need.TRUSTED), hides_owners=True)
rule, fault_rule = CATALOGUE.rule, CATALOGUE.fault_rule

_WRITER = "the subsystem that wrote the sub-node, or damage to the FDT page"
_STALE = "a stale or damaged pointer in the FDT; or the dump lacks RAM"
_UNPRESERVED = "the writer must preserve the blob: kho_preserve_folio()"
_OVERWRITTEN = "the blob was overwritten, or the pointer is stale"
_LOST = "restore fails with this data: look up who owns the page with addr"
_REFUSED: dict[str, Severity] = {"LUO": FATAL, "kexec-metadata": WARNING}
"""How grave a blob is that cannot be had, where that is not lost data."""
_PAGES = (ClaimKind.FOLIO_TABLE, ClaimKind.FOLIOS_INFO)


def _missing(case: Case, name: str | None) -> Iterator[Observation]:
    """Sub-nodes without a property that their ABI has."""
    for node in case.handover.fdt.root.children:
        if name is not None and node.prop(name) is None:
            words = f"sub-node {node.name!r} has no property {name!r}, should have 8 bytes of it"
            found = case.in_fdt(words, subnode(node.name))
            yield replace(found, severity=_REFUSED.get(node.name))


def _missized(case: Case, name: str | None) -> Iterator[Observation]:
    """Properties of another size than their ABI has."""
    for node in case.handover.fdt.root.children:
        data = None if name is None else node.prop(name)
        if name is not None and data is not None and len(data) != 8:
            size = f"{len(data)} bytes, should be 8"
            words = f"property {name!r} of sub-node {node.name!r} is {size}"
            found = case.in_fdt(words, fdt_property(name, node.name))
            yield replace(found, severity=_REFUSED.get(node.name))


@rule("KHO401", ERROR, _WRITER, FaultKind.FDT_BLOB_PROPERTY)
def address_missing(case: Case) -> Iterator[Observation]:
    """Every sub-node has the property that points to its blob.

    Matters: without LUO's the next kernel panics; kexec-metadata is passed over; any other
    subsystem starts afresh, and its data is lost.
    Causes: damage; the property of another ABI version (then KHO405 names it).
    Enforced by: ``kho_retrieve_subtree()`` (7.1 to 7.3.4): -EINVAL. Of LUO then "failed to retrieve
    LUO state 'LUO' from KHO: -22" (7.1: "FDT 'LUO'") and "The incoming tree failed to initialize
    properly [-22]": panic (as for KHO403).
    """
    return _missing(case, case.handover.fdt.abi.blob_property)


@rule("KHO402", ERROR, _WRITER, FaultKind.FDT_BLOB_PROPERTY)
def address_missized(case: Case) -> Iterator[Observation]:
    """A sub-node's address property is 8 bytes.

    Matters: without LUO's the next kernel panics; kexec-metadata is passed over; any other
    subsystem starts afresh, and its data is lost.
    Causes: damage.
    Enforced by: ``kho_retrieve_subtree()`` (7.1 to 7.3.4): -EINVAL. Of LUO then "failed to retrieve
    LUO state 'LUO' from KHO: -22" (7.1: "FDT 'LUO'") and "The incoming tree failed to initialize
    properly [-22]": panic (as for KHO403).
    """
    return _missized(case, case.handover.fdt.abi.blob_property)


@rule("KHO403", ERROR, _WRITER, FaultKind.FDT_BLOB_PROPERTY)
def size_missing(case: Case) -> Iterator[Observation]:
    """From kho-v3 on, every sub-node has the size of its blob.

    Matters: without LUO's the next kernel panics; kexec-metadata is passed over; any other
    subsystem starts afresh, and its data is lost.
    Causes: damage; a sub-node written by the rules of kho-v2.
    Enforced by: ``kho_retrieve_subtree()`` (7.1 to 7.3.4): -EINVAL, "broken KHO subnode '…':
    missing or invalid blob-size property"; of LUO then as for KHO401 (seen in 7.3.4).
    """
    return _missing(case, case.handover.fdt.abi.blob_size_property)


@rule("KHO404", ERROR, _WRITER, FaultKind.FDT_BLOB_PROPERTY)
def size_missized(case: Case) -> Iterator[Observation]:
    """From kho-v3 on, the size property is 8 bytes.

    Matters: without LUO's the next kernel panics; kexec-metadata is passed over; any other
    subsystem starts afresh, and its data is lost.
    Causes: damage.
    Enforced by: ``kho_retrieve_subtree()`` (7.1 to 7.3.4): -EINVAL, "broken KHO subnode '…':
    missing or invalid blob-size property"; of LUO then as for KHO401.
    """
    return _missized(case, case.handover.fdt.abi.blob_size_property)


@rule("KHO405", WARNING, "is the compatible string the one of the kernel that wrote this?")
def property_of_other_abi(case: Case) -> Iterator[Observation]:
    """Sub-nodes have the properties of their ABI and of no other.

    Matters: ``fdt`` is kho-v1's, ``preserved-data`` kho-v2's and later, ``blob-size`` kho-v3's and
    later. A kernel looks for its own only.
    Causes: a compatible string that was not bumped with the ABI, or damage to it.
    Enforced by: no kernel checks this (7.1 to 7.3.4): a property of another name is passed over.
    """
    abi = case.handover.fdt.abi
    own = {abi.blob_property, abi.blob_size_property}
    others = {name for row in ABIS for name in (row.blob_property, row.blob_size_property)} - own
    for node in case.handover.fdt.root.children:
        for prop in node.props:
            if prop.name in others:
                held = f"sub-node {node.name!r} has property {prop.name!r}"
                words = f"which {abi.compatible} does not know, should have {abi.blob_property!r}"
                yield case.in_fdt(f"{held}, {words}", fdt_property(prop.name, node.name))


@rule("KHO406", FATAL, _STALE, FaultKind.BLOB_OUTSIDE, Evidence.RAM)
def blob_outside(case: Case) -> Iterator[Observation]:
    """Blobs lie in RAM.

    Matters: the subsystem reads through the pointer without a check: a page fault during boot, of
    memblock even before the console is up. A blob that only ends outside RAM has a wrong size,
    which costs no more than its tail.
    Causes: damage to the FDT page; a blob-size that was overwritten.
    Enforced by: no kernel checks this: ``kho_retrieve_subtree()`` (7.1 to 7.3.4) returns the
    address as it is. Seen in 7.3.4: of LUO "unable to handle page fault" and panic, of memblock a
    hang.
    """
    for found in case.observed(*blob_outside.faults):
        yield replace(found, severity=ERROR if case.in_ram(found.paddr) else None)


@CATALOGUE.not_stored("KHO407", "blob", FaultKind.BLOB_NOT_STORED)
def blob_not_stored() -> None:
    """Blobs are stored in the dump.

    Matters: the handover may be sound, but the blob cannot be judged.
    Causes: a filtered or cut dump.
    Enforced by: no kernel; it concerns the capture.
    """


def _unpreserved(case: Case, *, from_start: bool) -> Iterator[tuple[Blob, int]]:
    """Blobs that are surely not preserved, from the start or from some page on: how many bytes."""
    geometry, preserved = case.handover.geometry, case.handover.preserved
    for blob in case.handover.blobs:
        if blob.paddr is not None and blob.size is not None and blob.stored:
            pages = case.map.pages([Extent(blob.paddr, blob.paddr + blob.size)])
            pages = intervals.intersect(pages, case.claims.dangling)
            missing = intervals.total(pages) << geometry.shift
            if missing and preserved.covers(blob.paddr, 1) != from_start:
                yield blob, missing


@rule("KHO408", ERROR, _UNPRESERVED, Need.TREE)
def blob_unpreserved(case: Case) -> Iterator[Observation]:
    """The memory of every blob is preserved.

    Matters: the next kernel allocates the pages to other users before the subsystem reads them.
    What it then reads as LUO's is incompatible: panic.
    Causes: a missing preserve call in the writer; a bit lost in the tree.
    Enforced by: no kernel checks this (7.1 to 7.3.4); ``kho_add_subtree()`` relies on its caller.
    LUO's was seen once in 7.3.4 to be read before others used its page.
    """
    for blob, _ in _unpreserved(case, from_start=True):
        words = f"blob of sub-node {blob.name!r} at {blob.paddr:#x} is not preserved"
        yield replace(in_blob(blob, words), severity=FATAL if blob.name == "LUO" else None)


@rule("KHO409", ERROR, "blob-size is wrong, or the end was not preserved", Need.TREE)
def blob_too_long(case: Case) -> Iterator[Observation]:
    """Blobs end within their preserved extent.

    Matters: the tail is overwritten, or the size is wrong and the reader runs into other memory.
    Causes: a wrong blob-size; only the first page preserved.
    Enforced by: no kernel checks this (7.1 to 7.3.4): a blob that is an FDT is read by its own
    size; LUO (7.2, 7.3) and kexec-metadata check the least size only.
    """
    for blob, missing in _unpreserved(case, from_start=False):
        extent = f"{human_size(blob.size or 0)} at {blob.paddr:#x}"
        lost = f"{human_size(missing)} in pages that are not preserved"
        yield in_blob(blob, f"blob of sub-node {blob.name!r} is {extent}, of which {lost}")


@fault_rule("KHO410", ERROR, _OVERWRITTEN, FaultKind.BLOB_NOT_FDT)
def blob_not_fdt() -> None:
    """Up to kho-v2 every blob is a device tree.

    Matters: the subsystem checks for one and refuses.
    Causes: the blob was overwritten, or the pointer is stale.
    Enforced by: ``fdt_node_check_compatible()`` of the subsystem (7.0): -9. Of LUO 7.0 panics
    (KHO502).
    """


@fault_rule("KHO411", WARNING, "blob-size is likely damaged", FaultKind.BLOB_TOO_LARGE)
def blob_too_large() -> None:
    """Blobs have a size that a writer would use.

    Matters: blobs of today are a page or a few; this one is not read at all.
    Causes: a damaged blob-size.
    Enforced by: no kernel checks this (7.1 to 7.3.4): no reader of today has an upper bound.
    """


@rule("KHO412", ERROR, "blob-size or the blob's own header is wrong")
def blob_fdt_size(case: Case) -> Iterator[Observation]:
    """A blob that starts as a device tree is a whole one.

    Matters: the reader takes the FDT's totalsize unchecked and runs past the blob, or refuses it.
    Causes: a wrong blob-size; an FDT that was overwritten.
    Enforced by: ``fdt_node_check_compatible()`` of the subsystem (7.1 to 7.3.4) checks magic,
    version and that totalsize is a number; not blob-size (seen in 7.1.13: too short a one costs
    nothing). "FDT 'memblock' is incompatible with 'memblock-v1': -1" was seen in 7.3.4.
    """
    addresses = Counter(blob.paddr for blob in case.handover.blobs)
    for blob in case.handover.blobs:
        if addresses[blob.paddr] > 1:
            continue  # KHO111: the other sub-node's blob, perhaps
        total = fdt.total_size(blob.data)
        if total is not None and blob.fdt is None and blob.size is not None:
            state = "is no sound device tree"
            if total > blob.size:
                state = f"says {total} bytes, should be at most the blob's {blob.size}"
            name = f"blob of sub-node {blob.name!r} at {blob.paddr:#x}"
            yield in_blob(blob, f"{name} has the header of an FDT that {state}")


@fault_rule("KHO413", ERROR, _LOST, FaultKind.VMALLOC_COUNT, Subject.VMALLOC)
def vmalloc_count() -> None:
    """A vmalloc area's chunks name as many pages as its descriptor says.

    Matters: the area cannot be restored; everything in it is lost.
    Causes: a chunk overwritten or truncated; a damaged descriptor.
    Enforced by: ``kho_restore_vmalloc()`` (7.1 to 7.3.4): NULL. A memfd then fails with -EINVAL
    (seen in 7.3.4), kho_test with "KHO restore failed".
    """


@rule("KHO414", ERROR, _LOST, FaultKind.VMALLOC_MISALIGNED, Subject.VMALLOC)
def vmalloc_misaligned(case: Case) -> Iterator[Observation]:
    """The addresses in vmalloc chunks are aligned to the area's order.

    Matters: restore looks for a preserved head there and finds none.
    Causes: a chunk overwritten; a wrong order in the descriptor.
    Enforced by: ``kho_restore_page()`` (7.1 to 7.3.4) finds no head there: WARN_ON_ONCE and NULL. A
    memfd then fails with -EINVAL, kho_test with "KHO restore failed".
    """
    short = {fault.path for fault in case.faults(FaultKind.VMALLOC_COUNT)}
    for found in case.observed(*vmalloc_misaligned.faults):
        if short.isdisjoint(above([found.path])):
            yield found


@rule("KHO415", ERROR, _LOST, Need.TREE, Subject.VMALLOC)
def vmalloc_unpreserved(case: Case) -> Iterator[Observation]:
    """The pages of vmalloc areas are preserved.

    Matters: the area cannot be restored; everything in it is lost.
    Causes: a bit lost in the tree.
    Enforced by: ``kho_restore_page()`` (7.1 to 7.3.4): WARN_ON_ONCE and NULL, as the page has no
    magic. Seen in 7.3.4: a memfd fails with -EINVAL, kho_test with "KHO restore failed".
    """
    return case.claims.unpreserved(*_PAGES)


@rule("KHO416", ERROR, _LOST, Need.TREE, Subject.VMALLOC)
def vmalloc_not_head(case: Case) -> Iterator[Observation]:
    """The pages of vmalloc areas head preserved blocks.

    Matters: only the head of a block can be restored.
    Causes: a stray key of a higher order over the area's pages.
    Enforced by: ``kho_restore_page()`` (7.1 to 7.3.4): WARN_ON_ONCE and NULL, as the page has no
    magic. A memfd then fails with -EINVAL, kho_test with "KHO restore failed".
    """
    return case.claims.inside_blocks(*_PAGES, but=case.memfds.distrusted)


@rule("KHO417", ERROR, _LOST, FaultKind.VMALLOC_CYCLE, FaultKind.VMALLOC_TOO_LONG, Subject.VMALLOC)
def vmalloc_chain(case: Case) -> Iterator[Observation]:
    """The chunk list of a vmalloc area ends.

    Matters: the area cannot be restored; everything in it is lost. A link that leads outside RAM
    is followed all the same: a page fault.
    Causes: a chunk's link overwritten.
    Enforced by: ``kho_restore_vmalloc()`` (7.1 to 7.3.4): NULL once the chunks name more pages than
    total_pages, or a chunk is restored a second time ("KHO restore failed" of kho_test seen in
    7.3.4). No kernel checks where a link leads.
    """
    for found in case.observed(*vmalloc_chain.faults):
        yield replace(found, severity=None if case.in_ram(found.paddr) else FATAL)


@fault_rule("KHO418", WARNING, _LOST, FaultKind.VMALLOC_FLAGS, Subject.VMALLOC)
def vmalloc_flags() -> None:
    """The flags of a vmalloc area are known ones.

    Matters: the next kernel ignores the bits that it does not know.
    Causes: a newer writer; a damaged descriptor.
    Enforced by: no kernel checks this: ``kho_flags_to_vmalloc()`` (7.1 to 7.3.4) masks them off
    (seen in 7.3.4: nothing lost).
    """


@fault_rule("KHO419", ERROR, _LOST, FaultKind.VMALLOC_ORDER, Subject.VMALLOC)
def vmalloc_order() -> None:
    """The order of a vmalloc area is one that an address has room for.

    Matters: the page count is computed with it.
    Causes: a damaged descriptor.
    Enforced by: no kernel checks the order: ``kho_restore_vmalloc()`` (7.1 to 7.3.4) returns NULL
    where one entry covers more than total_pages.
    """


@fault_rule(
    "KHO420",
    FATAL,
    _LOST,
    FaultKind.VMALLOC_CHUNK_OUTSIDE,
    FaultKind.VMALLOC_CHUNK_MISALIGNED,
    Subject.VMALLOC,
    Evidence.RAM,
)
def vmalloc_chunk_unreadable() -> None:
    """The links of a chunk list lead to pages in RAM.

    Matters: ``kho_restore_vmalloc()`` reads through them without a check: a page fault.
    Causes: a chunk's link, or the descriptor, overwritten.
    Enforced by: no kernel checks this: ``kho_restore_vmalloc()`` (7.1 to 7.3.4) reads
    ``chunk->phys[0]``: "unable to handle page fault" in ``memfd_luo_retrieve()`` (seen in 7.1.13).
    """


@CATALOGUE.not_stored("KHO421", "chunk", FaultKind.VMALLOC_CHUNK_NOT_STORED, Subject.VMALLOC)
def vmalloc_chunk_not_stored() -> None:
    """The chunks of vmalloc areas are stored in the dump.

    Matters: the handover may be sound, but the area cannot be judged.
    Causes: a filtered or cut dump.
    Enforced by: no kernel; it concerns the capture.
    """


@rule("KHO422", ERROR, _LOST, Need.TREE, Subject.VMALLOC)
def vmalloc_chunk_unpreserved(case: Case) -> Iterator[Observation]:
    """The chunks of vmalloc areas are preserved.

    Matters: the list of the area's pages is overwritten before it is read.
    Causes: a bit lost in the tree.
    Enforced by: no kernel checks it before reading: ``kho_restore_vmalloc()`` (7.1 to 7.3.4)
    restores a chunk when it has read it, and then returns NULL.
    """
    return case.claims.unpreserved(ClaimKind.FOLIO_TABLE_CHUNK, ClaimKind.FOLIOS_INFO_CHUNK)


@fault_rule("KHO423", ERROR, _LOST, FaultKind.VMALLOC_DUPLICATE, Subject.VMALLOC)
def vmalloc_duplicate() -> None:
    """A vmalloc area names each page once.

    Matters: the second restore of a page fails, and with it the area.
    Causes: an entry of a chunk overwritten with a copy of another.
    Enforced by: ``kho_restore_page()`` (7.1 to 7.3.4): WARN_ON_ONCE and NULL, as the page has no
    magic any more. A memfd then fails with -EINVAL, kho_test with "KHO restore failed".
    """
