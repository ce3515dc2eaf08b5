"""Reading the KHO root FDT from its file, completed from the dump when it is cut short."""

from __future__ import annotations

from kho_inspect import fdt, locate
from kho_inspect.abi import ABIS, BY_COMPATIBLE, MAP_PROPERTY, Abi, find_abi, nearest_abi
from kho_inspect.errors import (
    FdtError,
    NotAHandoverError,
    TruncatedFdtError,
    UnknownAbiError,
    UnreadableInputError,
)
from kho_inspect.memory import PhysicalMemory
from kho_inspect.memory.files import read_head
from kho_inspect.model import FdtNode, RootFdt

HOW_TO_CAPTURE = (
    "debugfs kho/out/fdt keeps its boot-time size: take kho/in/fdt in the next kernel instead"
)


def read_root_fdt(
    path: str,
    memory: PhysicalMemory,
    assume_abi: str | None = None,
    *,
    accept_unknown: bool = False,
) -> RootFdt:
    """The KHO root FDT in the file ``path``, completed from ``memory`` when it is cut short.

    Raises UnreadableInputError, FdtError (TruncatedFdtError when nothing completes it),
    NotAHandoverError, and UnknownAbiError unless ``accept_unknown``.
    """
    data = read_head(path, fdt.MAX_SIZE)
    if not data:
        raise UnreadableInputError(f"{path} is empty", hint=HOW_TO_CAPTURE, source=path)
    found: locate.FoundFdt | None = None
    recovery = None
    try:
        root = fdt.parse(data, source=path)
    except TruncatedFdtError as error:
        found, recovery = _recover(path, data, memory, error)
        data, root = found.data, found.root
    except FdtError as error:
        hint = None
        if error.offset == 0:
            hint = "the order is: kho-inspect DUMP DTB"
        raise FdtError(
            f"{path}: {error.message}", offset=error.offset, hint=hint, source=path
        ) from error
    compatible, abi = _identify(path, root, assume_abi)
    if abi is None and not accept_unknown:
        known = ", ".join(row.compatible for row in ABIS)
        nearest = nearest_abi(compatible).compatible
        raise UnknownAbiError(
            f"{path}: compatible is {compatible!r}, which is none of {known}",
            hint=f"the nearest is {nearest}: read it as that with --assume-abi {nearest}",
            source=path,
        )
    return RootFdt(
        path,
        compatible,
        abi or nearest_abi(compatible),
        assume_abi is not None,
        abi is not None,
        root.u64(MAP_PROPERTY),
        fdt.total_size(data) or 0,
        data[: fdt.total_size(data)],
        root,
        found is not None,
        recovery,
        found.paddr if found else None,
    )


def _identify(path: str, root: FdtNode, assume_abi: str | None) -> tuple[str, Abi | None]:
    compatible = root.string("compatible") or ""
    if not compatible.startswith("kho-") and root.prop(MAP_PROPERTY) is None:
        chosen = root.child("chosen")
        pointer = chosen.prop("linux,kho-fdt") if chosen else None
        raise NotAHandoverError(
            f"{path} is a device tree but no KHO root: compatible is {compatible!r}, "
            f"and there is no {MAP_PROPERTY!r}",
            hint="this is a boot DTB whose /chosen points at the KHO FDT, at "
            f"0x{pointer[:8].hex().lstrip('0')}: give that FDT instead"
            if pointer
            else "the KHO root FDT is debugfs kho/in/fdt of the next kernel",
            source=path,
        )
    abi = BY_COMPATIBLE.get(assume_abi) if assume_abi else find_abi(compatible)
    return compatible, abi


def _recover(
    path: str, prefix: bytes, memory: PhysicalMemory, error: TruncatedFdtError
) -> tuple[locate.FoundFdt, str]:
    """The whole FDT of which the file holds only the start, out of the dump."""
    candidates = sorted(locate.find_root_fdts(memory, prefix), key=locate.rank)
    if candidates:
        best = candidates[0]
        others = f", the best of {len(candidates)} copies" if len(candidates) > 1 else ""
        return best, (
            f"{path} holds only {error.have} of {error.totalsize} bytes (debugfs kho/out/fdt does "
            f"that); the whole FDT was found in the dump at {best.paddr:#x}{others}"
        )
    strangers = sorted(locate.find_root_fdts(memory), key=locate.rank)
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
