"""The story in one screen: open → read the FDT → choose a geometry → walk → read the blobs."""

from __future__ import annotations

from dataclasses import dataclass

from kho_inspect import fdt, locate
from kho_inspect.abi import ABIS, BY_COMPATIBLE, MAP_PROPERTY, Abi, find_abi, nearest_abi
from kho_inspect.decoders.subnode import blob_address, read_blob
from kho_inspect.errors import (
    FdtError,
    KhoError,
    NotAHandoverError,
    TruncatedFdtError,
    UnknownAbiError,
    UnreadableInputError,
)
from kho_inspect.geometry import PAGE_SHIFTS, PageGeometry
from kho_inspect.memory import PhysicalMemory, Presence, RamBlock, open_memory
from kho_inspect.memory.files import read_head
from kho_inspect.model import FaultKind, FdtNode, Handover, Preserved, RootFdt, Source
from kho_inspect.units import PhysAddr
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.page_size import find_page_size
from kho_inspect.walk.radix import walk_radix

HOW_TO_CAPTURE = (
    "debugfs kho/out/fdt keeps its boot-time size: take kho/in/fdt in the next kernel instead"
)


@dataclass(frozen=True, slots=True)
class Options:
    """How to read the two files; the defaults probe."""

    format: str = "auto"
    base: PhysAddr = 0
    blocks: tuple[RamBlock, ...] = ()
    page_size: str = "auto"
    """``auto`` or a key of ``geometry.PAGE_SHIFTS``."""
    assume_abi: str | None = None


def inspect(dump: str, dtb: str, options: Options | None = None) -> Handover:
    """Read one handover out of a memory dump and its root FDT.

    Damage inside is in ``Handover.faults``. Raises a subclass of KhoError only when there is
    nothing to inspect: unreadable files, no KHO root FDT, an ABI nobody knows, a tree that is
    not in this dump.
    """
    return inspect_memory(*open_inputs(dump, dtb, options), options)


def open_inputs(
    dump: str, dtb: str, options: Options | None = None
) -> tuple[PhysicalMemory, RootFdt]:
    """The two files, opened and understood, before anything is walked. Raises as inspect does."""
    options = options or Options()
    memory = open_memory(dump, format_name=options.format, base=options.base, blocks=options.blocks)
    return memory, read_root_fdt(dtb, memory, options.assume_abi)


def inspect_memory(
    memory: PhysicalMemory, root: RootFdt, options: Options | None = None
) -> Handover:
    """Walk and decode what :func:`open_inputs` opened."""
    options = options or Options()
    faults = FaultLog()
    for note in memory.notes:
        faults.add(FaultKind.DUMP_INCOMPLETE, note)
    geometry, reason = _choose_geometry(memory, root, options.page_size)
    tree, preserved = None, Preserved(geometry.shift, {})
    if root.memory_map:
        _require_root_in_dump(memory, root.memory_map)
        tree, preserved = walk_radix(memory, geometry, root.memory_map, faults)
    else:
        data = root.root.prop(MAP_PROPERTY)
        state = "missing" if data is None else "zero" if len(data) == 8 else f"{len(data)} bytes"
        faults.add(
            FaultKind.FDT_MAP_PROPERTY,
            f"property {MAP_PROPERTY!r} is {state}, should be 8 bytes and non-zero",
            path="/",
        )
    if root.abi.radix and geometry.loses_order0:
        faults.add(
            FaultKind.ORDER0_LOST,
            f"{root.abi.compatible} with {geometry.page_size // 1024}K pages cannot record order-0 "
            f"pages: their order bit {geometry.order0_bit} lies above the tree's {geometry.levels} "
            f"levels ({geometry.key_bits} bits) and was masked off, so such a page reads back with "
            "a wrong order and address. Only blocks of order 1 and up are as written",
            path="root",
        )
    return Handover(
        Source(
            memory.path,
            memory.format,
            memory.size,
            geometry.page_size,
            reason,
            memory.declared,
            memory.stored,
        ),
        root,
        geometry,
        tree,
        preserved,
        tuple(read_blob(memory, preserved, node, root.abi, faults) for node in root.root.children),
        faults.result(),
    )


def _choose_geometry(
    memory: PhysicalMemory, root: RootFdt, wanted: str
) -> tuple[PageGeometry, str]:
    if wanted != "auto":
        return PageGeometry(PAGE_SHIFTS[wanted], root.abi), "given with --page-size"
    blobs = [blob_address(node, root.abi) for node in root.root.children]
    return find_page_size(
        memory, root.abi, root.memory_map or 1, [paddr for paddr in blobs if paddr]
    )


def _require_root_in_dump(memory: PhysicalMemory, paddr: PhysAddr) -> None:
    if memory.presence(paddr) is Presence.OUTSIDE:
        held = ", ".join(str(extent) for extent in memory.declared[:3])
        more = ", …" if len(memory.declared) > 3 else ""
        raise NotAHandoverError(
            f"the tree root {paddr:#x} lies outside {memory.path}, which holds {held}{more}",
            hint="do dump and DTB belong together? if RAM does not start at 0: --base or --map",
            paddr=paddr,
            source=memory.path,
        )


def read_root_fdt(path: str, memory: PhysicalMemory, assume_abi: str | None = None) -> RootFdt:
    """The KHO root FDT in the file ``path``, completed from ``memory`` when it is cut short."""
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
    return RootFdt(
        path,
        compatible,
        abi,
        assume_abi is not None,
        root.u64(MAP_PROPERTY),
        fdt.total_size(data) or 0,
        root,
        found is not None,
        recovery,
        found.paddr if found else None,
    )


def _identify(path: str, root: FdtNode, assume_abi: str | None) -> tuple[str, Abi]:
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
    if abi is None:
        known = ", ".join(row.compatible for row in ABIS)
        raise UnknownAbiError(
            f"{path}: compatible is {compatible!r}, which is none of {known}",
            hint=f"the nearest is {nearest_abi(compatible).compatible}: read it as that with "
            f"--assume-abi {nearest_abi(compatible).compatible}",
            source=path,
        )
    if not abi.radix:
        raise KhoError(
            f"{path}: {abi.compatible} ({abi.kernels}) keeps its map in a chunk list, which is "
            "not read yet",
            source=path,
        )
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
