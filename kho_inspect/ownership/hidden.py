"""What was not followed and may own memory: while there is any, unclaimed memory is no leak."""

from collections.abc import Iterable, Iterator

from kho_inspect.model.claims import Hidden
from kho_inspect.model.faults import BAD_POINTERS, Fault, FaultKind
from kho_inspect.model.handover import Blob, RootFdt
from kho_inspect.model.identity import Path, Step, StepKind
from kho_inspect.model.preserved import Preserved

MAX_HIDDEN = 256
"""Reasons that are kept: a single one decides."""

_LEAVES_CLAIMS = frozenset(
    (
        *BAD_POINTERS,
        FaultKind.NODE_NOT_STORED,
        FaultKind.FDT_MAP_PROPERTY,
        FaultKind.BOOT_DTB,
        FaultKind.CHUNK_COUNT,
        FaultKind.CHUNK_ORDER,
        FaultKind.CHUNK_START,
        FaultKind.KEY_NO_ORDER,
        FaultKind.KEY_ORDER_TOO_HIGH,
        FaultKind.ORDER0_LOST,
        FaultKind.DUMP_INCOMPLETE,
    )
)
"""Damage that leaves every structure readable from which memory gets its owner."""


def hidden_owners(
    root: RootFdt, blobs: Iterable[Blob], preserved: Preserved, faults: Iterable[Fault]
) -> tuple[Hidden, ...]:
    """Each distinct reason once, with the first place where it holds, up to MAX_HIDDEN."""
    found: dict[object, Hidden] = {}
    for reason in _reasons(root, blobs, preserved, faults):
        found.setdefault(reason.message, reason)
        if len(found) == MAX_HIDDEN:
            break
    return tuple(found.values())


def undecoded(blobs: Iterable[Blob]) -> Iterator[tuple[str, Path]]:
    """Words and path of each blob that is stored and that no decoder reads."""
    for blob in blobs:
        if blob.stored and blob.content is None:
            yield f"sub-node {blob.name!r}", (Step(StepKind.SUBNODE, blob.name),)


def _reasons(
    root: RootFdt, blobs: Iterable[Blob], preserved: Preserved, faults: Iterable[Fault]
) -> Iterator[Hidden]:
    blobs = tuple(blobs)
    if not root.known:
        yield Hidden(f"the ABI {root.compatible!r} is unknown", (Step(StepKind.FDT),))
    for what, path in undecoded(blobs):
        yield Hidden(f"{what} is not decoded", path)
    for blob in blobs:
        if blob.content is not None:
            path = (Step(StepKind.SUBNODE, blob.name),)
            yield from (Hidden(*one) for one in blob.content.hidden(preserved, path))
    if root.paddr is None:
        yield Hidden("the root FDT was not found in the dump", (Step(StepKind.FDT),))
    for fault in faults:
        if fault.kind not in _LEAVES_CLAIMS:
            yield Hidden(fault.message, fault.path)
