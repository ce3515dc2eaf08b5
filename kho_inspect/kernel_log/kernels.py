"""The kernels of a dump: from VMCOREINFO and banners, each with its log, and who booted whom."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from kho_inspect.kernel_log.boots import joined, ordered, without_copies
from kho_inspect.kernel_log.build_id import noted_build_id
from kho_inspect.kernel_log.kernel import BANNER, UNKNOWN, Kernel, kernel_of, release_of
from kho_inspect.kernel_log.printk import (
    MAX_COUNT_BITS,
    SCAN_BYTES,
    WHOLE,
    Ring,
    Work,
    carve_blocks,
    carved_text,
    read_ring,
    ring_layout,
)
from kho_inspect.kernel_log.rings import IMAGE, ring_at
from kho_inspect.kernel_log.traces import MAX_SIGHTINGS, Traces, vmcoreinfo_notes
from kho_inspect.kernel_log.translate import (
    AddressSpace,
    Moved,
    PageTables,
    address_space,
    read_virtual,
)
from kho_inspect.kernel_log.vmcoreinfo import VmcoreInfo, parse_vmcoreinfo, read_vmcoreinfo
from kho_inspect.layouts import printk
from kho_inspect.layouts.diskdump import new_utsname
from kho_inspect.layouts.views import parse_record
from kho_inspect.memory import PhysicalMemory, read_or_none
from kho_inspect.units import Extent, PhysAddr

Banners: TypeAlias = Sequence[tuple[PhysAddr, str]]
"""Where the banners of kernels stand, and their text."""

MAX_KERNELS = 16
MAXBANNER = 1024

_ID_BYTES = printk.prb_data_block.sizeof()
_EARLY = printk.ID_MASK - (1 << MAX_COUNT_BITS)
"""Ids of a ring's first records: they start from minus the number of descriptors."""


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
    # The rings in a dump have no more than this, as it holds each once.
    work = Work(WHOLE + 4 * sum(extent.size for extent in memory.stored))
    for info in infos:
        space = address_space(memory, info)
        ring = space and _ring_in(memory, info, space, work)
        covered += ring.data if ring else ()
        kernel = kernel_of(info.release, info, ring or None)
        if kernel.version is None:
            kernel = replace(kernel, version=_banner_of(memory, info, space, banners))
        found.append(kernel)
        same = [at for at, text in banners if text == kernel.version]
        for other in _rings_of_build(memory, info, space, same, covered, work) if space else ():
            covered += other.data
            found.append(replace(kernel_of(info.release, None, other), version=kernel.version))
    layout = next(filter(None, map(ring_layout, (*infos, None))))
    for place in traces.rings:
        if len(found) >= MAX_KERNELS:
            break
        known = ring_at(memory, place, layout, work, covered)
        if known is not None:
            covered += known.data
            found.append(_unnamed(memory, known, place, banners, found))
    images = []
    for paddr, text in banners:
        if any(extent.contains(paddr) for extent in covered) or len(found) >= MAX_KERNELS:
            continue
        if (block := _block_at(memory, paddr)) is None:
            images.append(text)
            continue
        entries, where = carve_blocks(memory, block)
        covered.append(where)
        kernel = kernel_of(release_of(text), None, Ring(entries, 0, (where,)))
        if all(one.version != text for one in found):
            kernel = replace(kernel, build_id=noted_build_id(memory, where.start))
        found.append(kernel)
    found = joined(without_copies(found))
    for text in dict.fromkeys(images):
        if len(found) < MAX_KERNELS and all(one.version != text for one in found):
            found.append(Kernel(release_of(text), text))
    return ordered([_with_build_id(kernel, found) for kernel in found])


def last_mapped(
    memory: PhysicalMemory, kernels: Iterable[Kernel]
) -> tuple[Kernel, PageTables] | None:
    """Of the kernels whose page tables are known the last that was booted, as far as logs tell."""
    known = [
        (kernel, space)
        for kernel in kernels
        if kernel.info and (space := address_space(memory, kernel.info))
    ]
    return max(known, key=lambda one: one[0].order or 0) if known else None


def _unnamed(
    memory: PhysicalMemory, ring: Ring, place: PhysAddr, banners: Banners, others: Sequence[Kernel]
) -> Kernel:
    """The kernel with a ring at ``place`` that no VMCOREINFO leads to.

    Where its log has lost the first lines, the banner in the image before the ring is its own,
    if there is one and no other kernel's.
    """
    kernel = kernel_of(UNKNOWN, None, ring)
    if kernel.version is None:
        near = {text for at, text in banners if place - IMAGE <= at < place}
        if len(near) == 1 and not near & {one.version for one in others}:
            kernel = replace(kernel, version=near.pop())
    if kernel.version is None:
        return kernel
    start = ring.data[0].start
    data = start if abs(start - place) < IMAGE else place
    same = any(one.version == kernel.version for one in others)
    build_id = None if same else noted_build_id(memory, data)
    return replace(kernel, release=release_of(kernel.version), build_id=build_id)


def _infos(memory: PhysicalMemory, traces: Traces) -> list[VmcoreInfo]:
    """The VMCOREINFO texts, one of each kernel."""
    notes = (parse_vmcoreinfo(text) for text in vmcoreinfo_notes(memory))
    stored = (read_vmcoreinfo(memory, paddr) for paddr in traces.infos)
    # Those in memory come last, and so replace the file's copies, at the place of these.
    found = {info.identity: info for info in (*notes, *stored) if info is not None}
    return list(found.values())[:MAX_KERNELS]


def _banner_of(
    memory: PhysicalMemory, info: VmcoreInfo, space: AddressSpace | None, banners: Banners
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
    texts = (text for _, text in banners)
    return next(
        (one for one in texts if one.endswith(version) and release_of(one) == release), None
    )


def _ring_in(
    memory: PhysicalMemory, info: VmcoreInfo, space: AddressSpace, work: Work, checked: bool = False
) -> Ring | None:
    layout, prb = ring_layout(info), info.symbol("prb")
    if layout is None or prb is None:
        return None
    pointer = read_virtual(memory, space, prb, 8)
    vaddr = pointer and int.from_bytes(pointer, "little")
    if not vaddr:
        return None
    ring = read_ring(memory, space, vaddr, layout, work, checked=checked)
    if checked or (ring and ring.entries) or not (place := space.physical(vaddr)):
        return ring
    # Page tables that were reused lead to nothing, or elsewhere.
    return ring_at(memory, place[0], layout, work) or ring


def _rings_of_build(
    memory: PhysicalMemory,
    info: VmcoreInfo,
    space: PageTables,
    banners: Sequence[PhysAddr],
    covered: Sequence[Extent],
    work: Work,
) -> Iterator[Ring]:
    """Rings of other boots of the same build: as far from this one as their banners are apart."""
    distances = {there - here for here in banners for there in banners if here != there}
    for distance in sorted(distances, key=abs)[:MAX_SIGHTINGS]:
        ring = _ring_in(memory, info, Moved(space, distance), work, checked=True)
        if ring and not any(one.overlaps(extent) for one in ring.data for extent in covered):
            yield ring


def _banner_at(memory: PhysicalMemory, paddr: PhysAddr) -> str | None:
    """The banner at ``paddr``, None where it is not whole."""
    for size in (MAXBANNER, 256):
        if (raw := read_or_none(memory, paddr, size)) is not None:
            line = bytes(raw).partition(b"\0")[0]
            text = carved_text(line)
            return text if len(line) < size and BANNER.fullmatch(text) else None
    return None


def _block_at(memory: PhysicalMemory, paddr: PhysAddr) -> PhysAddr | None:
    """The block of a ring whose text is at ``paddr``; None where no early record's id precedes."""
    block = paddr - _ID_BYTES
    number = int.from_bytes(read_or_none(memory, block, _ID_BYTES) or b"", "little")
    return block if _EARLY <= number <= printk.ID_MASK else None


def _with_build_id(kernel: Kernel, kernels: Iterable[Kernel]) -> Kernel:
    """The build id of a kernel whose banner, number and time of the build included, is the same."""
    if kernel.build_id or not kernel.version:
        return kernel
    same = {one.build_id for one in kernels if one.version == kernel.version and one.build_id}
    return replace(kernel, build_id=same.pop()) if len(same) == 1 else kernel
