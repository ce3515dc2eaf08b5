"""KHO6xx: the other blobs."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

from kho_inspect import fdt
from kho_inspect.abi import find_luo
from kho_inspect.decoders.kexec_metadata import KexecMetadata
from kho_inspect.decoders.kho_test import KhoTest
from kho_inspect.decoders.memblock import REGION, Memblock
from kho_inspect.layouts.kexec_metadata import KHO_KEXEC_METADATA_VERSION
from kho_inspect.layouts.kho_test import KHO_TEST_MAGIC
from kho_inspect.layouts.luo import luo_compatible
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import text_of
from kho_inspect.model.handover import Blob
from kho_inspect.model.identity import ClaimKind, Step, StepKind
from kho_inspect.rules.base import ERROR, FATAL, INFO, WARNING, Decision, Need, Observation, Subject
from kho_inspect.rules.case import Case, in_blob, repeated, subnode
from kho_inspect.rules.catalogue import Catalogue
from kho_inspect.units import Extent

CATALOGUE = Catalogue((Need.FDT, Need.ABI, Need.TRUSTED), hides_owners=True)
rule, fault_rule = CATALOGUE.rule, CATALOGUE.fault_rule

KINDS = {"memblock": "memblock-v1", "kho_test": "kho-test-v1"}
"""Sub-nodes whose compatible string every kernel of today agrees on."""

_EXTENT = "the size or the pointer of the sub-node is wrong"
_REGION = "the reserve_mem= region is lost: compare the command lines of both kernels"
_TEST = "the test would report a failure: see which of its pages changed"


@fault_rule("KHO601", ERROR, _REGION, FaultKind.MEMBLOCK_PROPERTY, Subject.MEMBLOCK)
def memblock_property() -> None:
    """Every reserve_mem region has a start and a size of 8 bytes each.

    Matters: the region is not found, and is allocated afresh, empty.
    Causes: damage to the blob.
    Enforced by: ``reserve_mem_kho_revive()`` (7.1 to 7.3.4) returns false, and prints nothing.
    """


@rule("KHO602", ERROR, _REGION, Subject.MEMBLOCK)
def region_compatible(case: Case) -> Iterator[Observation]:
    """Every child of memblock is a reserve-mem-v1 region.

    Matters: the region that the command line asks for is allocated afresh, empty.
    Causes: a newer writer; damage to the blob.
    Enforced by: ``reserve_mem_kho_revive()`` (7.1 to 7.3.4): "Node '…' is incompatible with
    'reserve-mem-v1': …".
    """
    for _, memblock in case.contents(Memblock):
        for region in memblock.regions:
            if region.compatible != REGION:
                found = f"{region.compatible!r}, should be {REGION!r}"
                words = f"compatible of region {region.name!r} is {found}"
                yield Observation(words, region.start, region.path)


@rule("KHO603", FATAL, _REGION, Need.TREE, Decision.ACCEPTS, Subject.MEMBLOCK)
def region_unpreserved(case: Case) -> Iterator[Observation]:
    """Every reserve_mem region is preserved.

    Matters: the next kernel takes the region over without reserving it: unpreserved, its pages are
    given to the allocator too, and two owners write to them. Outside RAM the contents are lost.
    Causes: a bit lost in the tree; a start or size overwritten.
    Enforced by: no kernel checks this: ``reserve_mem_kho_revive()`` (7.1 to 7.3.4) calls
    ``reserved_mem_add()``.
    """
    for found in case.claims.unpreserved(ClaimKind.REGION):
        yield replace(found, severity=None if case.in_ram(found.paddr) else ERROR)


@rule("KHO604", ERROR, _REGION, Subject.MEMBLOCK)
def regions_overlap(case: Case) -> Iterator[Observation]:
    """reserve_mem regions have names of their own and do not overlap.

    Matters: two users share memory, or one name finds only the first.
    Causes: a start or size overwritten.
    Enforced by: no kernel checks this (7.1 to 7.3.4): ``fdt_subnode_offset()`` takes the first of a
    name.
    """
    unpreserved = [found.paddr for found in case.claims.unpreserved(ClaimKind.REGION)]
    for _, memblock in case.contents(Memblock):
        for region, _ in repeated(memblock.regions, lambda region: region.name):
            words = f"several regions are called {region.name!r}"
            yield Observation(words, region.start, region.path)
        placed = sorted(
            (Extent(region.start, region.start + region.size), region.path)
            for region in memblock.regions
            if region.start is not None and region.size
        )
        for (before, _), (after, path) in itertools.pairwise(placed):
            # A region that reaches too far is KHO603's.
            too_far = any(paddr is not None and before.contains(paddr) for paddr in unpreserved)
            if before.overlaps(after) and not too_far:
                yield Observation(f"regions {before} and {after} overlap", after.start, path)


@fault_rule("KHO605", WARNING, _EXTENT, FaultKind.METADATA_SHORT, Subject.METADATA)
def metadata_short() -> None:
    """The kexec-metadata blob is as long as its struct.

    Matters: the next kernel cannot print which kernel came before.
    Causes: a wrong blob-size.
    Enforced by: ``kho_in_kexec_metadata()`` (7.1 to 7.3.4): "kexec-metadata blob too small".
    """


@rule("KHO606", WARNING, "written by a newer kernel, or overwritten", Subject.METADATA)
def metadata_version(case: Case) -> Iterator[Observation]:
    """kexec-metadata is of a version that is known.

    Matters: the next kernel passes over another version.
    Causes: a newer writer; damage to the blob.
    Enforced by: ``kho_in_kexec_metadata()`` (7.1 to 7.3.4): "kexec-metadata version … not supported
    (expected 1)"; nothing else was seen to happen in 7.3.4.
    """
    known = KHO_KEXEC_METADATA_VERSION
    for blob, metadata in case.contents(KexecMetadata):
        if metadata.version != known:
            words = f"kexec-metadata version is {metadata.version}, should be {known}"
            yield in_blob(blob, words)


@rule("KHO607", WARNING, "the blob was overwritten", Subject.METADATA)
def metadata_release(case: Case) -> Iterator[Observation]:
    """The previous kernel's release is a terminated string.

    Matters: the next kernel prints it.
    Causes: damage to the blob.
    Enforced by: no kernel checks this: ``kho_in_kexec_metadata()`` (7.1 to 7.3.4) copies with
    ``strscpy()``.
    """
    for blob, metadata in case.contents(KexecMetadata):
        if b"\0" not in metadata.raw_release:
            size = f"{len(metadata.raw_release)} bytes without a NUL"
            yield in_blob(blob, f"previous_release is {size}, should be terminated")


@fault_rule("KHO608", ERROR, _TEST, FaultKind.KHO_TEST_PROPERTY, Subject.KHO_TEST)
def kho_test_property() -> None:
    """The kho_test FDT has nr_folios, folios_info and csum in their sizes.

    Matters: the test cannot find its folios.
    Causes: damage to the blob.
    Enforced by: ``kho_test_restore_data()`` (7.1 to 7.3.4): -EINVAL, "test_kho: KHO restore
    failed".
    """


@rule("KHO609", ERROR, _TEST, Subject.KHO_TEST)
def kho_test_magic(case: Case) -> Iterator[Observation]:
    """The kho_test magic is the one of the module.

    Matters: the test fails before it looks at its data.
    Causes: damage to the blob.
    Enforced by: ``kho_test_restore()`` (7.1 to 7.3.4): -EINVAL, "test_kho: KHO restore failed".
    """
    for blob, test in case.contents(KhoTest):
        if test.magic != KHO_TEST_MAGIC:
            magic = "missing" if test.magic is None else f"{test.magic:#x}"
            yield in_blob(blob, f"kho_test magic is {magic}, should be {KHO_TEST_MAGIC:#x}")


@rule("KHO610", ERROR, _TEST, Subject.KHO_TEST)
def kho_test_checksum(case: Case) -> Iterator[Observation]:
    """The kho_test folios still add up to their checksum.

    Matters: preserved memory changed on the way: what holds here holds for all preserved memory.
    Causes: an overlap with scratch; a wild write; a page that was not preserved.
    Enforced by: ``kho_test_restore_data()`` (7.1 to 7.3.4): -EINVAL, "test_kho: KHO restore failed"
    (seen in 7.3.4).
    """
    for blob, test in case.contents(KhoTest):
        if test.checksum_ok is False and len(test.phys) == test.nr_folios:
            words = f"is {test.computed:#06x}, should be that of csum {test.csum:#x}"
            path = (*subnode(blob.name), Step(StepKind.NODE, "data"))
            yield Observation(f"kho_test checksum {words}", blob.paddr, path)


@rule("KHO611", ERROR, _TEST, FaultKind.KHO_TEST_FOLIOS, Subject.KHO_TEST)
def kho_test_folios(case: Case) -> Iterator[Observation]:
    """The kho_test folios are where folios_info says, in RAM.

    Matters: the test cannot restore them.
    Causes: an entry overwritten.
    Enforced by: ``kho_restore_folio()`` (7.1 to 7.3.4) gives NULL, the checksum is then another:
    "test_kho: KHO restore failed".
    """
    # Where its area is short, KHO413 or KHO417 says why.
    short = case.faults(FaultKind.VMALLOC_COUNT, FaultKind.VMALLOC_CYCLE)
    tests = [subnode(blob.name) for blob, _ in case.contents(KhoTest)]
    if not any(fault.path[:1] in tests for fault in short):
        yield from itertools.islice(case.observed(*kho_test_folios.faults), 1)


@rule("KHO612", ERROR, _TEST, Need.TREE, Subject.KHO_TEST)
def kho_test_unpreserved(case: Case) -> Iterator[Observation]:
    """The kho_test folios are preserved, each as one block.

    Matters: the test cannot restore them.
    Causes: a bit lost in the tree; an entry overwritten.
    Enforced by: ``kho_restore_folio()`` (7.1 to 7.3.4) gives NULL, or a folio of another order; the
    checksum is then another: "test_kho: KHO restore failed" (seen in 7.3.4).
    """
    if not any(case.faults(FaultKind.KHO_TEST_FOLIOS, FaultKind.KHO_TEST_NOT_STORED)):
        yield from case.claims.unpreserved(ClaimKind.TEST_FOLIO)
        yield from case.claims.inside_blocks(ClaimKind.TEST_FOLIO, but=case.memfds.distrusted)


@CATALOGUE.not_stored("KHO613", "folio", FaultKind.KHO_TEST_NOT_STORED, Subject.KHO_TEST)
def kho_test_not_stored() -> None:
    """The kho_test folios are stored in the dump.

    Matters: the handover may be sound, but the checksum cannot be computed.
    Causes: a filtered or cut dump.
    Enforced by: no kernel; it concerns the capture.
    """


@rule("KHO614", INFO, "nothing to do: it is shown as it stands")
def content_unknown(case: Case) -> Iterator[Observation]:
    """Every blob and file is of a kind that can be decoded.

    Matters: memory that belongs to an unknown one looks unowned, so orphans are not judged.
    Causes: a subsystem that is newer than this tool.
    Enforced by: no kernel; it concerns this tool.
    """
    # KHO502 and KHO615 report these.
    reported = {
        subnode(blob.name)
        for blob in case.handover.blobs
        if blob.content is None
        and ((blob.name == "LUO" and not case.writer_unknown) or _wanted(blob) is not None)
    }
    for what, path in case.unknown_content():
        if path not in reported:
            words = f"{what} is not known here: shown raw, its memory not followed"
            yield Observation(words, None, path)


@rule("KHO615", ERROR, "the blob was overwritten, or the writer is of another version")
def known_blob_unreadable(case: Case) -> Iterator[Observation]:
    """Sub-nodes of known names hold what belongs there.

    Matters: the subsystem does not take the data, and starts afresh. LUO's under another name is
    not found: no kernel prints that, and all sessions are lost.
    Causes: the blob was overwritten; a writer of another version.
    Enforced by: ``fdt_node_check_compatible()`` of the subsystem (7.1 to 7.3.4): "FDT 'memblock' is
    incompatible with 'memblock-v1': 1", "test_kho: KHO restore failed" (both seen in 7.3.4).
    """
    for blob in case.handover.blobs:
        wanted = _wanted(blob)
        # KHO410 or KHO412 reports an FDT that is damaged.
        damaged = blob.fdt is None and fdt.total_size(blob.data) is not None
        if wanted is not None and blob.stored and blob.content is None and not damaged:
            held = "no device tree" if blob.fdt is None else repr(blob.fdt.string("compatible"))
            yield in_blob(blob, f"sub-node {blob.name!r} holds {held}, should be {wanted!r}")
        name = blob.fdt.string("compatible") if blob.fdt is not None else None
        held = name or text_of(luo_compatible(blob.data))
        if blob.name != "LUO" and blob.content is None and find_luo(held) is not None:
            yield in_blob(blob, f"sub-node {blob.name!r} holds {held!r}, should be called 'LUO'")


def _wanted(blob: Blob) -> str | None:
    """What a sub-node of a known name should hold; None where it does, or may hold anything."""
    wanted = KINDS.get(blob.name)
    return None if wanted and blob.fdt and blob.fdt.is_compatible(wanted) else wanted
