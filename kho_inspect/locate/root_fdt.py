"""Reading the KHO root FDT from its file, completed from the dump when it is cut short."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np

from kho_inspect import fdt, intervals
from kho_inspect.abi import BY_COMPATIBLE, MAP_PROPERTY, ROOT_FDT_NAMES, find_abi, nearest_abi
from kho_inspect.errors import (
    FdtError,
    LostHandoverError,
    NotAHandoverError,
    TruncatedFdtError,
    unreadable,
)
from kho_inspect.intervals import Intervals
from kho_inspect.limits import DEFAULT_LIMITS
from kho_inspect.locate import scan
from kho_inspect.memory import PhysicalMemory, read_or_none
from kho_inspect.memory.files import read_head, shown_path
from kho_inspect.memory.recording import unrecorded
from kho_inspect.model.fdt_node import FdtNode, FdtStart
from kho_inspect.model.handover import Role, RootFdt
from kho_inspect.units import PhysAddr, plural

Wanted: TypeAlias = str | PhysAddr | Callable[[scan.FoundFdt], bool]

BATCH = 4096
MAX_PAGES = 16 * BATCH
"""Pages that are compared with the root FDT."""
MAX_NAMED = 16
"""Sub-nodes of a part of a root FDT that are named."""
MAX_STOOD = 4
"""Places without a root FDT that are named."""
HOW_TO_CAPTURE = (
    "debugfs kho/out/fdt keeps its boot-time size: take kho/in/fdt in the next kernel instead"
)


def read_root_fdt(
    path: str,
    memory: PhysicalMemory,
    assume_abi: str | None = None,
    limit: int = DEFAULT_LIMITS.fdt,
) -> RootFdt:
    """The KHO root FDT in the file ``path``, completed from ``memory`` when it is cut short.

    ``path`` is what ``read_head`` takes, ``limit`` the most bytes that it may have.
    Raises UnreadableInputError, FdtError (TruncatedFdtError when nothing completes it) and
    NotAHandoverError.
    """
    data = read_head(path, limit)
    path = shown_path(path)
    if not data:
        raise unreadable(path, "is empty", HOW_TO_CAPTURE)
    found: scan.FoundFdt | None = None
    recovery = boot_dtb = paddr = start = None
    try:
        root = fdt.parse(data, source=path, limit=limit)
    except TruncatedFdtError as error:
        copies = scan.find_copies(memory, data)
        if copies and copies[0].start is None:
            found, recovery = copies[0], _completed(path, copies, error)
        else:
            start = _longest_start(path, data, memory, copies, error)
            root = start.root
    except FdtError as error:
        hint = "the order is: kho-inspect DUMP DTB" if error.offset == 0 else None
        bad = FdtError(f"{path}: {error.message}", offset=error.offset, hint=hint, source=path)
        bad.data = data
        raise bad from error
    else:
        is_kho = any(text.startswith("kho-") for text in root.strings("compatible"))
        if not is_kho and root.prop(MAP_PROPERTY) is None:
            found, recovery = _follow_chosen(path, root, memory)
            boot_dtb = path
    if found is not None:
        data, root, paddr = found.data, found.root, found.paddr
    return _describe(
        path, data, root, assume_abi, recovery=recovery, paddr=paddr, boot_dtb=boot_dtb, start=start
    )


def locate_root_fdt(
    memory: PhysicalMemory,
    located: scan.Located,
    assume_abi: str | None = None,
    wanted: Wanted = "auto",
    handed: Collection[PhysAddr] = (),
) -> RootFdt:
    """The root FDT that stands in the dump itself.

    ``wanted`` is ``auto``, ``incoming``, ``outgoing``, its address, or a test of it. ``handed``:
    where kernels say that they were given one. By itself the incoming one is taken, whole or what
    is left of it.
    Raises NotAHandoverError when there is none, LostHandoverError when nothing is left.
    """
    best = _choose(memory, located, wanted, handed)
    named = isinstance(wanted, str) and wanted != "auto"
    at = f" at {wanted:#x}" if isinstance(wanted, int) else ""
    if best is None:
        of_kind = f"{wanted} " if named else ""
        raise NotAHandoverError(
            f"{memory.path} holds no {of_kind}KHO root FDT{at}",
            hint="kho-inspect locate DUMP lists them"
            if named or at
            else "give it as DTB: debugfs kho/in/fdt of the next kernel; without it log prints "
            "what kernels said, and carve finds files by their contents",
            source=memory.path,
        )
    more = f", the best of {len(located.fdts)}" if len(located.fdts) > 1 else ""
    if named or at:
        more = f", chosen with --root, of {len(located.fdts)}"
    recovery = f"found in the dump at {best.paddr:#x}{more}: {best.why}"
    return _describe(
        memory.path,
        best.data,
        best.root,
        assume_abi,
        recovery=recovery,
        paddr=None if best.start else best.paddr,
        start=best.start,
    )


def _choose(
    memory: PhysicalMemory, located: scan.Located, wanted: Wanted, handed: Collection[PhysAddr]
) -> scan.FoundFdt | None:
    if callable(wanted):
        return next((found for found in located.whole if wanted(found)), None)
    if isinstance(wanted, int):
        known = (found for found in located.fdts if found.paddr == wanted)
        return next(known, None) or scan.read_root(memory, wanted)
    if wanted == Role.OUTGOING:
        return next(located.of_role(Role.OUTGOING), None)
    incoming = next(located.of_role(Role.INCOMING), None)
    if incoming is not None:
        return incoming
    left = _left(located)
    gone = [place.paddr for place in located.vacated]
    gone += [found.paddr for found in left if found.pointers]
    evident = left or not set(gone).isdisjoint(handed)
    if wanted == Role.INCOMING or (gone and evident):
        if gone and not left:
            outgoing = next(located.of_role(Role.OUTGOING), None)
            raise LostHandoverError(
                f"{memory.path}: {'; '.join(stood_words(located))}",
                hint=f"--root outgoing takes the one at {outgoing.paddr:#x}" if outgoing else None,
                paddr=located.vacated[0].paddr,
                source=memory.path,
            )
        return left[0] if gone else None
    return located.fdts[0] if located.fdts else None


def _left(located: scan.Located) -> list[scan.FoundFdt]:
    """Parts of root FDTs that are no copies of the beginning of a whole one."""
    whole = [found.data for found in located.whole]
    parts = located.of_role(Role.PARTIAL)
    return sorted(
        (part for part in parts if not any(data.startswith(part.data) for data in whole)),
        key=lambda part: (not part.pointers, -len(part.data)),
    )


def stood_words(located: scan.Located) -> list[str]:
    """Where the incoming root FDT stood, by what points there, for people."""
    return [
        f"incoming root FDT at {place.paddr:#x}, named by {', '.join(place.pointers)}, "
        "is no longer there"
        for place in located.vacated[:MAX_STOOD]
    ]


def _known(root: RootFdt) -> Iterator[str]:
    """What the part of a root FDT that stands says."""
    yield root.compatible
    if root.memory_map:
        yield f"map root {root.memory_map:#x}"
    for node in root.root.children[:MAX_NAMED]:
        paddr = node.u64(root.abi.blob_property)
        size = node.u64(root.abi.blob_size_property or "")
        at = "address missing" if paddr is None else f"at {paddr:#x}"
        yield f"sub-node {node.name!r} {at}" + (
            "" if size is None else f" ({plural(size, 'byte')})"
        )
    if len(root.root.children) > MAX_NAMED:
        yield f"{len(root.root.children) - MAX_NAMED} sub-nodes more"


def notes_on(root: RootFdt, located: scan.Located) -> tuple[str, ...]:
    """For people: what a root FDT of the dump lacks, where it stood, and which others there are."""
    notes = []
    if root.start:
        notes.append(
            f"the root FDT is known in part, {root.start.words}: {', '.join(_known(root))}"
        )
        notes += stood_words(located)
    elif not root.recovered:
        return ()
    for role in (Role.INCOMING, Role.OUTGOING):
        other = next(located.of_role(role), None)
        mine = next((found.role for found in located.fdts if found.paddr == root.paddr), None)
        if other is not None and other.paddr != root.paddr and mine is not role:
            notes.append(
                f"an {role} root FDT is in the dump too, {other.compatible} at {other.paddr:#x}: "
                f"--root {role}"
            )
    if not root.start and not any(located.of_role(Role.INCOMING)):
        notes += stood_words(located)
    return tuple(notes)


def _describe(
    path: str,
    data: bytes,
    root: FdtNode,
    assume_abi: str | None,
    *,
    recovery: str | None = None,
    paddr: PhysAddr | None = None,
    boot_dtb: str | None = None,
    start: FdtStart | None = None,
) -> RootFdt:
    first = root.string("compatible") or ""
    compatible, abi = find_abi(root.strings("compatible")) or (first, None)
    if assume_abi:
        abi = BY_COMPATIBLE.get(assume_abi)
    size = fdt.total_size(data) or 0
    return RootFdt(
        path=path,
        compatible=compatible,
        abi=abi or nearest_abi(compatible),
        assumed=assume_abi is not None,
        known=abi is not None,
        memory_map=root.u64(MAP_PROPERTY),
        size=size,
        data=data[:size],
        root=root,
        recovered=recovery is not None,
        recovery=recovery,
        paddr=paddr,
        boot_dtb=boot_dtb,
        start=start,
    )


def _follow_chosen(path: str, root: FdtNode, memory: PhysicalMemory) -> tuple[scan.FoundFdt, str]:
    """The root FDT that a boot DTB's /chosen points to."""
    pointer = scan.chosen_pointer(root, path)
    if pointer is None:
        raise NotAHandoverError(
            f"{path} is a device tree but no KHO root: compatible is "
            f"{root.string('compatible')!r}, and there is no {MAP_PROPERTY!r}",
            hint="the KHO root FDT is debugfs kho/in/fdt of the next kernel",
            source=path,
        )
    found = scan.read_root(memory, pointer.fdt)
    if found is None:
        raise NotAHandoverError(
            f"{path} is a boot DTB; its /chosen points to {pointer.fdt:#x}, where the dump has no "
            "KHO root FDT",
            hint="do dump and DTB belong together? if RAM does not start at 0: --base or --map",
            paddr=pointer.fdt,
            source=path,
        )
    return found, f"{path} is a boot DTB: its /chosen points to the root FDT at {found.paddr:#x}"


def _completed(path: str, copies: Sequence[scan.FoundFdt], error: TruncatedFdtError) -> str:
    """How the whole FDT was had of which the file holds only the start."""
    whole = [copy for copy in copies if copy.start is None]
    more = f", the best of {len(whole)} copies" if len(whole) > 1 else ""
    return (
        f"{path} holds only {error.have} of {error.totalsize} bytes (debugfs kho/out/fdt does "
        f"that); the whole FDT was found in the dump at {whole[0].paddr:#x}{more}"
    )


def _longest_start(
    path: str,
    data: bytes,
    memory: PhysicalMemory,
    parts: Sequence[scan.FoundFdt],
    error: TruncatedFdtError,
) -> FdtStart:
    """What stands in the file, or in a part of a copy in the dump where that is more."""
    try:
        own = fdt.parse_start(data, ROOT_FDT_NAMES, source=path)
    except FdtError:
        own = None
    starts = [*filter(None, [own]), *(part.start for part in parts if part.start)]
    longest = max(starts, key=lambda start: start.have, default=None)
    # Without its ABI nothing follows from it.
    if longest is not None and find_abi(longest.root.strings("compatible")):
        return longest
    others = scan.locate(memory).fdts
    listed = ", ".join(f"{other.paddr:#x} ({other.compatible})" for other in others[:4])
    error.message = (
        f"{path}: {error.message}, and the dump has no FDT that starts with them; "
        f"root FDTs in the dump: {listed or 'none'}"
    )
    error.hint = HOW_TO_CAPTURE
    error.data = data
    raise error


def find_page(
    memory: PhysicalMemory, pages: Intervals, page_shift: int, data: bytes
) -> PhysAddr | None:
    """The first of ``pages`` (page frames) that begins with ``data``, at least 8 bytes.

    Gives up after :data:`MAX_PAGES`.
    """
    memory = unrecorded(memory)
    first = np.frombuffer(data, dtype="<u8", count=1)
    # As many runs as pages, and no more, are enough.
    runs = pages[0][:MAX_PAGES], pages[1][:MAX_PAGES]
    for pfns in islice(intervals.points(runs, BATCH), MAX_PAGES // BATCH):
        batch = pfns.astype(np.uint64) << np.uint64(page_shift)
        batch = batch[memory.stored_mask(batch, first.itemsize)]
        for paddr in batch[memory.gather(batch, first.dtype) == first].tolist():
            if bytes(read_or_none(memory, paddr, len(data)) or b"") == data:
                return int(paddr)
    return None
