"""KHO1xx: the root FDT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kho_inspect.abi import ABIS, MAP_PROPERTY, nearest_abi
from kho_inspect.errors import TruncatedFdtError
from kho_inspect.rules.base import Catalogue, Found, Need, Severity
from kho_inspect.rules.case import Case
from kho_inspect.units import human_size, plural

CATALOGUE = Catalogue()
rule = CATALOGUE.rule

_CAPTURE = "capture kho/in/fdt of the next kernel's debugfs, or find it with a scan of the dump"


@rule("KHO101", Severity.FATAL, _CAPTURE)
def fdt_invalid(case: Case) -> Iterator[Found]:
    """The root FDT is a well-formed device tree.

    Matters: the next kernel checks the header before anything else and drops the handover.
    Causes: the page was overwritten between serialization and the jump, or the capture is torn.
    Enforced by: ``fdt_check_header()`` in ``kho_populate()``: "disabling KHO revival".
    """
    error = case.fdt_error
    if error is not None and not isinstance(error, TruncatedFdtError):
        yield Found(f"disabling KHO revival: invalid FDT ({error.message})", None, "/")


@rule("KHO102", Severity.FATAL, _CAPTURE)
def fdt_truncated(case: Case) -> Iterator[Found]:
    """The file holds the whole root FDT.

    Matters: the missing end names sub-nodes; nothing can be judged without it.
    Causes: debugfs ``kho/out/fdt`` is exposed with the size it had at boot. Where the dump holds
    the whole FDT it is taken from there, and this is for information only.
    Enforced by: no kernel; it concerns the capture, not the handover.
    """
    if isinstance(case.fdt_error, TruncatedFdtError):
        yield Found(case.fdt_error.message, None, "/")
    elif case.handover is not None and case.handover.fdt.recovery:
        root = case.handover.fdt
        yield Found(root.recovery or "", root.paddr, "/", Severity.INFO)


@rule("KHO103", Severity.FATAL, "find out what adds so many sub-nodes", Need.FDT)
def fdt_oversized(case: Case) -> Iterator[Found]:
    """The root FDT fits into one page.

    Matters: the writer allots exactly one page and the next kernel maps and preserves one page:
    whatever stands beyond it is somebody else's memory.
    Causes: too many or too long sub-nodes, or a damaged totalsize.
    Enforced by: the page-sized buffer of ``fdt_create()`` in the old kernel; not by the next one.
    """
    handover = case.there
    if handover.fdt.size > handover.source.page_size:
        yield Found(
            f"root FDT is {handover.fdt.size} bytes, should be at most one page of "
            f"{human_size(handover.source.page_size)}",
            handover.fdt.paddr,
            "/",
        )


@rule("KHO104", Severity.FATAL, "boot a kernel of the same KHO ABI", Need.FDT)
def compatible_unknown(case: Case) -> Iterator[Found]:
    """The root's compatible string is an ABI that some kernel speaks.

    Matters: a kernel accepts exactly its own string and drops everything else.
    Causes: a development kernel, a downstream ABI, or damage.
    Enforced by: ``fdt_node_check_compatible()`` in ``kho_populate()``: "disabling KHO revival".
    """
    root = case.there.fdt
    if not root.known:
        known = ", ".join(abi.compatible for abi in ABIS)
        nearest = nearest_abi(root.compatible).compatible
        yield Found(
            f"compatible is {root.compatible!r}, should be one of {known} "
            f"(nearest: {nearest}; --assume-abi reads it as that)",
            root.paddr,
            "/compatible",
        )


@rule("KHO105", Severity.FATAL, "boot a kernel whose KHO ABI is the same", Need.FDT, Need.TARGET)
def compatible_not_targets(case: Case) -> Iterator[Found]:
    """The root's compatible string is the target kernel's.

    Matters: the ABI has no backward compatibility; the target drops the handover.
    Causes: a live update across an ABI bump.
    Enforced by: ``fdt_node_check_compatible()`` in ``kho_populate()``: "disabling KHO revival".
    """
    root, target = case.there.fdt, case.target
    if target is not None and root.compatible != target.compatible:
        yield Found(
            f"disabling KHO revival: incompatible with {target.compatible!r} "
            f"(compatible is {root.compatible!r}, target {case.target_name})",
            root.paddr,
            "/compatible",
        )


_MAP = "the old kernel never finished serializing, or the FDT was overwritten: capture both again"


@rule("KHO106", Severity.FATAL, _MAP, Need.FDT)
def map_missing(case: Case) -> Iterator[Found]:
    """The root has the property that points to the preserved-memory map.

    Matters: without it the next kernel knows of no preserved page and drops the handover.
    Causes: an FDT that was never finalized.
    Enforced by: ``kho_populate()``: "disabling KHO revival".
    """
    if case.there.fdt.root.prop(MAP_PROPERTY) is None:
        yield Found(
            f"disabling KHO revival: property {MAP_PROPERTY!r} is missing, should be 8 bytes",
            case.there.fdt.paddr,
            "/",
        )


@rule("KHO107", Severity.FATAL, _MAP, Need.FDT)
def map_missized(case: Case) -> Iterator[Found]:
    """The map property is 8 bytes.

    Matters: the next kernel reads a u64 and drops the handover when the size is another.
    Causes: an ABI mix-up, or damage.
    Enforced by: ``kho_populate()``: "disabling KHO revival".
    """
    data = case.there.fdt.root.prop(MAP_PROPERTY)
    if data is not None and len(data) != 8:
        yield Found(
            f"disabling KHO revival: property {MAP_PROPERTY!r} is {len(data)} bytes, should be 8",
            case.there.fdt.paddr,
            f"/{MAP_PROPERTY}",
        )


@rule("KHO108", Severity.FATAL, _MAP, Need.FDT)
def map_zero(case: Case) -> Iterator[Found]:
    """The map property is not zero.

    Matters: zero is what the property holds before serialization; the handover is dropped.
    Causes: kexec without a finished serialization.
    Enforced by: ``kho_populate()``: "disabling KHO revival".
    """
    if case.there.fdt.memory_map == 0:
        yield Found(
            f"disabling KHO revival: property {MAP_PROPERTY!r} is zero, should be an address",
            case.there.fdt.paddr,
            f"/{MAP_PROPERTY}",
        )


@rule(
    "KHO109",
    Severity.FATAL,
    "a bug in the old kernel's kho_init(), or a bit lost in the tree",
    Need.FDT,
    Need.ABI,
    Need.TREE,
    Need.TRUSTED,
    Need.FDT_IN_MEMORY,
)
def fdt_unpreserved(case: Case) -> Iterator[Found]:
    """The page of the root FDT is preserved.

    Matters: the next kernel uses the FDT until late in boot; unpreserved it is overwritten.
    Causes: a bit lost in the tree.
    Enforced by: nobody; ``kho_init()`` of the old kernel preserves the page.
    """
    handover = case.there
    paddr = handover.fdt.paddr
    assert paddr is not None
    pfn = paddr >> handover.geometry.shift
    if not handover.preserved.covers(paddr, 1) and not _is_lost(case, pfn):
        yield Found(f"root FDT page at {paddr:#x} is not preserved", paddr, "/")


def _is_lost(case: Case, pfn: int) -> bool:
    return any(start <= pfn < end for start, end in zip(*case.lost, strict=True))


@rule("KHO110", Severity.ERROR, "two users registered under one name: rename one", Need.FDT)
def duplicate_names(case: Case) -> Iterator[Found]:
    """Sub-node names are unique.

    Matters: ``kho_retrieve_subtree()`` finds the first of a name; the other's data is lost.
    Causes: a subsystem that registers twice.
    Enforced by: ``kho_add_subtree()`` of the old kernel; not by the next one.
    """
    counts = Counter(node.name for node in case.there.fdt.root.children)
    for name, count in counts.items():
        if count > 1:
            yield Found(
                f"sub-node {name!r} is there {count} times, should be once",
                case.there.fdt.paddr,
                f"/{name}",
            )


@rule("KHO111", Severity.WARNING, "one of them points to the wrong blob", Need.FDT, Need.ABI)
def duplicate_addresses(case: Case) -> Iterator[Found]:
    """Sub-nodes point to different blobs.

    Matters: two owners of one blob free or rewrite it under each other's feet.
    Causes: a stale pointer, or damage.
    Enforced by: nobody.
    """
    seen: dict[int, str] = {}
    for blob in case.there.blobs:
        if blob.paddr is None:
            continue
        first = seen.setdefault(blob.paddr, blob.name)
        if first != blob.name:
            yield Found(
                f"sub-nodes {first!r} and {blob.name!r} both point to {blob.paddr:#x}",
                blob.paddr,
                f"/{blob.name}",
            )


@rule("KHO112", Severity.INFO, "do dump and DTB belong together?", Need.FDT, Need.ABI, Need.TRUSTED)
def fdt_not_in_dump(case: Case) -> Iterator[Found]:
    """The root FDT stands in the dump, byte for byte.

    Matters: if it does not, dump and DTB may be of different moments or machines.
    Causes: an FDT captured before the last sub-node was added; a dump without that page.
    Enforced by: nobody; it concerns the capture.
    """
    if case.there.fdt.paddr is None and case.there.fdt.known:
        yield Found(f"root FDT of {case.there.fdt.size} bytes was not found in the dump", None, "/")


@rule("KHO113", Severity.INFO, "nothing to do, if the rest reads well", Need.FDT)
def compatible_composite(case: Case) -> Iterator[Found]:
    """The compatible string is one name, not a composite.

    Matters: a composite (``kho-v4;radix-v1``) is a proposal; it was read by its first known part.
    Causes: a development kernel.
    Enforced by: ``fdt_node_check_compatible()``: kernels of today compare the whole string.
    """
    root = case.there.fdt
    if root.known and not root.assumed and root.compatible != root.abi.compatible:
        parts = plural(len(root.compatible.split(";")), "part")
        yield Found(
            f"compatible is {root.compatible!r}, {parts}; read as {root.abi.compatible}",
            root.paddr,
            "/compatible",
        )
