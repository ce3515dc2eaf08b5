"""Reading the KHO root FDT from its file, completed from the dump when it is cut short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kho_inspect import fdt
from kho_inspect.abi import ABIS, BY_COMPATIBLE, MAP_PROPERTY, find_abi, nearest_abi
from kho_inspect.errors import (
    FdtError,
    NotAHandoverError,
    TruncatedFdtError,
    UnknownAbiError,
    UnreadableInputError,
)
from kho_inspect.limits import DEFAULT_LIMITS
from kho_inspect.locate import scan
from kho_inspect.memory import PhysicalMemory
from kho_inspect.memory.files import read_head
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import RootFdt

HOW_TO_CAPTURE = (
    "debugfs kho/out/fdt keeps its boot-time size: take kho/in/fdt in the next kernel instead"
)


def read_root_fdt(
    path: str,
    memory: PhysicalMemory,
    assume_abi: str | None = None,
    *,
    accept_unknown: bool = False,
    limit: int = DEFAULT_LIMITS.fdt,
) -> RootFdt:
    """The KHO root FDT in the file ``path``, completed from ``memory`` when it is cut short.

    ``limit`` is the most bytes that it may have.

    Raises UnreadableInputError, FdtError (TruncatedFdtError when nothing completes it),
    NotAHandoverError, and UnknownAbiError unless ``accept_unknown``.
    """
    data = read_head(path, limit)
    if not data:
        raise UnreadableInputError(f"{path} is empty", hint=HOW_TO_CAPTURE, source=path)
    found: scan.FoundFdt | None = None
    recovery = boot_dtb = None
    try:
        root = fdt.parse(data, source=path, limit=limit)
    except TruncatedFdtError as error:
        found, recovery = _recover(path, data, memory, error)
    except FdtError as error:
        hint = None
        if error.offset == 0:
            hint = "the order is: kho-inspect DUMP DTB"
        raise FdtError(
            f"{path}: {error.message}", offset=error.offset, hint=hint, source=path
        ) from error
    else:
        if not _is_kho_root(root):
            found, recovery = _follow_chosen(path, root, memory)
            boot_dtb = path
    if found is not None:
        data, root = found.data, found.root
    described = _describe(path, data, root, assume_abi, accept_unknown)
    if found is None:
        return described
    return replace(
        described, recovered=True, recovery=recovery, paddr=found.paddr, boot_dtb=boot_dtb
    )


def locate_root_fdt(
    memory: PhysicalMemory,
    assume_abi: str | None = None,
    *,
    progress: Callable[[int], None] = lambda size: None,
) -> RootFdt:
    """The most credible root FDT that stands in the dump itself.

    Raises NotAHandoverError when there is none, UnknownAbiError as :func:`read_root_fdt` does.
    """
    found = scan.locate(memory, progress).fdts
    if not found:
        raise NotAHandoverError(
            f"{memory.path} holds no KHO root FDT",
            hint="give it as DTB: debugfs kho/in/fdt of the next kernel",
            source=memory.path,
        )
    best = found[0]
    more = f", the best of {len(found)}" if len(found) > 1 else ""
    recovery = f"found in the dump at {best.paddr:#x}{more}: {best.why}"
    described = _describe(memory.path, best.data, best.root, assume_abi, False)
    return replace(described, recovered=True, recovery=recovery, paddr=best.paddr)


def _describe(
    path: str, data: bytes, root: FdtNode, assume_abi: str | None, accept_unknown: bool
) -> RootFdt:
    compatible = root.string("compatible") or ""
    abi = BY_COMPATIBLE.get(assume_abi) if assume_abi else find_abi(compatible)
    if abi is None and not accept_unknown:
        known = ", ".join(row.compatible for row in ABIS)
        nearest = nearest_abi(compatible).compatible
        raise UnknownAbiError(
            f"{path}: compatible is {compatible!r}, which is none of {known}",
            hint=f"the nearest is {nearest}: read it as that with --assume-abi {nearest}",
            source=path,
        )
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
        recovered=False,
        recovery=None,
        paddr=None,
    )


def _is_kho_root(root: FdtNode) -> bool:
    compatible = root.string("compatible") or ""
    return compatible.startswith("kho-") or root.prop(MAP_PROPERTY) is not None


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
        others = f", the best of {len(candidates)} copies" if len(candidates) > 1 else ""
        return best, (
            f"{path} holds only {error.have} of {error.totalsize} bytes (debugfs kho/out/fdt does "
            f"that); the whole FDT was found in the dump at {best.paddr:#x}{others}"
        )
    strangers = scan.locate(memory).fdts
    listed = ", ".join(f"{other.paddr:#x} ({other.compatible})" for other in strangers[:4])
    raise TruncatedFdtMissingError(path, error, listed) from error


class TruncatedFdtMissingError(TruncatedFdtError):
    """The DTB is truncated and the dump holds no FDT that continues it."""

    def __init__(self, path: str, error: TruncatedFdtError, listed: str) -> None:
        super().__init__(totalsize=error.totalsize, have=error.have, source=path)
        self.message = (
            f"{path}: {self.message}, and the dump has no FDT that starts with them; "
            f"root FDTs in the dump: {listed or 'none'}"
        )
        self.hint = HOW_TO_CAPTURE
