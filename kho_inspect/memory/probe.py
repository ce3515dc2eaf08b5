"""Telling one dump format from another by its first bytes, and unwrapping what is packed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kho_inspect.errors import UnreadableInputError, unreadable
from kho_inspect.layouts.diskdump import (
    KDUMP_SIGNATURE,
    MAKEDUMPFILE_SIGNATURE,
    makedumpfile_header,
)
from kho_inspect.layouts.elf import ELFMAG
from kho_inspect.layouts.fdt import FDT_MAGIC_BYTES, fdt_header_start
from kho_inspect.layouts.lime import LIME_MAGIC_BYTES
from kho_inspect.limits import DEFAULT_LIMITS
from kho_inspect.memory import lime
from kho_inspect.memory.base import PhysicalMemory
from kho_inspect.memory.compressed import NothingInsideError, find_packing, unpack
from kho_inspect.memory.elf_core import open_elf
from kho_inspect.memory.files import DumpFile, MappedFile
from kho_inspect.memory.flattened import FlattenedFile
from kho_inspect.memory.kdump import KdumpMemory
from kho_inspect.memory.mapped import MappedMemory, RamBlock
from kho_inspect.memory.raw import open_raw
from kho_inspect.units import PhysAddr

FORMATS: dict[str, str] = {
    "raw": "file offset = physical address (--base, --map)",
    "elf": "ELF64 core, PT_LOAD by p_paddr",
    "lime": "LiME, a header before each range of memory",
    "kdump": "kdump-compressed, flattened or not",
}
"""What is inside: any of them may come compressed with gzip, xz or zstd."""


class _Format(NamedTuple):
    """A format that is known by its magic."""

    magic: bytes
    what: str
    open: Callable[[DumpFile], MappedMemory | KdumpMemory]
    hint: str = "leave --dump-format out to have it probed"


_BY_MAGIC: dict[str, _Format] = {
    "elf": _Format(ELFMAG, "an ELF file", open_elf),
    "lime": _Format(
        LIME_MAGIC_BYTES, "a LiME file with range headers", lime.open_lime, lime.VARIANTS
    ),
    "kdump": _Format(KDUMP_SIGNATURE, "a kdump-compressed file", KdumpMemory),
}

_QEMU = "dump the memory: QEMU pmemsave or dump-guest-memory"
_UNREAD: tuple[tuple[bytes, str, str], ...] = (
    (b"BZh", "compressed with bzip2", "unpack it first: bunzip2"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it first: unlz4"),
    (b"AVML", "a compressed AVML file", "convert it to LiME: avml-convert --format lime"),
    (b"QFI\xfb", "a qcow2 disk image", _QEMU),
    (b"QEVM", "a QEMU savevm stream", _QEMU),
)
"""Magic, what it is, what to do: files that must not be mistaken for raw memory."""


def open_memory(
    path: str,
    *,
    format_name: str = "auto",
    base: PhysAddr = 0,
    blocks: Sequence[RamBlock] = (),
    progress: Callable[[int], None] = lambda size: None,
    max_unpacked: int = DEFAULT_LIMITS.unpacked,
) -> PhysicalMemory:
    """Open a dump; ``auto`` probes the format, ``base`` and ``blocks`` are for raw ones.

    A compressed file is unpacked first, to ``max_unpacked`` bytes at most, while ``progress`` gets
    bytes of it as they are taken; ``format_name`` is the format of what is inside.

    Raises UnreadableInputError with what is wrong and what to try.
    """
    file, wrapping, notes = _unwrap(MappedFile(path), format_name, progress, max_unpacked)
    memory = _open(file, format_name, base, blocks)
    if wrapping:
        memory.format = f"{memory.format} ({', '.join(wrapping)})"
    memory.notes = (*notes, *memory.notes)
    return memory


def _unwrap(
    file: MappedFile, format_name: str, progress: Callable[[int], None], max_unpacked: int
) -> tuple[DumpFile, list[str], list[str]]:
    """The dump itself; the names of what was around it; what is to be noted of that."""
    wrapping, notes = [], []
    packing = find_packing(_head(file))
    if packing:
        try:
            file, note = unpack(file, packing, progress, max_unpacked)
            wrapping.append(packing.name)
            notes += [note] if note else []
        except NothingInsideError:
            # Raw memory may begin with any magic.
            if format_name != "raw":
                raise
    if format_name == "raw" or not _head(file).startswith(MAKEDUMPFILE_SIGNATURE):
        return file, wrapping, notes
    flattened = FlattenedFile(file)
    return flattened, ["flattened", *wrapping], [*notes, *flattened.notes]


def _open(
    file: DumpFile, format_name: str, base: PhysAddr, blocks: Sequence[RamBlock]
) -> MappedMemory | KdumpMemory:
    if format_name == "auto":
        format_name = _probe(file)
    if format_name == "raw":
        return open_raw(file, base=base, blocks=blocks)
    if base or blocks:
        raise UnreadableInputError(
            f"--base and --map place a raw dump, but {file.path} is read as {format_name}",
            hint="leave them out, or say --dump-format raw",
            source=file.path,
        )
    wanted = _BY_MAGIC[format_name]
    if not _head(file).startswith(wanted.magic):
        raise unreadable(file.path, f"is not {wanted.what}", wanted.hint)
    return wanted.open(file)


def _head(file: DumpFile) -> bytes:
    return bytes(file.view[: makedumpfile_header.signature.sizeof()])  # the longest of all


def _probe(file: DumpFile) -> str:
    head = _head(file)
    for name, known in _BY_MAGIC.items():
        if head.startswith(known.magic):
            return name
    if isinstance(file, FlattenedFile):
        raise unreadable(
            file.path,
            "is in makedumpfile's flattened format, but holds neither a kdump nor an ELF core: "
            f"it starts with {head[:8].hex()}",
            "the start of the dump is missing or damaged: take it again",
        )
    for magic, what, hint in _UNREAD:
        if head.startswith(magic):
            hint += " (or --dump-format raw, if it really is raw memory)"
            raise unreadable(file.path, f"is {what}, which is not read as it stands", hint)
    # RAM may well begin with a device tree (QEMU's arm64 virt puts one there): only a file
    # that is hardly longer than the tree itself is one.
    totalsize = fdt_header_start.parse(head.ljust(fdt_header_start.sizeof(), b"\0")).totalsize
    if head.startswith(FDT_MAGIC_BYTES) and file.size <= max(2 * totalsize, 4096):
        hint = "the order is: kho-inspect DUMP DTB"
        raise unreadable(file.path, "is a device tree, not a memory dump", hint)
    return "raw"
