"""All steps of a run: open → locate → choose a geometry → walk → decode → own → judge."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kho_inspect import fdt
from kho_inspect.abi import Kernel
from kho_inspect.decoders.context import Context
from kho_inspect.decoders.registry import BLOB_DECODERS, FILE_DECODERS, decode_blobs
from kho_inspect.decoders.subnode import read_blobs
from kho_inspect.decoders.systemd import read_names
from kho_inspect.errors import FdtError, KhoError, LostHandoverError
from kho_inspect.geometry import PAGE_SHIFTS, PageGeometry
from kho_inspect.kernel_log.traces import Traces
from kho_inspect.layouts.fdt import FDT_MAGIC_BYTES
from kho_inspect.limits import DEFAULT_LIMITS, Limits
from kho_inspect.locate.page_size import find_page_size
from kho_inspect.locate.root_fdt import find_page, locate_root_fdt, notes_on, read_root_fdt
from kho_inspect.locate.scan import Located, locate
from kho_inspect.locate.scratch import boot_dtb_pointer, read_scratch, read_sound_scratch
from kho_inspect.memory import PhysicalMemory, RamBlock, open_memory
from kho_inspect.memory.kcore import open_kcore
from kho_inspect.model.claims import OwnerIndex
from kho_inspect.model.contents import Item
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import Handover, Pointer, RootFdt, Scratch, Source
from kho_inspect.model.identity import ClaimKind, Owner, Subsystem
from kho_inspect.model.preserved import Preserved
from kho_inspect.ownership.account import account, unclaimed
from kho_inspect.ownership.claims import ClaimLog
from kho_inspect.ownership.hidden import hidden_owners
from kho_inspect.rules.case import Case
from kho_inspect.units import Extent, PhysAddr
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.map import walk_map

if TYPE_CHECKING:
    from kho_inspect.locate.live import LiveHandover
    from kho_inspect.model.printed import Printed
    from kho_inspect.rules.expectations import Expectation

MAX_SCANNED = 4 << 30
"""Bytes of stored memory that are searched for the FDT, and for what points to it."""
MAX_OTHERS = 8
"""Root FDTs of a dump that are read besides the one in question."""


class Options(NamedTuple):
    """How to read dump and DTB; the defaults probe."""

    format: str = "auto"
    base: PhysAddr = 0
    blocks: tuple[RamBlock, ...] = ()
    page_size: str = "auto"
    """``auto`` or a key of ``geometry.PAGE_SHIFTS``."""
    assume_abi: str | None = None
    live: bool = False
    """The dump is a kcore, the DTB a debugfs (by default the running kernel's own).

    Command line and vmcore are looked for beside the kcore.
    """
    incoming: bool = False
    """Live: what this kernel was handed, not what stands ready for the next."""
    limits: Limits = DEFAULT_LIMITS
    scratch: tuple[Extent, ...] = ()
    """Scratch areas; without them the table is searched for in the dump."""
    boot_dtb: str | None = None
    """A boot DTB whose /chosen names the scratch table."""
    root: str | PhysAddr = "auto"
    """Which root FDT of a dump without DTB: ``auto``, ``incoming``, ``outgoing``, or its address.
    """


class Opened(NamedTuple):
    """The two inputs, opened and understood, before anything is walked."""

    memory: PhysicalMemory
    root: RootFdt
    located: Located | None = None
    """What a scan for the root FDT found, where there was one."""
    scratch: Scratch | None = None
    """What the running kernel says of its scratch areas."""
    printed: tuple[Printed, ...] = ()
    """What kernels printed of any handover, where there was a scan."""


class Question(NamedTuple):
    """What a verdict depends on besides the handover."""

    target: Kernel | None = None
    """The kernel to decide for."""
    target_name: str = ""
    expectations: Sequence[Expectation] | None = None
    digests: Callable[[PhysicalMemory], Callable[[Item], str | None]] | None = None
    """How contents are hashed, where it matters."""


def inspect(dump: str, dtb: str | None = None, options: Options | None = None) -> Handover:
    """Read one handover out of a memory dump and its root FDT (None: searched for in the dump).

    Damage inside is in ``Handover.faults``, a map that is outside the dump too. Of an unknown ABI
    (``Handover.fdt.known``) no map is walked, and sub-nodes are read as the nearest ABI's but not
    decoded. Raises a subclass of KhoError only when there is nothing to inspect: unreadable files,
    no KHO root FDT.
    """
    return inspect_opened(open_inputs(dump, dtb, options), options)


def inspect_all(
    images: Iterable[tuple[str, str | None]], options: Options | None = None
) -> Iterator[Handover | KhoError]:
    """What :func:`inspect` returns or raises for each dump and DTB; none is held."""
    for dump, dtb in images:
        try:
            yield inspect(dump, dtb, options)
        except KhoError as error:
            yield error


def examine(
    dump: str,
    dtb: str | None = None,
    options: Options | None = None,
    question: Question | None = None,
    progress: Callable[[int], None] = lambda size: None,
) -> Case:
    """Read everything that can be judged; ``rules.engine.judge`` takes it from there.

    What the next kernel would refuse becomes part of the case. Raises KhoError for what no
    verdict can be given on: files that cannot be read, or are no device tree, or not KHO's.
    """
    options = options or Options()
    memory = open_dump(dump, options, progress)
    try:
        opened = open_root(memory, dtb, options)
    except LostHandoverError as error:
        located, printed = _scan(memory)
        gone = {place.paddr for place in located.vacated}
        told = _printed_of(printed, None, gone, late=True)
        return replace(case_of(None, question), lost=error, printed=told)
    except FdtError as error:
        limit = options.limits.fdt
        data = error.data
        # What has all but the magic was an FDT, and is what the kernel refuses.
        size = fdt.total_size(FDT_MAGIC_BYTES + data[4:])
        size = size if size == len(data) else fdt.total_size(data)
        if size is None or size > limit:  # our limit, not the kernel's
            raise
        return case_of(None, question, error)
    if opened.located is None and not options.live:
        located, printed = _scan(memory, limit=MAX_SCANNED)
        opened = opened._replace(located=located, printed=printed)
    handover = inspect_opened(opened, options)
    case = case_of(handover, question)
    late = case.misreads or handover.fdt.start is not None
    named = {one.fdt for one in handover.pointers}
    if handover.fdt.paddr is None and opened.located:
        named = {place.paddr for place in opened.located.vacated}
    case = replace(
        case,
        printed=_printed_of(opened.printed, handover.fdt, named, late=late),
        handed=frozenset(one.fdt for one in opened.printed if one.fdt is not None),
    )
    if question and question.digests:
        case = replace(case, digest=question.digests(memory))
    if not case.misreads or case.printed:
        return case
    from kho_inspect.locate.fit import find_fit  # most handovers read well

    root, geometry = handover.fdt, handover.geometry
    return replace(
        case, fit=find_fit(opened.memory, root, geometry, opened.located, options.limits)
    )


def inspect_others(opened: Opened, options: Options) -> Iterator[Handover]:
    """The handovers of other root FDTs in a dump that was looked at, of those with a map."""
    memory, root, located, *_ = opened
    others = (found for found in located.whole if found.valid_tree) if located else ()
    for found in islice(others, MAX_OTHERS):
        if located is not None and found.paddr != root.paddr:
            other = locate_root_fdt(memory, located, options.assume_abi, found.paddr)
            yield inspect_opened(Opened(memory, other, located), options)


def _scan(
    memory: PhysicalMemory, limit: int | None = None, *, survey: bool = False
) -> tuple[Located, tuple[Printed, ...]]:
    """What a scan finds of root FDTs, and what kernels printed of handovers."""
    traces = Traces()
    located = locate(memory, limit=limit, also=traces.look)
    # Only a kernel that something points to a handover has to say something of it.
    if not (located.pointers or survey) or not traces.in_dump(memory):
        return located, ()
    from kho_inspect.kernel_log.handed import printed_by
    from kho_inspect.kernel_log.kernels import find_kernels

    return located, tuple(printed_by(find_kernels(memory, traces)))


def _printed_of(
    printed: Sequence[Printed], root: RootFdt | None, named: Collection[PhysAddr], *, late: bool
) -> tuple[Printed, ...]:
    if not printed:
        return ()
    from kho_inspect.kernel_log.handed import printed_of

    return printed_of(printed, root, named, late=late)


def case_of(
    handover: Handover | None, question: Question | None = None, error: FdtError | None = None
) -> Case:
    """The case of a handover that was read already."""
    asked = question or Question()
    return Case(handover, error, asked.target, asked.target_name, asked.expectations)


def open_inputs(
    dump: str,
    dtb: str | None = None,
    options: Options | None = None,
    progress: Callable[[int], None] = lambda size: None,
) -> Opened:
    """The two files, opened and understood. Raises as inspect does.

    ``progress`` gets bytes of a compressed dump as they are unpacked.
    """
    options = options or Options()
    if options.live:
        _live(dump, dtb, options)  # says why there is none, whether or not memory can be read
    return open_root(open_dump(dump, options, progress), dtb, options)


def open_root(
    memory: PhysicalMemory, dtb: str | None, options: Options, *, survey: bool = False
) -> Opened:
    """The root FDT for a dump that is open. Raises as inspect does.

    With ``survey`` all of the dump is looked at, whatever is given, and every kernel in it.
    """
    if options.live:
        from kho_inspect.locate.live import read_live_root

        live = _live(memory.path, dtb, options)
        found = read_live_root(memory, live, options.assume_abi, options.limits.fdt)
        return Opened(memory, *found, scratch=live.scratch)
    if dtb is None:
        located, printed = _scan(memory, survey=survey)
        handed = {one.fdt for one in printed if one.fdt is not None}
        if any(one.last and one.fdt is None for one in printed):
            handed.update(place.paddr for place in located.vacated)
        root = locate_root_fdt(memory, located, options.assume_abi, options.root, handed)
        return Opened(memory, root, located, printed=printed)
    root = read_root_fdt(dtb, memory, options.assume_abi, options.limits.fdt)
    if not survey:
        return Opened(memory, root)
    located, printed = _scan(memory, survey=True)
    return Opened(memory, root, located, printed=printed)


def _live(kcore: str, debugfs: str | None, options: Options) -> LiveHandover:
    from kho_inspect.locate.live import DEBUGFS, live_handover

    return live_handover(debugfs or DEBUGFS, str(Path(kcore).parent), incoming=options.incoming)


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
        max_unpacked=options.limits.unpacked,
    )


def inspect_opened(opened: Opened, options: Options | None = None) -> Handover:
    """Walk and decode what :func:`open_inputs` opened, and account for all of it."""
    options = options or Options()
    memory, root, located, scratch, _ = opened
    faults = FaultLog()
    for note in memory.notes:
        faults.add(FaultKind.DUMP_INCOMPLETE, note)
    geometry, reason = _choose_geometry(memory, root, options.page_size)
    tree, preserved = walk_map(memory, geometry, root, faults, options.limits)
    log = ClaimLog(geometry.shift)
    context = Context(
        memory=memory,
        geometry=geometry,
        preserved=preserved,
        claims=log,
        # Properties of an unknown ABI may be missing for its own reasons.
        faults=faults if root.known else FaultLog(),
        file_decoders=FILE_DECODERS if root.abi.reads_vmalloc else {},
        limits=options.limits,
    )
    cut = root.start and root.start.cut is not None
    read = read_blobs(context, root.root, root.abi if root.known else None, cut=bool(cut))
    blobs = tuple(decode_blobs(context, read, BLOB_DECODERS if root.known else ()))
    if tree is None:
        blobs = tuple(blob._replace(preserved=None) for blob in blobs)
    boot_dtb = options.boot_dtb or root.boot_dtb
    boot = boot_dtb_pointer(boot_dtb, options.limits.fdt) if boot_dtb else None
    if boot_dtb and boot is None:
        words = "/chosen has no linux,kho-fdt of one address and size: it names no handover"
        faults.add(FaultKind.BOOT_DTB, f"boot DTB {boot_dtb}: {words}")
    located = located or locate(memory, limit=MAX_SCANNED)
    root = root._replace(
        paddr=_root_address(memory, root, located, preserved, log),
        notes=() if options.live else notes_on(root, located),
    )
    if root.paddr is not None:
        # kho_init() preserves its page, the one page that the kernel allots it.
        log.add(Owner(Subsystem.KHO), ClaimKind.ROOT_FDT, root.paddr, geometry.page_size)
    pointers = tuple(pointer for pointer in located.pointers if pointer.fdt == root.paddr)
    roots = {root.paddr, *(one.paddr for one in located.fdts)}
    strays = tuple(
        one for one in located.pointers if one.fdt_size is not None and one.fdt not in roots
    )
    own_scratch = read_scratch(memory, pointers)
    if root.paddr is None:  # the table may be left where the root FDT is not
        own_scratch = read_sound_scratch(memory, strays)
    claims = log.result()
    found_faults = faults.result()
    return Handover(
        source=Source(
            path=memory.path,
            format=memory.format,
            page_size=geometry.page_size,
            page_size_reason=reason,
            declared=memory.declared,
            stored=memory.stored,
            ram=located.ram,
        ),
        fdt=root,
        geometry=geometry,
        tree=tree,
        preserved=preserved,
        blobs=blobs,
        claims=claims,
        index=OwnerIndex(preserved, claims),
        # Without a map nothing is known to be preserved, or not to be.
        ownership=account(preserved, claims if tree else ClaimLog(geometry.shift).result()),
        scratch=_scratch(memory, options, boot, scratch or own_scratch),
        pointers=pointers,
        faults=found_faults,
        strays=strays,
        scratch_found=own_scratch,
        boot=boot,
        hidden=hidden_owners(root, blobs, preserved, found_faults),
        names=read_names(memory, geometry, blobs),
    )


def _root_address(
    memory: PhysicalMemory, root: RootFdt, located: Located, preserved: Preserved, log: ClaimLog
) -> PhysAddr | None:
    """Where the root FDT stands: no structure points to it.

    The most credible of its copies that a scan found; else it is searched for in the preserved
    pages that nothing else claims, which may lie beyond what was scanned.
    """
    if root.paddr is not None or root.start is not None:
        return root.paddr
    for found in located.fdts:
        if found.data == root.data:
            return found.paddr
    return find_page(memory, unclaimed(preserved, log.result()), preserved.page_shift, root.data)


def _scratch(
    memory: PhysicalMemory, options: Options, boot: Pointer | None, own: Scratch | None
) -> Scratch | None:
    """The table that was given, else the machine's own."""
    if options.scratch:
        entries = tuple((extent.start, extent.size) for extent in options.scratch)
        return Scratch(entries, "--scratch", None)
    return own if boot is None else read_scratch(memory, [boot])


def _choose_geometry(
    memory: PhysicalMemory, root: RootFdt, wanted: str
) -> tuple[PageGeometry, str]:
    if wanted != "auto":
        return PageGeometry(PAGE_SHIFTS[wanted], root.abi), "given with --page-size"
    # Address 1 is aligned for no page size, so that a missing map gives no evidence.
    best, reason = find_page_size(memory, root.abi, root.root, root.memory_map or 1)
    return best.geometry, reason
