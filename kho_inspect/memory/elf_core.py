"""ELF64 cores of physical memory: /proc/vmcore, QEMU ``dump-guest-memory``, our own samples.

``PT_LOAD`` segments go by ``p_paddr``; what ``p_memsz`` has beyond ``p_filesz`` is declared
but not stored; every other kind of segment is passed over.
"""

from __future__ import annotations

from typing import Any

from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts import elf
from kho_inspect.memory.files import DumpFile
from kho_inspect.memory.mapped import MappedMemory, RamBlock, in_file
from kho_inspect.units import Extent

NO_PADDR = (1 << 64) - 1
"""p_paddr of a /proc/kcore segment that is virtual only (vmalloc, vmemmap)."""


def open_elf(file: DumpFile) -> MappedMemory:
    """Raises UnreadableInputError when the file is not an ELF64 core of physical memory."""
    segments = _load_segments(file, _header(file))
    if not len(segments):
        raise UnreadableInputError(
            f"{file.path}: this ELF file has no PT_LOAD segment with a physical address",
            hint="is it a vmlinux or a process core instead of a memory dump?",
            source=file.path,
        )
    blocks, declared, short = [], [], 0
    for segment in segments:
        paddr, memsz = int(segment["p_paddr"]), int(segment["p_memsz"])
        filesz = min(int(segment["p_filesz"]), memsz) if memsz else int(segment["p_filesz"])
        block = RamBlock(paddr, int(segment["p_offset"]), min(filesz, (1 << 64) - paddr))
        stored = in_file(file, block)
        short += stored.size < block.size
        blocks.append(stored)
        declared.append(Extent(paddr, min(paddr + max(memsz, filesz), 1 << 64)))
    notes = []
    if short:
        notes.append(f"the file is cut short: {short} of {len(segments)} segments run past its end")
    return MappedMemory(
        file, "elf", (b for b in blocks if b.size > 0), declared=declared, notes=notes
    )


def _header(file: DumpFile) -> Any:
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
    if header.e_phentsize != elf.elf64_phdr.sizeof():
        raise refuse(f"e_phentsize is {header.e_phentsize}, should be {elf.elf64_phdr.sizeof()}")
    return header


def _load_segments(file: DumpFile, header: Any) -> Any:
    """The PT_LOAD program headers that carry a physical address, as a structured array."""
    import numpy as np

    from kho_inspect.layouts.views import dtype_of

    count = header.e_phnum
    if count == elf.PN_XNUM:
        end = header.e_shoff + elf.elf64_shdr.sizeof()
        if header.e_shoff == 0 or end > file.size:
            raise UnreadableInputError(
                f"{file.path}: e_phnum is PN_XNUM, but section header 0 at file offset "
                f"{header.e_shoff:#x}, which should hold the count, is not in the file",
                source=file.path,
            )
        count = elf.elf64_shdr.parse(file.view[header.e_shoff : end]).sh_info
    end = header.e_phoff + count * header.e_phentsize
    if end > file.size:
        raise UnreadableInputError(
            f"{file.path}: {count} program headers at file offset {header.e_phoff:#x} run past "
            f"the end of the file ({file.size} bytes)",
            hint="the dump was cut short: take it again",
            source=file.path,
        )
    headers = np.frombuffer(file.view[header.e_phoff : end], dtype=dtype_of(elf.elf64_phdr))
    return headers[
        (headers["p_type"] == elf.PT_LOAD)
        & (headers["p_paddr"] != NO_PADDR)
        & ((headers["p_memsz"] > 0) | (headers["p_filesz"] > 0))
    ]
