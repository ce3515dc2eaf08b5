"""Reading the KHO root FDT from its file, completed from the dump when it is cut short."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np

from kho_inspect import fdt, intervals
from kho_inspect.abi import BY_COMPATIBLE, MAP_PROPERTY, find_abi, nearest_abi
from kho_inspect.errors import (
    FdtError,
    MissingMemoryError,
    NotAHandoverError,
    TruncatedFdtError,
    UnreadableInputError,
)
from kho_inspect.intervals import Intervals
from kho_inspect.limits import DEFAULT_LIMITS
from kho_inspect.locate import scan
from kho_inspect.memory import PhysicalMemory
from kho_inspect.memory.files import read_head
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import RootFdt
from kho_inspect.units import PhysAddr

BATCH = 4096
MAX_PAGES = 16 * BATCH
"""Pages that are compared with the root FDT."""
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

    ``limit`` is the most bytes that it may have.

    Raises UnreadableInputError, FdtError (TruncatedFdtError when nothing completes it) and
    NotAHandoverError.
    """
    data = read_head(path, limit)
    if not data:
        raise UnreadableInputError(f"{path} is empty", hint=HOW_TO_CAPTURE, source=path)
    found: scan.FoundFdt | None = None
    recovery = boot_dtb = paddr = None
    try:
        root = fdt.parse(data, source=path, limit=limit)
    except TruncatedFdtError as error:
        found, recovery = _recover(path, data, memory, error)
    except FdtError as error:
        hint = "the order is: kho-inspect DUMP DTB" if error.offset == 0 else None
        raise FdtError(
            f"{path}: {error.message}", offset=error.offset, hint=hint, source=path
        ) from error
    else:
        is_kho = any(text.startswith("kho-") for text in root.strings("compatible"))
        if not is_kho and root.prop(MAP_PROPERTY) is None:
            found, recovery = _follow_chosen(path, root, memory)
            boot_dtb = path
    if found is not None:
        data, root, paddr = found.data, found.root, found.paddr
    return _describe(
        path, data, root, assume_abi, recovery=recovery, paddr=paddr, boot_dtb=boot_dtb
    )


def locate_root_fdt(
    memory: PhysicalMemory,
    assume_abi: str | None = None,
    progress: Callable[[int], None] = lambda size: None,
    wanted: Callable[[scan.FoundFdt], bool] = lambda found: True,
) -> tuple[RootFdt, scan.Located]:
    """The most credible root FDT that is wanted in the dump itself, and all that was found.

    Raises NotAHandoverError when there is none.
    """
    located = scan.locate(memory, progress)
    found = [one for one in located.fdts if wanted(one)]
    if not found:
        raise NotAHandoverError(
            f"{memory.path} holds no KHO root FDT",
            hint="give it as DTB: debugfs kho/in/fdt of the next kernel",
            source=memory.path,
        )
    best = found[0]
    more = f", the best of {len(found)}" if len(found) > 1 else ""
    recovery = f"found in the dump at {best.paddr:#x}{more}: {best.why}"
    root = _describe(
        memory.path, best.data, best.root, assume_abi, recovery=recovery, paddr=best.paddr
    )
    return root, located


def _describe(
    path: str,
    data: bytes,
    root: FdtNode,
    assume_abi: str | None,
    *,
    recovery: str | None = None,
    paddr: PhysAddr | None = None,
    boot_dtb: str | None = None,
) -> RootFdt:
    compatible, abi = find_abi(root.strings("compatible")) or (
        root.string("compatible") or "",
        None,
    )
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


def _recover(
    path: str, prefix: bytes, memory: PhysicalMemory, error: TruncatedFdtError
) -> tuple[scan.FoundFdt, str]:
    """The whole FDT of which the file holds only the start, out of the dump."""
    candidates = scan.find_copies(memory, prefix)
    if candidates:
        best = candidates[0]
        more = f", the best of {len(candidates)} copies" if len(candidates) > 1 else ""
        return best, (
            f"{path} holds only {error.have} of {error.totalsize} bytes (debugfs kho/out/fdt does "
            f"that); the whole FDT was found in the dump at {best.paddr:#x}{more}"
        )
    others = scan.locate(memory).fdts
    listed = ", ".join(f"{other.paddr:#x} ({other.compatible})" for other in others[:4])
    error.message = (
        f"{path}: {error.message}, and the dump has no FDT that starts with them; "
        f"root FDTs in the dump: {listed or 'none'}"
    )
    error.hint = HOW_TO_CAPTURE
    raise error


def find_page(
    memory: PhysicalMemory, pages: Intervals, page_shift: int, data: bytes
) -> PhysAddr | None:
    """The first of ``pages`` (page frames) that begins with ``data``, at least 8 bytes.

    Gives up after :data:`MAX_PAGES`.
    """
    first = np.frombuffer(data, dtype="<u8", count=1)
    # As many runs as pages, and no more, are enough.
    runs = pages[0][:MAX_PAGES], pages[1][:MAX_PAGES]
    for pfns in islice(intervals.points(runs, BATCH), MAX_PAGES // BATCH):
        batch = pfns.astype(np.uint64) << np.uint64(page_shift)
        batch = batch[memory.stored_mask(batch, first.itemsize)]
        for paddr in batch[memory.gather(batch, first.dtype) == first].tolist():
            try:
                if memory.read(paddr, len(data)) == data:
                    return int(paddr)
            except MissingMemoryError:
                continue
    return None
