"""ELF64 cores of physical memory: /proc/vmcore, QEMU ``dump-guest-memory``, our own samples.

``PT_LOAD`` segments go by ``p_paddr``; what ``p_memsz`` has beyond ``p_filesz`` is declared
but not stored; every other kind of segment is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts import elf
from kho_inspect.memory.files import DumpFile
from kho_inspect.memory.mapped import MappedMemory, RamBlock
from kho_inspect.units import Extent

NO_PADDR = (1 << 64) - 1
"""p_paddr of a /proc/kcore segment that is virtual only (vmalloc, vmemmap)."""


MAX_SEGMENTS = 1 << 19
"""Cores of machines have some tens, ours as many as pieces; each takes about half a kilobyte."""
MAX_NOTES = 4 << 20
"""Bytes of notes that are read of one file."""


def open_elf(file: DumpFile, *, live: bool = False) -> MappedMemory:
    """Raises UnreadableInputError when the file is not an ELF64 core of physical memory.

    ``live``: the memory changes while it is read.
    """
    import numpy as np

    segments = _segments(file)
    segments = segments[
        (segments["p_type"] == elf.PT_LOAD)
        & (segments["p_paddr"] != NO_PADDR)
        & ((segments["p_memsz"] > 0) | (segments["p_filesz"] > 0))
    ]
    if not len(segments):
        raise UnreadableInputError(
            f"{file.path}: this ELF file has no PT_LOAD segment with a physical address",
            hint="is it a vmlinux or a process core instead of a memory dump?",
            source=file.path,
        )
    paddr, offset, filesz, memsz = (
        np.ascontiguousarray(segments[name], dtype=np.uint64)
        for name in ("p_paddr", "p_offset", "p_filesz", "p_memsz")
    )
    filesz = np.where(memsz > 0, np.minimum(filesz, memsz), filesz)
    last = ~paddr  # bytes up to the very last one of the address space
    filesz = np.where(filesz > last, last + np.uint64(1), filesz)
    in_file = np.where(offset < file.size, np.uint64(file.size) - offset, np.uint64(0))
    stored = np.minimum(filesz, in_file)
    notes = []
    short = int((stored < filesz).sum())
    if short:
        notes.append(f"the file is cut short: {short} of {len(segments)} segments run past its end")
    starts = paddr.tolist()
    declared = [
        Extent(start, min(start + size, 1 << 64))
        for start, size in zip(starts, np.maximum(memsz, filesz).tolist(), strict=True)
    ]
    blocks = [
        RamBlock(*block)
        for block in zip(starts, offset.tolist(), stored.tolist(), strict=True)
        if block[2]
    ]
    blocks, shared = _each_byte_once(blocks)
    if shared:
        notes.append(
            f"the ELF file is damaged: {shared:,} of {len(segments):,} segments stand on bytes of "
            "the file that are other memory already; those are not read again"
        )
    return MappedMemory(file, "elf", blocks, declared=declared, notes=notes, live=live)


def notes_of(file: DumpFile) -> Iterator[tuple[bytes, bytes]]:
    """Name and descriptor of each note, of the first :data:`MAX_NOTES` bytes of them."""
    from kho_inspect.layouts.views import format_of

    header, left = format_of(elf.elf64_nhdr), MAX_NOTES
    segments = _segments(file)
    for segment in segments[segments["p_type"] == elf.PT_NOTE]:
        start, size = int(segment["p_offset"]), int(segment["p_filesz"])
        left -= size
        if left < 0:
            return
        data = file.view[start : start + size]
        while len(data) >= header.size:
            namesz, descsz, _ = header.unpack_from(data)
            name, desc = data[header.size :], data[header.size + elf.note_padded(namesz) :]
            yield bytes(name[:namesz]), bytes(desc[:descsz])
            data = desc[elf.note_padded(descsz) :]


def _each_byte_once(blocks: list[RamBlock]) -> tuple[list[RamBlock], int]:
    """Without what other blocks have of the file, the first of which keeps it.

    And how many blocks lost memory by that. Else a small file could pass for as much memory as it
    has headers times bytes, to be scanned and extracted.
    """
    kept: list[RamBlock] = []
    reach = holder = shared = 0
    for block in sorted(blocks, key=lambda block: (block.offset, block.paddr, block.size)):
        skip = min(max(0, reach - block.offset), block.size)
        # The kernel's text has a segment of its own in a vmcore, though it is in RAM as any other.
        shared += skip > 0 and block.paddr - block.offset != holder
        if skip < block.size:
            kept.append(RamBlock(block.paddr + skip, block.offset + skip, block.size - skip))
            reach, holder = block.offset + block.size, block.paddr - block.offset
    return kept, shared


def _segments(file: DumpFile) -> Any:
    """The program headers, as a structured array. Raises UnreadableInputError."""
    import numpy as np

    from kho_inspect.layouts.views import dtype_of

    def refuse(message: str, hint: str | None = None) -> UnreadableInputError:
        return UnreadableInputError(f"{file.path}: {message}", hint=hint, source=file.path)

    if file.size < elf.elf64_ehdr.sizeof():
        raise refuse(f"an ELF file of only {file.size} bytes has no room for its header")
    header = elf.elf64_ehdr.parse(file.view[: elf.elf64_ehdr.sizeof()])
    if (header.e_ident.ei_class, header.e_ident.ei_data) != (elf.ELFCLASS64, elf.ELFDATA2LSB):
        raise refuse(
            "only 64-bit little-endian ELF is read, this one is not",
            "KHO exists on x86-64 and arm64 only",
        )
    if header.e_type != elf.ET_CORE:
        raise refuse(
            f"this ELF file is of type {header.e_type}, should be {elf.ET_CORE} (core)",
            "give the memory dump, not a kernel image",
        )
    dtype = dtype_of(elf.elf64_phdr)
    if header.e_phentsize != dtype.itemsize:
        raise refuse(f"e_phentsize is {header.e_phentsize}, should be {dtype.itemsize}")
    count = header.e_phnum
    if count == elf.PN_XNUM:
        end = header.e_shoff + elf.elf64_shdr.sizeof()
        if header.e_shoff == 0 or end > file.size:
            raise refuse(
                f"e_phnum is PN_XNUM, but section header 0 at file offset {header.e_shoff:#x}, "
                "which should hold the count, is not in the file"
            )
        count = elf.elf64_shdr.parse(file.view[header.e_shoff : end]).sh_info
    if count > MAX_SEGMENTS:
        raise UnreadableInputError(
            f"{file.path} has {count:,} program headers, more than the {MAX_SEGMENTS:,} that are "
            "read",
            hint="no machine has as many pieces of memory: is it a dump at all?",
            source=file.path,
        )
    end = header.e_phoff + count * header.e_phentsize
    if end > file.size:
        raise refuse(
            f"{count} program headers at file offset {header.e_phoff:#x} run past the end of the "
            f"file ({file.size} bytes)",
            "the dump was cut short: take it again",
        )
    return np.frombuffer(file.view[header.e_phoff : end], dtype=dtype)
