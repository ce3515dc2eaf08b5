"""ELF64 cores of physical memory: /proc/vmcore, QEMU ``dump-guest-memory``, our own samples.

``PT_LOAD`` segments go by ``p_paddr``; what ``p_memsz`` has beyond ``p_filesz`` is declared
but not stored; every other kind of segment is passed over.
"""

from collections.abc import Iterator

from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts import elf
from kho_inspect.layouts.views import format_of
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
    blocks: list[RamBlock] = []
    declared: list[Extent] = []
    left, short, cut = file.size, 0, 0
    for kind, _, offset, _, paddr, filesz, memsz, _ in _segments(file):
        if kind != elf.PT_LOAD or paddr == NO_PADDR or not (memsz or filesz):
            continue
        declared.append(Extent(paddr, min(paddr + (memsz or filesz), 1 << 64)))
        wanted = min(filesz, declared[-1].size)
        stored = max(0, min(wanted, file.size - offset))
        # Segments that share bytes of the file could else make it pass for any amount of memory.
        size = min(stored, left)
        short, cut, left = short + (stored < wanted), cut + (size < stored), left - size
        if size:
            blocks.append(RamBlock(paddr, offset, size))
    if not declared:
        raise _refused(
            file,
            "this ELF file has no PT_LOAD segment with a physical address",
            "is it a vmlinux or a process core instead of a memory dump?",
        )
    notes = []
    if short:
        notes.append(f"the file is cut short: {short} of {len(declared)} segments run past its end")
    if cut:
        notes.append(
            f"the ELF file is damaged: its segments share bytes of the file; {cut:,} of "
            f"{len(declared):,} are not read to their end"
        )
    return MappedMemory(file, "elf", blocks, declared=declared, notes=notes, live=live)


def notes_of(file: DumpFile) -> Iterator[tuple[bytes, bytes]]:
    """Name and descriptor of each note, of the first :data:`MAX_NOTES` bytes of them."""
    header, left = format_of(elf.elf64_nhdr), MAX_NOTES
    for kind, _, start, _, _, size, _, _ in _segments(file):
        if kind != elf.PT_NOTE:
            continue
        left -= size
        if left < 0:
            return
        data = file.view[start : start + size]
        while len(data) >= header.size:
            namesz, descsz, _ = header.unpack_from(data)
            name, desc = data[header.size :], data[header.size + elf.note_padded(namesz) :]
            yield bytes(name[:namesz]), bytes(desc[:descsz])
            data = desc[elf.note_padded(descsz) :]


def _segments(file: DumpFile) -> Iterator[tuple[int, ...]]:
    """The fields of each program header. Raises UnreadableInputError."""
    if file.size < elf.elf64_ehdr.sizeof():
        raise _refused(file, f"an ELF file of only {file.size} bytes has no room for its header")
    header = elf.elf64_ehdr.parse(file.view[: elf.elf64_ehdr.sizeof()])
    if (header.e_ident.ei_class, header.e_ident.ei_data) != (elf.ELFCLASS64, elf.ELFDATA2LSB):
        raise _refused(
            file,
            "only 64-bit little-endian ELF is read, this one is not",
            "KHO exists on x86-64 and arm64 only",
        )
    if header.e_type != elf.ET_CORE:
        raise _refused(
            file,
            f"this ELF file is of type {header.e_type}, should be {elf.ET_CORE} (core)",
            "give the memory dump, not a kernel image",
        )
    form = format_of(elf.elf64_phdr)
    if header.e_phentsize != form.size:
        raise _refused(file, f"e_phentsize is {header.e_phentsize}, should be {form.size}")
    count = header.e_phnum
    if count == elf.PN_XNUM:
        end = header.e_shoff + elf.elf64_shdr.sizeof()
        if header.e_shoff == 0 or end > file.size:
            raise _refused(
                file,
                f"e_phnum is PN_XNUM, but section header 0 at file offset {header.e_shoff:#x}, "
                "which should hold the count, is not in the file",
            )
        count = elf.elf64_shdr.parse(file.view[header.e_shoff : end]).sh_info
    if count > MAX_SEGMENTS:
        raise _refused(
            file,
            f"{count:,} program headers are more than the {MAX_SEGMENTS:,} that are read",
            "no machine has as many pieces of memory: is it a dump at all?",
        )
    end = header.e_phoff + count * form.size
    if end > file.size:
        raise _refused(
            file,
            f"{count} program headers at file offset {header.e_phoff:#x} run past the end of the "
            f"file ({file.size} bytes)",
            "the dump was cut short: take it again",
        )
    return form.iter_unpack(file.view[header.e_phoff : end])


def _refused(file: DumpFile, message: str, hint: str | None = None) -> UnreadableInputError:
    return UnreadableInputError(f"{file.path}: {message}", hint=hint, source=file.path)
