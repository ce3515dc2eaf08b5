"""KHO1xx: the root FDT."""

from collections.abc import Iterator

from kho_inspect import intervals
from kho_inspect.abi import ABIS, MAP_PROPERTY, nearest_abi
from kho_inspect.decoders.kexec_metadata import KexecMetadata
from kho_inspect.errors import TruncatedFdtError
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import Pointer
from kho_inspect.model.identity import Step, StepKind
from kho_inspect.rules.base import (
    ERROR,
    FATAL,
    INFO,
    WARNING,
    About,
    Decision,
    Evidence,
    Need,
    Observation,
    Subject,
)
from kho_inspect.rules.case import ROOT, Case, fdt_property, in_blob, repeated, subnode
from kho_inspect.rules.catalogue import Catalogue
from kho_inspect.units import human_size

CATALOGUE = Catalogue()
any_rule, rule = CATALOGUE.rule, CATALOGUE.needing(Need.FDT).rule

_CAPTURE = "capture kho/in/fdt of the next kernel's debugfs, or find it with a scan of the dump"
_MAP = "the old kernel never finished serializing, or the FDT was overwritten: capture both again"
_NOT_KEPT = "a bug in the old kernel's kho_init(), or a bit lost in the tree"
_ENTRY = "load the next kernel again (kexec -s): it writes the entry"
MAX_MAPPED = 256 << 10
"""The most that a kernel maps at once this early."""
MAX_COMMAND_LINE = 2048
"""Bytes of the command line that stands before the entry, behind boot_params of one page."""
_SAME_ABI = "boot a kernel whose KHO ABI is the same"
_PAGES = "boot a kernel with pages of the same size"
_TARGETS = "see which kernels can hand over to which: kho-inspect targets"
_NO_LUO = "boot a kernel that is built with CONFIG_LIVEUPDATE"
_LUO = subnode("LUO")
_REFUSED = "disabling KHO revival:"


@any_rule("KHO101", FATAL, _CAPTURE, Decision.REFUSES, Evidence.FDT)
def fdt_invalid(case: Case) -> Iterator[Observation]:
    """The root FDT is a well-formed device tree.

    Matters: the next kernel checks the header before anything else and drops the handover.
    Causes: the page was overwritten between serialization and the jump, or the capture is torn.
    Enforced by: ``fdt_check_header()`` in ``kho_populate()`` (7.1 to 7.3.4): "handover FDT (0x…) is
    invalid: -9", "disabling KHO revival" (seen in 7.3.4). It checks the header only: sub-nodes
    behind damage further down are not found, and nothing is printed.
    """
    error = case.fdt_error
    if error is not None and not isinstance(error, TruncatedFdtError):
        yield Observation(f"{_REFUSED} invalid FDT ({error.message})", None, ROOT)


@any_rule("KHO102", FATAL, _CAPTURE, About.CAPTURE)
def fdt_truncated(case: Case) -> Iterator[Observation]:
    """The file holds the whole root FDT.

    Matters: the missing end names sub-nodes; nothing can be judged without it.
    Causes: debugfs ``kho/out/fdt`` is exposed with the size it had at boot. Where the dump holds
    the whole FDT it is taken from there, and the capture lacks nothing.
    Enforced by: no kernel; it concerns the capture, not the handover.
    """
    if isinstance(case.fdt_error, TruncatedFdtError):
        yield Observation(case.fdt_error.message, None, ROOT)
    elif case.opened is not None and case.handover.fdt.start is not None:
        yield Observation(f"the root FDT is cut short: {case.handover.fdt.start.words}", None, ROOT)


@rule("KHO103", FATAL, "find out what adds so many sub-nodes", Evidence.FDT)
def fdt_oversized(case: Case) -> Iterator[Observation]:
    """The root FDT fits into one page.

    Matters: the writer allots exactly one page and the next kernel maps and preserves one page:
    what lies beyond it is memory of another user.
    Causes: too many or too long sub-nodes, or a damaged totalsize.
    Enforced by: no kernel checks this (7.1 to 7.3.4): ``kho_populate()`` maps one page, and what it
    reads behind that is a page fault. The old kernel's ``fdt_create()`` has a buffer of one page.
    """
    size, page = case.handover.fdt.size, case.handover.source.page_size
    if size > page:
        words = f"should be at most one page of {human_size(page)}"
        yield case.in_fdt(f"root FDT is {size} bytes, {words}")


@rule("KHO104", INFO, "--target KERNEL decides for a kernel that is known", Evidence.READER)
def compatible_unknown(case: Case) -> Iterator[Observation]:
    """The root's compatible string is an ABI in this program's table.

    Matters: a kernel accepts exactly its own string. What a kernel of an unknown ABI does with
    the rest is unknown; read as another ABI (--assume-abi), it may be read wrongly.
    Causes: a development kernel, a downstream ABI, or damage.
    Enforced by: ``fdt_node_check_compatible()`` in ``kho_populate()`` (7.1 to 7.3.4): "handover FDT
    (0x…) is incompatible with 'kho-v4': 1" (7.1: 'kho-v3'), "disabling KHO revival" (seen in 7.3.4
    of kho-v9).
    """
    root = case.handover.fdt
    if not root.known or root.assumed:
        known = ", ".join(abi.compatible for abi in ABIS)
        nearest = nearest_abi(root.compatible).compatible
        wanted = f"one of {known} (nearest: {nearest}; --assume-abi reads it as that)"
        words = f"compatible is {root.compatible!r}, should be {wanted}"
        yield case.in_fdt(words, fdt_property("compatible"))


@rule("KHO105", FATAL, _SAME_ABI, Need.TARGET, Decision.REFUSES, Evidence.READER)
def compatible_not_targets(case: Case) -> Iterator[Observation]:
    """The root's compatible string is the target kernel's.

    Matters: the ABI has no backward compatibility; the target drops the handover. Of several
    strings in the property any may be the target's.
    Causes: a live update across an ABI bump, or to a kernel without KHO.
    Enforced by: ``fdt_node_check_compatible()`` in ``kho_populate()`` (7.1 to 7.3.4): "handover FDT
    (0x…) is incompatible with 'kho-v4': 1", "disabling KHO revival" (seen in 7.3.4 of kho-v9, in
    7.1.13 of kho-v4).
    """
    root, target = case.handover.fdt, case.target
    if case.image is not None and case.image.why_no_kho:
        lacking = f"{case.target_name} has no KHO ({case.image.why_no_kho})"
        yield case.in_fdt(f"{lacking}: it boots without the data")
    elif target is not None and not target.takes_root(root.root.strings("compatible")):
        mismatch = f"(compatible is {root.compatible!r}, target {case.target_name})"
        words = f"{_REFUSED} incompatible with {target.root!r} {mismatch}"
        yield case.in_fdt(words, fdt_property("compatible"))


@rule("KHO106", FATAL, _MAP, FaultKind.FDT_MAP_PROPERTY, Decision.REFUSES, Evidence.FDT)
def map_missing(case: Case) -> Iterator[Observation]:
    """The root has the property that points to the preserved-memory map.

    Matters: without it the next kernel finds no preserved page and drops the handover.
    Causes: an FDT that was never finalized.
    Enforced by: ``kho_get_mem_map_phys()`` in ``kho_populate()`` (7.1 to 7.3.4): "failed to get
    preserved memory map" (7.0: "memory bitmaps"), "disabling KHO revival" (seen in 7.3.4).
    """
    if case.handover.fdt.root.prop(MAP_PROPERTY) is None:
        yield case.in_fdt(f"{_REFUSED} property {MAP_PROPERTY!r} is missing, should be 8 bytes")


@rule("KHO107", FATAL, _MAP, FaultKind.FDT_MAP_PROPERTY, Decision.REFUSES, Evidence.FDT)
def map_missized(case: Case) -> Iterator[Observation]:
    """The map property is 8 bytes.

    Matters: the next kernel reads a u64 and drops the handover when the size is another.
    Causes: an ABI mix-up, or damage.
    Enforced by: ``kho_get_mem_map_phys()`` in ``kho_populate()`` (7.1 to 7.3.4): "failed to get
    preserved memory map" (7.0: "memory bitmaps"), "disabling KHO revival".
    """
    data = case.handover.fdt.root.prop(MAP_PROPERTY)
    if data is not None and len(data) != 8:
        words = f"{_REFUSED} property {MAP_PROPERTY!r} is {len(data)} bytes, should be 8"
        yield case.in_fdt(words, fdt_property(MAP_PROPERTY))


@rule("KHO108", FATAL, _MAP, Need.MAP, FaultKind.FDT_MAP_PROPERTY, Decision.REFUSES, Evidence.FDT)
def map_zero(case: Case) -> Iterator[Observation]:
    """The map property is not zero.

    Matters: zero is what the property holds before serialization; the handover is dropped.
    Causes: kexec without a finished serialization.
    Enforced by: ``kho_populate()`` (7.1 to 7.3.4): "disabling KHO revival", with no line before it.
    A kernel whose walk of the map fails boots, prints nothing, and every subsystem finds nothing
    (``kho_mem_retrieve()``). Only a map property that is refused here makes it fail.
    """
    if case.handover.fdt.memory_map == 0:
        words = f"{_REFUSED} property {MAP_PROPERTY!r} is zero, should be an address"
        yield case.in_fdt(words, fdt_property(MAP_PROPERTY))


@rule("KHO109", FATAL, _NOT_KEPT, Need.ABI, Need.TREE, Need.TRUSTED, Need.FDT_IN_MEMORY)
def fdt_unpreserved(case: Case) -> Iterator[Observation]:
    """The page of the root FDT is preserved.

    Matters: the next kernel uses the FDT until late in boot; unpreserved it is overwritten.
    Causes: a bit lost in the tree.
    Enforced by: no kernel checks this (7.1 to 7.3.4): ``kho_retrieve_subtree()`` reads the FDT
    until module init. Of one overwritten by then it gives -ENOENT, and all data is lost, or
    -EINVAL, on which LUO panics. ``kho_init()`` of the old kernel preserves the page.
    """
    handover = case.handover
    paddr = handover.fdt.paddr
    assert paddr is not None
    pfn = paddr >> handover.geometry.shift
    lost = intervals.covers(case.map.lost, pfn, pfn + 1)
    if not handover.preserved.covers(paddr, 1) and not lost:
        yield case.in_fdt(f"root FDT page at {paddr:#x} is not preserved")


@rule("KHO110", ERROR, "two users registered under one name: rename one")
def duplicate_names(case: Case) -> Iterator[Observation]:
    """Sub-node names are unique.

    Matters: ``kho_retrieve_subtree()`` finds the first of a name; the other's data is lost.
    Causes: a subsystem that registers twice.
    Enforced by: ``fdt_subnode_offset()`` in ``kho_retrieve_subtree()`` (7.1 to 7.3.4) takes the
    first, and prints nothing. ``kho_add_subtree()`` of the old kernel (7.3.4): -EEXIST.
    """
    for node, count in repeated(case.handover.fdt.root.children, lambda node: node.name):
        words = f"sub-node {node.name!r} is there {count} times, should be once"
        yield case.in_fdt(words, subnode(node.name))


@rule("KHO111", WARNING, "one of them points to the wrong blob", Need.ABI)
def duplicate_addresses(case: Case) -> Iterator[Observation]:
    """Sub-nodes point to different blobs.

    Matters: each of two owners of one blob frees or rewrites what the other still uses.
    Causes: a stale pointer, or damage.
    Enforced by: no kernel checks this (7.1 to 7.3.4). What stands there is of one kind: the other
    subsystem finds it incompatible, on which LUO panics (seen in 7.3.4).
    """
    names: dict[int, str] = {}
    for blob in case.handover.blobs:
        if blob.paddr is not None:
            first = names.setdefault(blob.paddr, blob.name)
            if first != blob.name:
                words = f"sub-nodes {first!r} and {blob.name!r} both point to {blob.paddr:#x}"
                yield in_blob(blob, words)


@rule("KHO112", INFO, "do dump and DTB belong together?", Need.ABI, Need.TRUSTED, About.CAPTURE)
def fdt_not_in_dump(case: Case) -> Iterator[Observation]:
    """The root FDT stands in the dump, byte for byte.

    Matters: if it does not, dump and DTB may be of different moments or machines.
    Causes: an FDT captured before the last sub-node was added; a dump without that page.
    Enforced by: no kernel; it concerns the capture.
    """
    root = case.handover.fdt
    if root.paddr is None and root.known:
        yield Observation(f"root FDT of {root.size} bytes was not found in the dump", None, ROOT)


@rule("KHO113", INFO, "what the other parts describe is shown")
def compatible_composite(case: Case) -> Iterator[Observation]:
    """All parts of a composite compatible string are known.

    Matters: in a composite (``kho-v4;radix-v1``), which is a proposal, each part has a version of
    its own; what a part describes that is not known cannot be followed.
    Causes: a development kernel.
    Enforced by: ``fdt_node_check_compatible()`` in ``kho_populate()`` (7.1 to 7.3.4) compares the
    whole string: "incompatible with", "disabling KHO revival" (KHO105 with --target).
    """
    root = case.handover.fdt
    if root.abi.unknown:
        parts = ", ".join(map(repr, root.abi.unknown))
        words = f"compatible is {root.compatible!r}, of which {parts} is not known"
        yield case.in_fdt(f"{words}; read as {root.abi.compatible}", fdt_property("compatible"))


@rule("KHO114", FATAL, _ENTRY, Need.FDT_IN_MEMORY, Need.TRUSTED, Decision.REFUSES)
def setup_data_wrong(case: Case) -> Iterator[Observation]:
    """The x86 setup_data entry names this root FDT, and a scratch table in RAM.

    Matters: the next kernel finds the handover by it alone. Copies of the entry may stand in
    RAM: the one in a scratch area, where kexec loads its segments, is in force; without such a
    one, all are. After several handovers stale entries are normal: a warning. An entry for a
    handover of which a kernel in the dump printed that it was given it has served its purpose.
    Causes: the entry was overwritten, or the root FDT moved.
    Enforced by: ``kho_populate()`` (7.1 to 7.3.4): "handover FDT (0x…) is invalid: -9" (seen in
    7.3.4), "failed to memremap FDT" or "failed to memremap scratch" for a size of 0 or over 256
    KiB, "disabling KHO revival". For a table shorter than an entry, or outside RAM, it stops later,
    without memory to boot in.
    """
    sound = case.missing.isdisjoint({Need.SCRATCH, Need.SOUND_SCRATCH})
    own, areas = case.handover.pointers, case.scratch.areas if sound else ()
    strays = [one for one in case.handover.strays if one.fdt not in case.handed]
    entries = [one for one in (*own, *strays) if one.fdt_size is not None]
    loaded = [
        one
        for one in entries
        if one.where.start % 4096 <= MAX_COMMAND_LINE
        and any(area.contains(one.where.start) for area in areas)
    ]
    older = any(data.kexec_count > 1 for _, data in case.contents(KexecMetadata))
    for one in loaded or own or entries:
        trouble, severity, evidence = _trouble(case, one), None, None
        if trouble is None and (trouble := _outside(case, one)):
            evidence = Evidence.RAM
        if one in strays:
            trouble = f"names an FDT at {one.fdt:#x}, should be {case.handover.fdt.paddr:#x}"
            severity, evidence = WARNING if older else None, None
        if trouble is not None:
            path = (Step(StepKind.POINTER, one.source),)
            words = f"{one.source} {trouble}"
            yield Observation(words, one.where.start, path, severity, one.fdt, evidence=evidence)


@CATALOGUE.needing(Need.FDT).fault_rule(
    "KHO115", WARNING, "give the DTB of that very boot", FaultKind.BOOT_DTB, About.CAPTURE
)
def boot_dtb_empty() -> None:
    """The boot DTB given with --boot-dtb names a handover.

    Matters: it has no scratch table then, and the dump's own table is read instead.
    Causes: the DTB of another boot, or as it was before kexec added to it.
    Enforced by: no kernel; it concerns the capture. ``early_init_dt_check_kho()`` (7.3.4) boots
    without KHO, and prints nothing, where either property is not one address and size.
    """


@rule("KHO116", ERROR, _NO_LUO, Need.TARGET, Subject.LUO, Evidence.READER)
def target_without_luo(case: Case) -> Iterator[Observation]:
    """The target has LUO, where the handover has.

    Matters: nothing reads the sessions, and their memory stays preserved for good.
    Causes: a kernel built without CONFIG_LIVEUPDATE.
    Enforced by: no kernel checks this (7.1 to 7.3.4): no code asks for the sub-node.
    """
    image = case.image
    if image is not None and case.consumer is image and not image.luo:
        yield Observation(f"{case.target_name} has no LUO: all sessions are lost", None, _LUO)


@rule(
    "KHO117", FATAL, _PAGES, Need.TARGET, Need.TREE, Need.TRUSTED, Decision.UNKNOWN, Evidence.READER
)
def page_size_not_targets(case: Case) -> Iterator[Observation]:
    """The target's pages are as large as those of the kernel that wrote the handover.

    Matters: every structure is a page, and an order counts pages: the target reads other memory
    than was written, and takes other memory for preserved. What follows depends on that memory.
    Causes: an update from a 4K to a 16K or 64K kernel of arm64.
    Enforced by: no kernel checks this (7.1 to 7.3.4). ``include/linux/kho/abi/block.h`` (7.2, 7.3):
    "live update between kernels with different page sizes is not supported by KHO".
    """
    geometry, image = case.handover.geometry, case.image
    if image is None or case.consumer is not image:
        return
    if image.page_shift is not None and image.page_shift != geometry.shift:
        size = human_size(1 << image.page_shift)
        words = f"pages are {human_size(geometry.page_size)}, those of {case.target_name} {size}"
        yield case.in_fdt(words)


@any_rule("KHO118", FATAL, _TARGETS, Decision.REFUSES, Evidence.LOG)
def kernel_refused(case: Case) -> Iterator[Observation]:
    """No kernel in the dump printed that it refuses the handover.

    Matters: that kernel came up without the data, or panicked: it is known, not inferred.
    Causes: kernels whose ABIs differ, or damage on the way; the line says which.
    Enforced by: the kernel whose log is quoted. Such lines are printed by ``kho_populate()``,
    ``kho_memory_init()`` and ``luo_early_startup()`` (6.18 to 7.3).
    """
    refusals = [one for one in case.printed if not one.accepted]
    root = None if case.opened is None else case.handover.fdt
    for one in refusals[:1]:
        told = f"of {one.before}, " if one.before else ""
        abi = root.compatible if root else one.writes
        place = one.fdt if one.fdt is not None or root is None else root.paddr
        at = "" if place is None else f" at {place:#x}"
        verb = "panicked over" if one.panicked else "refused"
        mine = f" (takes {one.takes})" if one.takes else ""
        words = f"Linux {one.release}{mine} {verb} the handover{at} ({told}{abi or 'ABI unknown'})"
        yield Observation(f'{words}: "{one.text}"', place, ROOT)


def _trouble(case: Case, entry: Pointer) -> str | None:
    """What is wrong with a setup_data entry besides the FDT that it names."""
    if entry.fdt_size is not None and not 0 < entry.fdt_size <= MAX_MAPPED:
        return f"says that the FDT is {human_size(entry.fdt_size)}, should be one page"
    # KHO304 looks at the table that was read.
    size, own = entry.scratch.size, case.handover.scratch
    if (own is None or own.table != entry.scratch) and not 16 <= size <= MAX_MAPPED:
        return f"says that the scratch table is {human_size(size)}, should be some entries"
    return None


def _outside(case: Case, entry: Pointer) -> str | None:
    """The same of its scratch table, where a dump that lacks RAM may be why."""
    table, own = entry.scratch, case.handover.scratch
    if (own is None or own.table != table) and not case.in_ram(table.start):
        return f"names a scratch table at {table.start:#x}, outside the memory of the dump"
    return None
