"""KHO4xx: sub-nodes of the root FDT, and vmalloc areas wherever they occur."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kho_inspect import fdt, intervals
from kho_inspect.abi import ABIS
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import Blob
from kho_inspect.rules.base import Catalogue, Found, Need, Severity
from kho_inspect.rules.case import Case
from kho_inspect.units import human_size

CATALOGUE = Catalogue(Need.FDT, Need.ABI, Need.TRUSTED)
rule = CATALOGUE.rule

_WRITER = "the subsystem that wrote the sub-node, or damage to the FDT page"
_LOST = "restore fails with this data: look up who owns the page with addr"


def _nodes(case: Case) -> Iterator[tuple[FdtNode, str]]:
    for node in case.there.fdt.root.children:
        yield node, f"/{node.name}"


def _missing(case: Case, name: str | None) -> Iterator[Found]:
    for node, path in _nodes(case):
        if name is not None and node.prop(name) is None:
            yield Found(
                f"sub-node {node.name!r} has no property {name!r}, should have 8 bytes of it",
                case.there.fdt.paddr,
                path,
            )


def _missized(case: Case, name: str | None) -> Iterator[Found]:
    for node, path in _nodes(case):
        data = node.prop(name) if name is not None else None
        if data is not None and len(data) != 8:
            yield Found(
                f"property {name!r} of sub-node {node.name!r} is {len(data)} bytes, should be 8",
                case.there.fdt.paddr,
                f"{path}/{name}",
            )


@rule("KHO401", Severity.ERROR, _WRITER)
def address_missing(case: Case) -> Iterator[Found]:
    """Every sub-node has the property that points to its blob.

    Matters: the subsystem finds nothing and starts afresh: its data is lost.
    Causes: damage; the property of another ABI version (then KHO405 names it).
    Enforced by: ``kho_retrieve_subtree()``: -EINVAL.
    """
    return _missing(case, case.there.fdt.abi.blob_property)


@rule("KHO402", Severity.ERROR, _WRITER)
def address_missized(case: Case) -> Iterator[Found]:
    """A sub-node's address property is 8 bytes.

    Matters: the subsystem finds nothing and starts afresh: its data is lost.
    Causes: damage.
    Enforced by: ``kho_retrieve_subtree()``: -EINVAL.
    """
    return _missized(case, case.there.fdt.abi.blob_property)


@rule("KHO403", Severity.ERROR, _WRITER)
def size_missing(case: Case) -> Iterator[Found]:
    """From kho-v3 on, every sub-node has the size of its blob.

    Matters: the subsystem finds nothing and starts afresh: its data is lost.
    Causes: damage; a sub-node written by the rules of kho-v2.
    Enforced by: ``kho_retrieve_subtree()`` from kho-v3: -EINVAL.
    """
    return _missing(case, case.there.fdt.abi.blob_size_property)


@rule("KHO404", Severity.ERROR, _WRITER)
def size_missized(case: Case) -> Iterator[Found]:
    """From kho-v3 on, the size property is 8 bytes.

    Matters: the subsystem finds nothing and starts afresh: its data is lost.
    Causes: damage.
    Enforced by: ``kho_retrieve_subtree()`` from kho-v3: -EINVAL.
    """
    return _missized(case, case.there.fdt.abi.blob_size_property)


@rule("KHO405", Severity.WARNING, "is the compatible string the one of the kernel that wrote this?")
def property_of_other_abi(case: Case) -> Iterator[Found]:
    """Sub-nodes have the properties of their ABI and of no other.

    Matters: ``fdt`` is kho-v1's, ``preserved-data`` kho-v2's and later, ``blob-size`` kho-v3's and
    later. A kernel looks for its own only.
    Causes: a compatible string that was not bumped with the ABI, or damage to it.
    Enforced by: nobody.
    """
    abi = case.there.fdt.abi
    own = {abi.blob_property, abi.blob_size_property}
    others = {name for row in ABIS for name in (row.blob_property, row.blob_size_property)} - own
    for node, path in _nodes(case):
        for prop in node.props:
            if prop.name in others:
                yield Found(
                    f"sub-node {node.name!r} has property {prop.name!r}, which {abi.compatible} "
                    f"does not know, should have {abi.blob_property!r}",
                    case.there.fdt.paddr,
                    f"{path}/{prop.name}",
                )


@rule("KHO406", Severity.ERROR, "a stale or damaged pointer in the FDT; or the dump lacks RAM")
def blob_outside(case: Case) -> Iterator[Found]:
    """Blobs lie in RAM.

    Matters: the subsystem reads rubbish or crashes.
    Causes: damage to the FDT page; a blob-size gone wild.
    Enforced by: nobody: ``kho_retrieve_subtree()`` returns the address as it is.
    """
    return case.found(FaultKind.BLOB_OUTSIDE)


@rule("KHO407", Severity.WARNING, "dump more memory: the blob is not in what was saved")
def blob_not_stored(case: Case) -> Iterator[Found]:
    """Blobs are stored in the dump.

    Matters: the handover may be sound, but the blob cannot be judged.
    Causes: a filtered or cut dump.
    Enforced by: nobody; it concerns the capture.
    """
    return case.found(FaultKind.BLOB_NOT_STORED)


def _covered(case: Case, blob: Blob) -> int | None:
    """How many of a blob's bytes are surely not preserved; None when it has no known extent."""
    if blob.paddr is None or blob.size is None or not blob.stored:
        return None
    shift = case.there.geometry.shift
    pages = intervals.from_pairs([(blob.paddr >> shift, -(-(blob.paddr + blob.size) >> shift))])
    missing = intervals.intersect(pages, case.dangling)
    return intervals.total(missing) << shift


@rule(
    "KHO408", Severity.ERROR, "the writer must preserve the blob: kho_preserve_folio()", Need.TREE
)
def blob_unpreserved(case: Case) -> Iterator[Found]:
    """The memory of every blob is preserved.

    Matters: the next kernel hands the pages to anybody before the subsystem reads them.
    Causes: a missing preserve call in the writer; a bit lost in the tree.
    Enforced by: nobody; ``kho_add_subtree()`` trusts its caller.
    """
    for blob in case.there.blobs:
        missing = _covered(case, blob)
        if missing and blob.paddr is not None and not _starts_preserved(case, blob.paddr):
            yield Found(
                f"blob of sub-node {blob.name!r} at {blob.paddr:#x} is not preserved",
                blob.paddr,
                f"/{blob.name}",
            )


def _starts_preserved(case: Case, paddr: int) -> bool:
    return case.there.preserved.covers(paddr, 1)


@rule("KHO409", Severity.ERROR, "blob-size is wrong, or the end was not preserved", Need.TREE)
def blob_too_long(case: Case) -> Iterator[Found]:
    """Blobs end within their preserved extent.

    Matters: the tail is overwritten, or the size is wrong and the reader runs into other memory.
    Causes: a wrong blob-size; only the first page preserved.
    Enforced by: nobody.
    """
    for blob in case.there.blobs:
        missing = _covered(case, blob)
        if missing and blob.paddr is not None and _starts_preserved(case, blob.paddr):
            yield Found(
                f"blob of sub-node {blob.name!r} is {human_size(blob.size or 0)} at "
                f"{blob.paddr:#x}, of which {human_size(missing)} in pages that are not preserved",
                blob.paddr,
                f"/{blob.name}",
            )


@rule("KHO410", Severity.ERROR, "the blob was overwritten, or the pointer is stale")
def blob_not_fdt(case: Case) -> Iterator[Found]:
    """Up to kho-v2 every blob is a device tree.

    Matters: the subsystem checks for one and refuses.
    Causes: the blob was overwritten, or the pointer is stale.
    Enforced by: the subsystem's ``fdt_node_check_compatible()``.
    """
    return case.found(FaultKind.BLOB_NOT_FDT)


@rule("KHO411", Severity.WARNING, "blob-size is likely damaged")
def blob_too_large(case: Case) -> Iterator[Found]:
    """Blobs have a size that a writer would use.

    Matters: blobs of today are a page or a few; this one is not read at all.
    Causes: a damaged blob-size.
    Enforced by: nobody.
    """
    return case.found(FaultKind.BLOB_TOO_LARGE)


@rule("KHO412", Severity.ERROR, "blob-size or the blob's own header is wrong")
def blob_fdt_size(case: Case) -> Iterator[Found]:
    """A blob that starts as a device tree is a whole one.

    Matters: the reader trusts the FDT's totalsize and runs past the blob, or refuses it.
    Causes: a wrong blob-size; an FDT that was overwritten.
    Enforced by: the subsystem's ``fdt_check_header()``, in part.
    """
    addresses = Counter(blob.paddr for blob in case.there.blobs)
    for blob in case.there.blobs:
        if addresses[blob.paddr] > 1:
            continue  # KHO111: the other sub-node's blob, perhaps
        total = fdt.total_size(blob.data)
        if total is not None and blob.fdt is None and blob.size is not None:
            state = (
                f"says {total} bytes, should be at most the blob's {blob.size}"
                if total > blob.size
                else "is no sound device tree"
            )
            yield Found(
                f"blob of sub-node {blob.name!r} at {blob.paddr:#x} has the header of an FDT that "
                f"{state}",
                blob.paddr,
                f"/{blob.name}",
            )


@rule("KHO413", Severity.ERROR, _LOST)
def vmalloc_count(case: Case) -> Iterator[Found]:
    """A vmalloc area's chunks name as many pages as its descriptor says.

    Matters: the area cannot be restored; everything in it is lost.
    Causes: a chunk overwritten or truncated; a damaged descriptor.
    Enforced by: ``kho_restore_vmalloc()``: returns NULL.
    """
    return case.found(FaultKind.VMALLOC_COUNT)


@rule("KHO414", Severity.ERROR, _LOST)
def vmalloc_misaligned(case: Case) -> Iterator[Found]:
    """The addresses in vmalloc chunks are aligned to the area's order.

    Matters: restore looks for a preserved head there and finds none.
    Causes: a chunk overwritten; a wrong order in the descriptor.
    Enforced by: ``kho_restore_vmalloc()``, by way of the missing head.
    """
    short = {fault.path for fault in case.faults(FaultKind.VMALLOC_COUNT)}
    for found in case.found(FaultKind.VMALLOC_MISALIGNED):
        if not any(found.path.startswith(path) for path in short):
            yield found


@rule("KHO415", Severity.ERROR, _LOST, Need.TREE)
def vmalloc_unpreserved(case: Case) -> Iterator[Found]:
    """The pages of vmalloc areas are preserved.

    Matters: the area cannot be restored; everything in it is lost.
    Causes: a bit lost in the tree.
    Enforced by: ``kho_restore_page()``: the page has no magic.
    """
    return case.unpreserved("folio table", "folios_info")


@rule("KHO416", Severity.ERROR, _LOST, Need.TREE)
def vmalloc_not_head(case: Case) -> Iterator[Found]:
    """The pages of vmalloc areas head preserved blocks.

    Matters: only the head of a block can be restored.
    Causes: a stray key of a higher order over the area's pages.
    Enforced by: ``kho_restore_page()``: the page has no magic.
    """
    return case.inside_blocks("folio table", "folios_info")


@rule("KHO417", Severity.ERROR, _LOST)
def vmalloc_chain(case: Case) -> Iterator[Found]:
    """The chunk list of a vmalloc area ends.

    Matters: the next kernel walks it without a guard: it runs in a circle or into junk.
    Causes: a chunk's link overwritten.
    Enforced by: nobody.
    """
    return case.found(FaultKind.VMALLOC_CYCLE, FaultKind.VMALLOC_TOO_LONG)


@rule("KHO418", Severity.ERROR, _LOST)
def vmalloc_flags(case: Case) -> Iterator[Found]:
    """The flags of a vmalloc area are known ones.

    Matters: the kernel masks unknown flags off and then refuses the area.
    Causes: a newer writer; a damaged descriptor.
    Enforced by: ``kho_restore_vmalloc()``: -EOPNOTSUPP.
    """
    return case.found(FaultKind.VMALLOC_FLAGS)


@rule("KHO419", Severity.ERROR, _LOST)
def vmalloc_order(case: Case) -> Iterator[Found]:
    """The order of a vmalloc area is one that an address has room for.

    Matters: the page count is computed with it.
    Causes: a damaged descriptor.
    Enforced by: nobody.
    """
    return case.found(FaultKind.VMALLOC_ORDER)


@rule("KHO420", Severity.ERROR, _LOST)
def vmalloc_chunk_unreadable(case: Case) -> Iterator[Found]:
    """The links of a chunk list lead to pages in RAM.

    Matters: the next kernel dereferences them without a check.
    Causes: a chunk's link, or the descriptor, overwritten.
    Enforced by: nobody.
    """
    return case.found(FaultKind.VMALLOC_CHUNK_OUTSIDE, FaultKind.VMALLOC_CHUNK_MISALIGNED)


@rule("KHO421", Severity.WARNING, "dump more memory: the chunk is not in what was saved")
def vmalloc_chunk_not_stored(case: Case) -> Iterator[Found]:
    """The chunks of vmalloc areas are stored in the dump.

    Matters: the handover may be sound, but the area cannot be judged.
    Causes: a filtered or cut dump.
    Enforced by: nobody; it concerns the capture.
    """
    return case.found(FaultKind.VMALLOC_CHUNK_NOT_STORED)


@rule("KHO422", Severity.ERROR, _LOST, Need.TREE)
def vmalloc_chunk_unpreserved(case: Case) -> Iterator[Found]:
    """The chunks of vmalloc areas are preserved.

    Matters: the list of the area's pages is overwritten before it is read.
    Causes: a bit lost in the tree.
    Enforced by: nobody; the next kernel reads chunks without restoring them first.
    """
    return case.unpreserved("folio table vmalloc chunk", "folios_info vmalloc chunk")


@rule("KHO423", Severity.ERROR, _LOST)
def vmalloc_duplicate(case: Case) -> Iterator[Found]:
    """A vmalloc area names each page once.

    Matters: the second restore of a page fails, and with it the area.
    Causes: an entry of a chunk overwritten with a copy of another.
    Enforced by: ``kho_restore_page()``: the page has no magic any more.
    """
    return case.found(FaultKind.VMALLOC_DUPLICATE)
