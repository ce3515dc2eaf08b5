"""KHO6xx: the other blobs."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterator

from kho_inspect import fdt
from kho_inspect.layouts.kexec_metadata import KHO_KEXEC_METADATA_VERSION
from kho_inspect.layouts.kho_test import KHO_TEST_MAGIC
from kho_inspect.model.contents import KexecMetadata, KhoTest, Memblock
from kho_inspect.model.faults import FaultKind
from kho_inspect.rules.base import Catalogue, Found, Need, Severity
from kho_inspect.rules.case import Case
from kho_inspect.units import Extent

CATALOGUE = Catalogue(Need.FDT, Need.ABI, Need.TRUSTED)
rule = CATALOGUE.rule

KINDS = {"memblock": "memblock-v1", "kho_test": "kho-test-v1"}
"""Sub-nodes whose compatible string every kernel of today agrees on."""

_REGION = "the reserve_mem= region is lost: compare the command lines of both kernels"
_TEST = "the test would report a failure: see which of its pages changed"


def _memblocks(case: Case) -> Iterator[Memblock]:
    return (content for _, content in case.contents() if isinstance(content, Memblock))


@rule("KHO601", Severity.ERROR, _REGION)
def memblock_property(case: Case) -> Iterator[Found]:
    """Every reserve_mem region has a start and a size of 8 bytes each.

    Matters: the region is not found, and is allocated afresh, empty.
    Causes: damage to the blob.
    Enforced by: ``reserve_mem_kho_retrieve()``.
    """
    return case.found(FaultKind.MEMBLOCK_PROPERTY)


@rule("KHO602", Severity.WARNING, _REGION)
def region_compatible(case: Case) -> Iterator[Found]:
    """Every child of memblock is a reserve-mem-v1 region.

    Matters: the next kernel passes over what it does not know.
    Causes: a newer writer; damage to the blob.
    Enforced by: ``reserve_mem_kho_retrieve()``.
    """
    for memblock in _memblocks(case):
        for region in memblock.regions:
            if region.compatible != "reserve-mem-v1":
                yield Found(
                    f"compatible of region {region.name!r} is {region.compatible!r}, should be "
                    "'reserve-mem-v1'",
                    region.start,
                    region.path,
                )


@rule("KHO603", Severity.ERROR, _REGION, Need.TREE)
def region_unpreserved(case: Case) -> Iterator[Found]:
    """Every reserve_mem region is preserved.

    Matters: the next kernel reserves the region late; unpreserved, it is overwritten by then.
    Causes: a bit lost in the tree; a start or size overwritten.
    Enforced by: nobody.
    """
    return case.unpreserved("region")


@rule("KHO604", Severity.ERROR, _REGION)
def regions_overlap(case: Case) -> Iterator[Found]:
    """reserve_mem regions have names of their own and do not overlap.

    Matters: two users share memory, or one name finds only the first.
    Causes: a start or size overwritten.
    Enforced by: nobody.
    """
    for memblock in _memblocks(case):
        counts = Counter(region.name for region in memblock.regions)
        for region in memblock.regions:
            if counts.pop(region.name, 0) > 1:
                yield Found(
                    f"several regions are called {region.name!r}", region.start, region.path
                )
        placed = sorted(
            (Extent(region.start, region.start + region.size), region.path)
            for region in memblock.regions
            if region.start is not None and region.size
        )
        found = (found.paddr for found in case.unpreserved("region"))
        lost = sorted(paddr for paddr in found if paddr is not None)
        for (before, _), (after, path) in itertools.pairwise(placed):
            # A region that reaches too far is KHO603's.
            held = bisect.bisect_left(lost, before.start) < bisect.bisect_left(lost, before.end)
            if before.overlaps(after) and not held:
                yield Found(f"regions {before} and {after} overlap", after.start, path)


@rule("KHO605", Severity.WARNING, "the size or the pointer of the sub-node is wrong")
def metadata_short(case: Case) -> Iterator[Found]:
    """The kexec-metadata blob is as long as its struct.

    Matters: the next kernel does not learn which kernel came before.
    Causes: a wrong blob-size.
    Enforced by: ``kho_process_kexec_metadata()``: passed over with a warning.
    """
    return case.found(FaultKind.METADATA_SHORT)


@rule("KHO606", Severity.WARNING, "written by a newer kernel, or overwritten")
def metadata_version(case: Case) -> Iterator[Found]:
    """kexec-metadata is of a version that is known.

    Matters: the next kernel passes over another version.
    Causes: a newer writer; damage to the blob.
    Enforced by: ``kho_process_kexec_metadata()``: passed over with a warning.
    """
    for blob, content in case.contents():
        if isinstance(content, KexecMetadata) and content.version != KHO_KEXEC_METADATA_VERSION:
            yield Found(
                f"kexec-metadata version is {content.version}, should be "
                f"{KHO_KEXEC_METADATA_VERSION}",
                blob.paddr,
                f"/{blob.name}",
            )


@rule("KHO607", Severity.WARNING, "the blob was overwritten")
def metadata_release(case: Case) -> Iterator[Found]:
    """The previous kernel's release is a terminated string.

    Matters: the next kernel prints it.
    Causes: damage to the blob.
    Enforced by: nobody.
    """
    for blob, content in case.contents():
        if isinstance(content, KexecMetadata) and b"\0" not in content.raw_release:
            yield Found(
                f"previous_release is {len(content.raw_release)} bytes without a NUL, should be "
                "terminated",
                blob.paddr,
                f"/{blob.name}",
            )


def _tests(case: Case) -> Iterator[tuple[int | None, str, KhoTest]]:
    for blob, content in case.contents():
        if isinstance(content, KhoTest):
            yield blob.paddr, f"/{blob.name}", content


@rule("KHO608", Severity.ERROR, _TEST)
def kho_test_property(case: Case) -> Iterator[Found]:
    """The kho_test FDT has nr_folios, folios_info and csum in their sizes.

    Matters: the test cannot find its folios.
    Causes: damage to the blob.
    Enforced by: ``kho_test_restore()``: -EINVAL.
    """
    return case.found(FaultKind.KHO_TEST_PROPERTY)


@rule("KHO609", Severity.ERROR, _TEST)
def kho_test_magic(case: Case) -> Iterator[Found]:
    """The kho_test magic is the one of the module.

    Matters: the test refuses its own data.
    Causes: damage to the blob.
    Enforced by: ``kho_test_restore()``: -EINVAL.
    """
    for paddr, path, test in _tests(case):
        if test.magic != KHO_TEST_MAGIC:
            seen = "missing" if test.magic is None else f"{test.magic:#x}"
            yield Found(f"kho_test magic is {seen}, should be {KHO_TEST_MAGIC:#x}", paddr, path)


@rule("KHO610", Severity.ERROR, _TEST)
def kho_test_checksum(case: Case) -> Iterator[Found]:
    """The kho_test folios still add up to their checksum.

    Matters: preserved memory changed on the way: what holds here holds for all preserved memory.
    Causes: an overlap with scratch; a wild write; a page that was not preserved.
    Enforced by: ``kho_test_restore()``: "checksum mismatch".
    """
    for paddr, path, test in _tests(case):
        if test.checksum_ok is False and len(test.phys) == test.nr_folios:
            yield Found(
                f"kho_test checksum is {test.computed:#06x}, should be that of csum {test.csum:#x}",
                paddr,
                f"{path}/data",
            )


@rule("KHO611", Severity.ERROR, _TEST)
def kho_test_folios(case: Case) -> Iterator[Found]:
    """The kho_test folios are where folios_info says, in RAM.

    Matters: the test cannot restore them.
    Causes: an entry overwritten.
    Enforced by: ``kho_restore_folio()``.
    """
    # Where its area is short, KHO413 or KHO417 says why.
    area = case.faults(FaultKind.VMALLOC_COUNT, FaultKind.VMALLOC_CYCLE)
    if any(fault.path.startswith("/kho_test") for fault in area):
        return
    yield from itertools.islice(case.found(FaultKind.KHO_TEST_FOLIOS), 1)


@rule("KHO612", Severity.ERROR, _TEST, Need.TREE)
def kho_test_unpreserved(case: Case) -> Iterator[Found]:
    """The kho_test folios are preserved, each as one block.

    Matters: the test cannot restore them.
    Causes: a bit lost in the tree; an entry overwritten.
    Enforced by: ``kho_restore_folio()``.
    """
    if not any(case.faults(FaultKind.KHO_TEST_FOLIOS, FaultKind.KHO_TEST_NOT_STORED)):
        yield from case.unpreserved("test folio")
        yield from case.inside_blocks("test folio")


@rule("KHO613", Severity.WARNING, "dump more memory: the folio is not in what was saved")
def kho_test_not_stored(case: Case) -> Iterator[Found]:
    """The kho_test folios are stored in the dump.

    Matters: the handover may be sound, but the checksum cannot be computed.
    Causes: a filtered or cut dump.
    Enforced by: nobody; it concerns the capture.
    """
    return case.found(FaultKind.KHO_TEST_NOT_STORED)


@rule("KHO614", Severity.INFO, "nothing to do: it is shown as it stands")
def content_unknown(case: Case) -> Iterator[Found]:
    """Every blob and file is of a kind that can be decoded.

    Matters: memory that belongs to an unknown one looks unowned, so orphans are not judged.
    Causes: a subsystem that is newer than this tool.
    Enforced by: nobody.
    """
    told = {f"sub-node {name!r}" for name in ("LUO", *KINDS)}
    for what, path in case.unknown_content():
        if what not in told:
            yield Found(f"{what} is not known here: shown raw, its memory not followed", None, path)


@rule("KHO615", Severity.ERROR, "the blob was overwritten, or the writer is of another version")
def known_blob_unreadable(case: Case) -> Iterator[Found]:
    """Sub-nodes of known names hold what belongs there.

    Matters: the subsystem refuses its own data and starts afresh.
    Causes: the blob was overwritten; a writer of another version.
    Enforced by: the subsystem's ``fdt_node_check_compatible()``.
    """
    for blob in case.there.blobs:
        wanted = KINDS.get(blob.name)
        # An FDT that is damaged is KHO412's, or KHO410's, business.
        if wanted is None or not blob.stored or blob.content is not None:
            continue
        seen = "no device tree"
        if blob.fdt is not None:
            seen = repr(blob.fdt.string("compatible"))
        elif fdt.total_size(blob.data) is not None:
            continue
        yield Found(
            f"sub-node {blob.name!r} holds {seen}, should be {wanted!r}",
            blob.paddr,
            f"/{blob.name}",
        )
