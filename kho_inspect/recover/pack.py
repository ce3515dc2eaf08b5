"""Packing a handover into a small ELF64 core: what a report reads, and nothing else.

RAM that is left out stays declared, so that "not stored" is what it reads as. Contents of files
and regions are left out unless asked for.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kho_inspect import __version__, intervals
from kho_inspect.errors import KhoError
from kho_inspect.geometry import PAGE_SHIFTS
from kho_inspect.intervals import Intervals
from kho_inspect.layouts import elf
from kho_inspect.layouts.views import Layout, format_of
from kho_inspect.memory import PhysicalMemory
from kho_inspect.memory.elf_core import MAX_SEGMENTS, notes_of
from kho_inspect.memory.mapped import MappedMemory
from kho_inspect.memory.recording import Recorder
from kho_inspect.model.contents import Item, Piece
from kho_inspect.model.handover import Handover
from kho_inspect.model.identity import CONTENT
from kho_inspect.recover.atomic import FILE_MODE, atomic_file
from kho_inspect.recover.content import Reader
from kho_inspect.units import Extent

NOTE_NAME = b"KHO-INSPECT\0"
NOTE_TYPE = 1
"""Ours: the provenance, as JSON."""

_BATCH = 1 << 16
"""Pages that are looked at at a time."""
_ALIGN = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """What a packed file holds."""

    stored: tuple[Extent, ...]
    declared: tuple[Extent, ...]
    note: bytes

    @property
    def size(self) -> int:
        """Bytes of memory in it."""
        return sum(extent.size for extent in self.stored)


def plan(
    memory: PhysicalMemory,
    handover: Handover | None,
    *,
    content: bool,
    pointers: bool,
    others: Iterable[Handover],
    carved: Iterable[Item],
    read: Recorder | None,
) -> Plan:
    """Choose the pages: FDT, map, blobs, every structure followed.

    And, where wanted, the contents, those of what was ``carved`` too, and what points to the FDT,
    with the scratch table. ``others`` in the dump are packed without content. ``read``: what
    answers about the dump as a whole rest on, all there is where it has no handover.
    """
    shift = handover.geometry.shift if handover else min(PAGE_SHIFTS.values())
    pieces = [intervals.empty(), *(_structures(handover) if handover else ())]
    for other in others:
        pairs = (
            (extent.start >> shift, -(-extent.end >> shift))
            for pages in _structures(other)
            for extent in intervals.extents(intervals.merge(*pages), other.geometry.shift)
        )
        pieces.append(intervals.from_pairs(pairs))
    if read is not None:
        pieces.append(read.pages(shift))
    extents: list[Extent] = []
    if content:
        held = (piece for item in carved for piece in item.pieces)
        extents += (Extent(piece.paddr, piece.paddr + piece.size) for piece in held)
    if content and handover:
        claims = handover.claims
        pieces += [handover.preserved.merged, (claims.starts, claims.ends)]
    for pointer in handover.pointers if handover and pointers else ():
        extents += (pointer.where, pointer.scratch)
    named = ((one.start >> shift, -(-one.end >> shift)) for one in extents)
    pieces.append(intervals.from_pairs(named))
    wanted = intervals.merge(
        np.concatenate([starts for starts, _ in pieces]),
        np.concatenate([ends for _, ends in pieces]),
    )
    stored = _stored_part(memory, wanted, shift)
    return Plan(tuple(stored), memory.declared, _provenance(memory, handover))


def _structures(handover: Handover) -> list[Intervals]:
    """The pages of the map, and of every structure followed."""
    claims = handover.claims
    structures = ~claims.of_kinds(CONTENT)[claims.claim]
    groups = handover.tree.groups() if handover.tree else ()
    paddrs = np.concatenate([np.empty(0, dtype=np.uint64), *(nodes.paddr for nodes in groups)])
    of_map = (paddrs >> np.uint64(handover.geometry.shift)).astype(np.int64)
    return [(of_map, of_map + 1), (claims.starts[structures], claims.ends[structures])]


def _stored_part(memory: PhysicalMemory, pages: Intervals, shift: int) -> Iterator[Extent]:
    """The parts of some pages that the dump itself holds."""
    stored = intervals.merge(
        *intervals.from_pairs(
            (-(-extent.start >> shift), extent.end >> shift) for extent in memory.stored
        )
    )
    held = intervals.intersect(pages, stored)
    # A dump may hold pages that are damaged: they cost themselves, and nothing else.
    bad = [intervals.empty()[0]]
    for pfns in intervals.points(held, _BATCH):
        paddrs = pfns.astype(np.uint64) << np.uint64(shift)
        bad.append(pfns[~memory.stored_mask(paddrs, 1 << shift)])
    damaged = np.concatenate(bad)
    yield from intervals.extents(
        intervals.subtract(held, intervals.merge(damaged, damaged + 1)), shift
    )


def _provenance(memory: PhysicalMemory, handover: Handover | None) -> bytes:
    """Where a packed file came from; one that was packed before keeps its own."""
    if memory.format == "elf" and isinstance(memory, MappedMemory):
        for name, kept in notes_of(memory.file):
            if name == NOTE_NAME:
                return kept
    facts = {
        "packed_by": f"kho-inspect {__version__}",
        "source": Path(memory.path).name,
        "source_format": memory.format,
        "source_size": memory.size,
        "compatible": handover and handover.fdt.compatible,
        "fdt": handover and handover.fdt.paddr and hex(handover.fdt.paddr),
        "page_size": handover and handover.geometry.page_size,
    }
    return json.dumps(facts).encode()


def write_packed(
    memory: PhysicalMemory,
    packed: Plan,
    path: Path,
    progress: Callable[[int], None] = lambda size: None,
    mode: int = FILE_MODE,
) -> int:
    """Write the ELF core; returns its size in bytes. Raises KhoError."""
    with atomic_file(path, mode) as file:
        stream_packed(memory, packed, file, progress)
        return file.tell()


def stream_packed(
    memory: PhysicalMemory, packed: Plan, file: BinaryIO, progress: Callable[[int], None]
) -> None:
    """The same to a stream that need not seek."""
    note = _build(
        elf.elf64_nhdr, n_namesz=len(NOTE_NAME), n_descsz=len(packed.note), n_type=NOTE_TYPE
    )
    note += NOTE_NAME + packed.note.ljust(elf.note_padded(len(packed.note)), b"\0")
    segments = list(_writable(_segments(packed)))
    phnum = len(segments) + 1
    if phnum > MAX_SEGMENTS:
        raise KhoError(
            f"{phnum:,} separate runs of pages: more than the {MAX_SEGMENTS:,} segments that are "
            "read back",
            hint="without --content the handover's structures alone are packed",
        )
    extended = phnum >= elf.PN_XNUM
    note_offset = elf.elf64_ehdr.sizeof() + phnum * elf.elf64_phdr.sizeof()
    shoff = _aligned(note_offset + len(note), 8)
    end = shoff + elf.elf64_shdr.sizeof() if extended else note_offset + len(note)
    offset = _aligned(end, _ALIGN)
    file.write(_ehdr(elf.PN_XNUM if extended else phnum, shoff if extended else 0))
    file.write(_phdr(elf.PT_NOTE, note_offset, filesz=len(note), memsz=len(note)))
    pieces, total = [], 0
    for extent, filesz in segments:
        at, size = offset + total, extent.size
        file.write(_phdr(elf.PT_LOAD, at, paddr=extent.start, filesz=filesz, memsz=size))
        pieces.append(Piece(total, extent.start, filesz))
        total += filesz
    file.write(note)
    if extended:
        padding = shoff - note_offset - len(note)
        file.write(b"\0" * padding + _build(elf.elf64_shdr, sh_info=phnum))
    file.write(b"\0" * (_aligned(end, _ALIGN) - end))
    for part in Reader(memory).blocks(Item(Extent(0, 0), total, pieces)):
        # What cannot be read, though the plan has it, is an error that says so.
        assert part.paddr is not None
        file.write(memory.read(part.paddr, part.size) if part.data is None else part.data)
        progress(part.size)


def _segments(packed: Plan) -> Iterator[tuple[Extent, int]]:
    """``(memory, bytes stored of it)``: each stored run reaches up to the next one."""
    at = 0
    for declared in packed.declared:
        first = at
        while at < len(packed.stored) and packed.stored[at].start < declared.end:
            at += 1
        inside = packed.stored[first:at]
        bounds = [*(extent.start for extent in inside), declared.end]
        if declared.start < bounds[0]:
            yield Extent(declared.start, bounds[0]), 0
        for extent, bound in zip(inside, bounds[1:], strict=True):
            yield Extent(extent.start, bound), extent.size


def _writable(segments: Iterable[tuple[Extent, int]]) -> Iterator[tuple[Extent, int]]:
    """The same, none of 2**64 bytes: p_memsz has no room for that."""
    half = 1 << 63
    for extent, filesz in segments:
        if extent.size > (1 << 64) - 1:
            yield Extent(0, half), filesz
            extent, filesz = Extent(half, extent.end), 0
        yield extent, filesz


def _ehdr(phnum: int, shoff: int) -> bytes:
    return _build(
        elf.elf64_ehdr,
        e_ident={
            "magic": elf.ELFMAG,
            "ei_class": elf.ELFCLASS64,
            "ei_data": elf.ELFDATA2LSB,
            "ei_version": 1,
            "ei_osabi": 0,
            "ei_pad": bytes(8),
        },
        e_type=elf.ET_CORE,
        e_version=1,
        e_phoff=elf.elf64_ehdr.sizeof(),
        e_shoff=shoff,
        e_ehsize=elf.elf64_ehdr.sizeof(),
        e_phentsize=elf.elf64_phdr.sizeof(),
        e_phnum=phnum,
        e_shentsize=elf.elf64_shdr.sizeof() if shoff else 0,
        e_shnum=1 if shoff else 0,
    )


def _phdr(kind: int, offset: int, *, paddr: int = 0, filesz: int, memsz: int) -> bytes:
    fields = {
        "p_type": kind,
        "p_flags": 4,
        "p_offset": offset,
        "p_vaddr": paddr,
        "p_paddr": paddr,
        "p_filesz": filesz,
        "p_memsz": memsz,
        "p_align": 4 if kind == elf.PT_NOTE else 0,
    }
    # There may be half a million, which Construct's own builder takes apart.
    names = (field.name for field in elf.elf64_phdr.subcons)
    return format_of(elf.elf64_phdr).pack(*(fields[name] for name in names))


def _build(layout: Layout, **fields: Any) -> bytes:
    """A struct of which all other fields are zero."""
    names = [field.name for field in layout.subcons]
    built: bytes = layout.build({**dict.fromkeys(names, 0), **fields})
    return built


def _aligned(value: int, to: int) -> int:
    return -(-value // to) * to
