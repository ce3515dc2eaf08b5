"""The kernels of a dump: from VMCOREINFO and banners, each with its log, and who booted whom."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from kho_inspect.errors import MissingMemoryError
from kho_inspect.kernel_log.build_id import noted_build_id
from kho_inspect.kernel_log.printk import (
    MAX_COUNT_BITS,
    SCAN_BYTES,
    Entry,
    Ring,
    carve_blocks,
    carved_text,
    find_ring,
    read_ring,
    ring_layout,
)
from kho_inspect.kernel_log.translate import (
    AddressSpace,
    Moved,
    PageTables,
    address_space,
    read_virtual,
)
from kho_inspect.kernel_log.vmcoreinfo import (
    BEGINNING,
    VmcoreInfo,
    parse_vmcoreinfo,
    read_vmcoreinfo,
)
from kho_inspect.layouts import printk
from kho_inspect.layouts.diskdump import new_utsname
from kho_inspect.layouts.views import parse_record
from kho_inspect.memory import PhysicalMemory
from kho_inspect.memory.vmcoreinfo import vmcoreinfo_notes
from kho_inspect.units import Extent, PhysAddr

MAX_SIGHTINGS = 256
"""Places of each kind that are looked at: a dump of two kernels has some ten."""
MAX_KERNELS = 16
MAX_BANNER = 1024

_BANNER = re.compile(r"Linux version (\S+) \(.+\) \(.+\) #\d+ .+")
_HEADS = {
    "Booting Linux on physical CPU 0x": "arm64",
    "BIOS-provided physical RAM map:": "x86_64",
}
"""How lines of a log begin that one architecture alone prints."""
_COMMAND_LINE = re.compile(r"(?:Kernel c|C)ommand line: (.*)", re.DOTALL)
_EXEC_FROM = re.compile(r"KHO: exec from: (\S+) \(count (\d{1,9})\)")
_LEFT = re.compile(r"(?:kexec_core: )?Starting new kernel")
_ID_BYTES = printk.prb_data_block.sizeof()
_EARLY = printk.ID_MASK - (1 << MAX_COUNT_BITS)
"""Ids of a ring's first records: they start from minus the number of descriptors."""
_NEEDLES = tuple(int.from_bytes(text[:8], "little") for text in (BEGINNING, b"Linux version "))


@dataclass(frozen=True, slots=True)
class Traces:
    """Where kernels may have left their name; both stand on 8 bytes, as the kernel lays them."""

    infos: list[PhysAddr] = field(default_factory=list)
    banners: list[PhysAddr] = field(default_factory=list)

    def look(self, start: PhysAddr, words: NDArray[np.uint64]) -> None:
        """Keep what is in a piece of memory, as words of 8 bytes from ``start`` on."""
        for needle, found in zip(_NEEDLES, (self.infos, self.banners), strict=True):
            at = np.flatnonzero(words == needle)[: MAX_SIGHTINGS - len(found)]
            found += [start + 8 * one for one in at.tolist()]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel that ran in this memory, or whose image stands there."""

    release: str
    version: str | None = None
    """The banner: ``Linux version 7.3.4 (…) … #1 SMP …``."""
    build_id: str | None = None
    architecture: str | None = None
    command_line: str | None = None
    info: VmcoreInfo | None = None
    entries: tuple[Entry, ...] = field(default=(), repr=False)
    lost: int = 0
    """Records of which nothing could be read."""
    order: int | None = None
    """1: of the kernels in this dump the first that ran. None: not known."""
    why: str = ""
    """Where the order is from."""


def scan_traces(
    memory: PhysicalMemory, progress: Callable[[int], None] = lambda size: None
) -> Traces:
    """Search all stored memory; ``progress`` gets bytes as they are done."""
    traces = Traces()
    for paddr, chunk in memory.data_chunks(SCAN_BYTES, 0):
        skip = -paddr % 8
        words = np.frombuffer(chunk[skip : skip + (len(chunk) - skip) // 8 * 8], dtype="<u8")
        traces.look(paddr + skip, words)
        progress(len(chunk))
    return traces


def find_kernels(memory: PhysicalMemory, traces: Traces) -> tuple[Kernel, ...]:
    """Every kernel that left a trace, in the order in which they ran; the unknown come last."""
    banners = [(at, text) for at in traces.banners if (text := _banner_at(memory, at))]
    infos = _infos(memory, traces)
    found: list[Kernel] = []
    covered: list[Extent] = []
    for info in infos:
        space = address_space(memory, info)
        ring = space and _ring_in(memory, info, space)
        covered += ring.data if ring else ()
        kernel = _kernel(info.release, info, ring or None)
        if kernel.version is None:
            kernel = replace(kernel, version=_banner_of(memory, info, space, banners))
        found.append(kernel)
        same = [at for at, text in banners if text == kernel.version]
        for other in _rings_of_build(memory, info, space, same, covered) if space else ():
            covered += other.data
            found.append(replace(_kernel(info.release, None, other), version=kernel.version))
    images = []
    for paddr, text in banners:
        if any(extent.contains(paddr) for extent in covered) or len(found) >= MAX_KERNELS:
            continue
        if (block := _block_at(memory, paddr)) is None:
            images.append(text)
            continue
        near = [at for at, other in banners if other == text]
        ring = _found_ring(memory, block, release_of(text), infos, near)
        covered += ring.data
        kernel = _kernel(release_of(text), None, ring)
        if all(one.version != text for one in found):
            kernel = replace(kernel, build_id=noted_build_id(memory, ring.data[0].start))
        found.append(kernel)
    found = _without_copies(found)
    for text in dict.fromkeys(images):
        _add_image(found, text)
    return _ordered([_with_build_id(kernel, found) for kernel in found])


def release_of(banner: str) -> str:
    """``Linux version 7.3.4 (…`` → ``7.3.4``"""
    return banner.split(" ", 3)[2]


def _infos(memory: PhysicalMemory, traces: Traces) -> list[VmcoreInfo]:
    """The VMCOREINFO texts, one of each kernel."""
    notes = (parse_vmcoreinfo(text) for text in vmcoreinfo_notes(memory))
    stored = (read_vmcoreinfo(memory, paddr) for paddr in traces.infos)
    # Those in memory come last, and so replace the file's copies, at the place of these.
    found = {info.identity: info for info in (*notes, *stored) if info is not None}
    return list(found.values())[:MAX_KERNELS]


def _banner_of(
    memory: PhysicalMemory,
    info: VmcoreInfo,
    space: AddressSpace | None,
    banners: Iterable[tuple[PhysAddr, str]],
) -> str | None:
    """The banner that agrees with the kernel's ``init_uts_ns``, where the log has none."""
    names, at = info.symbol("init_uts_ns"), info.offset("uts_namespace.name")
    if space is None or names is None or at is None:
        return None
    raw = read_virtual(memory, space, names + at, new_utsname.sizeof())
    if raw is None:
        return None
    uts = parse_record(new_utsname, raw)
    release, version = (
        name.partition(b"\0")[0].decode("latin-1") for name in (uts.release, uts.version)
    )
    return next(
        (
            text
            for _, text in banners
            if text.endswith(version) and release and release_of(text) == release
        ),
        None,
    )


def _ring_in(
    memory: PhysicalMemory, info: VmcoreInfo, space: AddressSpace, *, checked: bool = False
) -> Ring | None:
    layout, prb = ring_layout(info), info.symbol("prb")
    if layout is None or prb is None:
        return None
    pointer = read_virtual(memory, space, prb, 8)
    vaddr = pointer and int.from_bytes(pointer, "little")
    return read_ring(memory, space, vaddr, layout, checked=checked) if vaddr else None


def _rings_of_build(
    memory: PhysicalMemory,
    info: VmcoreInfo,
    space: PageTables,
    banners: Sequence[PhysAddr],
    covered: Sequence[Extent],
) -> Iterator[Ring]:
    """Rings of other boots of the same build: as far from this one as their banners are apart."""
    distances = {there - here for here in banners for there in banners if here != there}
    for distance in sorted(distances, key=abs)[:MAX_SIGHTINGS]:
        ring = _ring_in(memory, info, Moved(space, distance), checked=True)
        if ring and not any(one.overlaps(extent) for one in ring.data for extent in covered):
            yield ring


def _found_ring(
    memory: PhysicalMemory,
    block: PhysAddr,
    release: str,
    infos: Iterable[VmcoreInfo],
    near: Iterable[PhysAddr],
) -> Ring:
    """The ring around a block of text; without one, the text around it."""
    same = next((info for info in infos if info.release == release), None)
    layout = ring_layout(same) or ring_layout(None)
    ring = layout and find_ring(memory, block, layout, near)
    if ring and ring.entries:
        return ring
    entries, where = carve_blocks(memory, block)
    return Ring(entries, 0, (where,))


def _banner_at(memory: PhysicalMemory, paddr: PhysAddr) -> str | None:
    """The banner at ``paddr``, None where it is not whole."""
    for size in (MAX_BANNER, 256):
        try:
            raw = bytes(memory.read(paddr, size))
        except MissingMemoryError:
            continue
        line = raw.partition(b"\0")[0]
        text = carved_text(line)
        return text if len(line) < size and _BANNER.fullmatch(text) else None
    return None


def _block_at(memory: PhysicalMemory, paddr: PhysAddr) -> PhysAddr | None:
    """The block of a ring whose text is at ``paddr``; None where no early record's id precedes."""
    block = paddr - _ID_BYTES
    try:
        number = int.from_bytes(memory.read(block, _ID_BYTES), "little") if block >= 0 else 0
    except MissingMemoryError:
        return None
    return block if _EARLY <= number <= printk.ID_MASK else None


def _kernel(release: str, info: VmcoreInfo | None, ring: Ring | None) -> Kernel:
    """What a log and VMCOREINFO say of a kernel."""
    entries = ring.entries if ring else ()
    lines = [entry.text for entry in entries]
    version = next((text for text in lines if _BANNER.fullmatch(text)), None)
    command = next(filter(None, map(_COMMAND_LINE.fullmatch, lines)), None)
    architecture = info.architecture if info else None
    if architecture is None:
        known = (name for text in lines for head, name in _HEADS.items() if text.startswith(head))
        architecture = next(known, None)
    return Kernel(
        release,
        version,
        info.build_id if info else None,
        architecture,
        command[1] if command else None,
        info,
        entries,
        ring.lost if ring else 0,
    )


def _without_copies(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Without rings that another one begins with.

    ``setup_log_buf()`` copies the records of the first, static ring into a larger one, and goes on
    there.
    """

    def texts(kernel: Kernel) -> list[tuple[str, int | None]]:
        return [(entry.text, entry.ts_nsec) for entry in kernel.entries]

    kept: list[Kernel] = []
    for kernel in sorted(kernels, key=lambda one: len(one.entries), reverse=True):
        mine = texts(kernel)
        # Even two boots of one build differ in the times of their records.
        if kernel.info or not any(texts(one)[: len(mine)] == mine for one in kept):
            kept.append(kernel)
    return [kernel for kernel in kernels if kernel in kept]


def _add_image(kernels: list[Kernel], text: str) -> None:
    """Add the kernel that an image's banner is of, as one without a log, if it is another."""
    if len(kernels) < MAX_KERNELS and all(kernel.version != text for kernel in kernels):
        kernels.append(Kernel(release_of(text), text))


def _with_build_id(kernel: Kernel, kernels: Iterable[Kernel]) -> Kernel:
    """The build id of a kernel whose banner, number and time of the build included, is the same."""
    if kernel.build_id or not kernel.version:
        return kernel
    same = {one.build_id for one in kernels if one.version == kernel.version and one.build_id}
    return replace(kernel, build_id=same.pop()) if len(same) == 1 else kernel


# -- who booted whom


def _ordered(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """The kernels by the boot they are of, as far as their logs say."""
    if len(kernels) == 1:
        return (replace(kernels[0], order=1, why="the only kernel in the dump"),)
    boots: dict[int, tuple[float, str]] = {}
    left: list[int] = []
    stayed: list[int] = []
    for at, kernel in enumerate(kernels):
        lines = [entry.text for entry in kernel.entries]
        origin = next(filter(None, map(_EXEC_FROM.match, lines)), None)
        if origin:
            boots[at] = int(origin[2]), f"booted from {origin[1]}, count {origin[2]}"
        elif lines:
            gone = any(map(_LEFT.match, lines))
            (left if gone else stayed).append(at)
    # One that another was booted from comes before it, the one that nothing followed at the end.
    if len(left) == 1:
        boots[left[0]] = -1, "it started another kernel"
    if len(stayed) == 1 and (left or boots):
        boots[stayed[0]] = float("inf"), "the only one that started no other kernel"
    ranks = Counter(rank for rank, _ in boots.values())
    known = sorted((rank, at) for at, (rank, _) in boots.items() if ranks[rank] == 1)
    placed = [
        replace(kernels[at], order=number, why=boots[at][1])
        for number, (_, at) in enumerate(known, 1)
    ]
    seen = {at for _, at in known}
    return (*placed, *(kernel for at, kernel in enumerate(kernels) if at not in seen))
