"""The story in one screen: open → read the FDT → choose a geometry → walk → read the blobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kho_inspect.abi import MAP_PROPERTY
from kho_inspect.decoders.context import Context
from kho_inspect.decoders.registry import FILE_DECODERS, decode_blob
from kho_inspect.decoders.subnode import blob_address, read_blobs
from kho_inspect.errors import NotAHandoverError
from kho_inspect.geometry import PAGE_SHIFTS, PageGeometry
from kho_inspect.limits import DEFAULT_LIMITS, Limits
from kho_inspect.locate.live import DEBUGFS, live_fdt
from kho_inspect.locate.page_size import find_page_size
from kho_inspect.locate.root_fdt import locate_root_fdt, read_root_fdt
from kho_inspect.locate.scan import MAX_WITNESSES
from kho_inspect.locate.search import find_page
from kho_inspect.memory import PhysicalMemory, Presence, RamBlock, open_memory
from kho_inspect.memory.kcore import open_kcore
from kho_inspect.model.claims import Ownership
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import Blob, Handover, RootFdt, Source
from kho_inspect.model.map import ChunkList, RadixTree
from kho_inspect.model.preserved import Preserved
from kho_inspect.ownership.account import account, account_more
from kho_inspect.ownership.claims import ClaimLog
from kho_inspect.units import PhysAddr
from kho_inspect.walk.chunk_list import walk_chunks
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.radix import walk_radix

MAX_ROOT_PAGES = 1 << 16
"""Unclaimed pages that are compared with the root FDT."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to read the two files; the defaults probe."""

    format: str = "auto"
    base: PhysAddr = 0
    blocks: tuple[RamBlock, ...] = ()
    page_size: str = "auto"
    """``auto`` or a key of ``geometry.PAGE_SHIFTS``."""
    assume_abi: str | None = None
    live: bool = False
    """The dump is a kcore, the DTB a debugfs (by default the running kernel's own)."""
    limits: Limits = DEFAULT_LIMITS
    lenient: bool = False
    """Go on where the next kernel would not: unknown ABI, tree outside the dump. For ``check``."""


def inspect(dump: str, dtb: str | None = None, options: Options | None = None) -> Handover:
    """Read one handover out of a memory dump and its root FDT (looked for when not given).

    Damage inside is in ``Handover.faults``. Raises a subclass of KhoError only when there is
    nothing to inspect: unreadable files, no KHO root FDT, an ABI nobody knows, a tree that is
    not in this dump.
    """
    return inspect_memory(*open_inputs(dump, dtb, options), options)


def open_inputs(
    dump: str,
    dtb: str | None = None,
    options: Options | None = None,
    progress: Callable[[int], None] = lambda size: None,
) -> tuple[PhysicalMemory, RootFdt]:
    """The two files, opened and understood, before anything is walked. Raises as inspect does.

    ``progress`` gets bytes of a compressed dump as they are unpacked.
    """
    options = options or Options()
    memory = open_dump(dump, options, progress)
    if options.live:
        dtb = live_fdt(dtb or DEBUGFS)
    if dtb is None:
        return memory, locate_root_fdt(memory, options.assume_abi)
    root = read_root_fdt(
        dtb,
        memory,
        options.assume_abi,
        accept_unknown=options.lenient,
        limit=options.limits.fdt,
    )
    return memory, root


def open_dump(
    dump: str, options: Options, progress: Callable[[int], None] = lambda size: None
) -> PhysicalMemory:
    """The memory alone. Raises UnreadableInputError."""
    if options.live:
        return open_kcore(dump)
    return open_memory(
        dump,
        format_name=options.format,
        base=options.base,
        blocks=options.blocks,
        progress=progress,
    )


def inspect_memory(
    memory: PhysicalMemory, root: RootFdt, options: Options | None = None
) -> Handover:
    """Walk and decode what :func:`open_inputs` opened."""
    options = options or Options()
    faults = FaultLog()
    for note in memory.notes:
        faults.add(FaultKind.DUMP_INCOMPLETE, note)
    geometry, reason = _choose_geometry(memory, root, options.page_size)
    tree: RadixTree | ChunkList | None = None
    preserved = Preserved(geometry.shift, {})
    if root.memory_map and root.known:
        if not options.lenient:
            _require_root_in_dump(memory, root.memory_map)
        walk = walk_radix if root.abi.radix else walk_chunks
        tree, preserved = walk(memory, geometry, root.memory_map, faults, options.limits)
    _note_defects(root, geometry, faults)
    claims = ClaimLog(geometry.shift)
    limits = options.limits
    context = Context(memory, geometry, preserved, claims, faults, FILE_DECODERS, limits=limits)
    blobs: tuple[Blob, ...] = ()
    if root.known:
        found = read_blobs(memory, preserved, root.root, root.abi, faults, limits)
        blobs = tuple(decode_blob(context, blob) for blob in found)
    root, ownership = _own_root_fdt(memory, root, preserved, claims)
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
        blobs,
        tuple(claims.claims),
        ownership,
        faults.result(),
    )


def _note_defects(root: RootFdt, geometry: PageGeometry, faults: FaultLog) -> None:
    """What is wrong before any pointer is followed."""
    if not root.memory_map:
        data = root.root.prop(MAP_PROPERTY)
        state = "missing" if data is None else "zero" if len(data) == 8 else f"{len(data)} bytes"
        faults.add(
            FaultKind.FDT_MAP_PROPERTY,
            f"property {MAP_PROPERTY!r} is {state}, should be 8 bytes and non-zero",
            path="/",
        )
    if root.known and root.abi.radix and geometry.loses_order0:
        faults.add(
            FaultKind.ORDER0_LOST,
            f"{root.abi.compatible} with {geometry.page_size // 1024}K pages cannot record order-0 "
            f"pages: their order bit {geometry.order0_bit} lies above the tree's {geometry.levels} "
            f"levels ({geometry.key_bits} bits) and was masked off, so such a page reads back with "
            "a wrong order and address. Only blocks of order 1 and up are as written",
            path="root",
        )


def _own_root_fdt(
    memory: PhysicalMemory, root: RootFdt, preserved: Preserved, claims: ClaimLog
) -> tuple[RootFdt, Ownership]:
    """The root FDT with its address, and who owns what once its page is claimed for it.

    ``kho_init()`` preserves the page, and no structure points to it: where it was not found
    before, it is looked for in the pages that nobody else claims.
    """
    ownership = None
    if root.paddr is None:
        ownership = account(preserved, claims.claims)
        pages, shift = ownership.orphans, preserved.page_shift
        root = replace(root, paddr=find_page(memory, pages, shift, root.data, MAX_ROOT_PAGES))
        if root.paddr is None:
            return root, ownership
    assert root.paddr is not None
    # The kernel allots it one page.
    claims.add("KHO", "root FDT", root.paddr, 1 << preserved.page_shift)
    if ownership is None:
        return root, account(preserved, claims.claims)
    return root, account_more(preserved, claims.claims, ownership)


def _choose_geometry(
    memory: PhysicalMemory, root: RootFdt, wanted: str
) -> tuple[PageGeometry, str]:
    if wanted != "auto":
        return PageGeometry(PAGE_SHIFTS[wanted], root.abi), "given with --page-size"
    blobs = [blob_address(node, root.abi) for node in root.root.children[:MAX_WITNESSES]]
    choice = find_page_size(
        memory, root.abi, root.memory_map or 1, [paddr for paddr in blobs if paddr]
    )
    return choice.best.geometry, choice.reason


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
