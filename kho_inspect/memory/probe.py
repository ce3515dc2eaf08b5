"""Telling one dump format from another by its first bytes."""

from __future__ import annotations

from collections.abc import Sequence

from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts.fdt import FDT_MAGIC_BYTES
from kho_inspect.memory.base import PhysicalMemory
from kho_inspect.memory.elf_core import open_elf
from kho_inspect.memory.files import MappedFile
from kho_inspect.memory.mapped import RamBlock
from kho_inspect.memory.raw import open_raw
from kho_inspect.units import PhysAddr

FORMATS: dict[str, str] = {
    "raw": "file offset = physical address (--base, --map)",
    "elf": "ELF64 core, PT_LOAD by p_paddr",
}

_UNREAD: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it first: unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: unzstd"),
    (b"BZh", "compressed with bzip2", "unpack it first: bunzip2"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it first: unlz4"),
    (b"KDUMP   ", "a kdump-compressed vmcore", "take or convert it as an ELF core"),
    (b"makedumpfile", "a flattened kdump", "take or convert it as an ELF core"),
    (b"EMiL", "a LiME file", "take or convert it as a raw dump"),
    (b"QFI\xfb", "a qcow2 disk image", "dump the memory: QEMU pmemsave or dump-guest-memory"),
    (b"QEVM", "a QEMU savevm stream", "dump the memory: QEMU pmemsave or dump-guest-memory"),
)
"""Magic, what it is, what to do: files that must not be mistaken for raw memory."""


def open_memory(
    path: str,
    *,
    format_name: str = "auto",
    base: PhysAddr = 0,
    blocks: Sequence[RamBlock] = (),
) -> PhysicalMemory:
    """Open a dump; ``auto`` probes the format, ``base`` and ``blocks`` are for raw ones.

    Raises UnreadableInputError with what is wrong and what to try.
    """
    file = MappedFile(path)
    raw_wanted = bool(base or blocks)
    if format_name == "auto":
        format_name = _probe(file)
    if format_name == "raw":
        return open_raw(file, base=base, blocks=blocks)
    if raw_wanted:
        raise UnreadableInputError(
            f"--base and --map place a raw dump, but {path} is read as {format_name}",
            hint="leave them out, or say --format raw",
            source=path,
        )
    if bytes(file.view[:4]) != b"\x7fELF":
        raise UnreadableInputError(
            f"{path} is not an ELF file", hint="leave --format out to have it probed", source=path
        )
    return open_elf(file)


def _probe(file: MappedFile) -> str:
    head = bytes(file.view[:16])
    if head.startswith(b"\x7fELF"):
        return "elf"
    for magic, what, hint in _UNREAD:
        if head.startswith(magic):
            raise UnreadableInputError(
                f"{file.path} is {what}, which is not read as it stands",
                hint=f"{hint} (or --format raw, if it really is raw memory)",
                source=file.path,
            )
    # RAM may well begin with a device tree (QEMU's arm64 virt puts one there): only a file
    # that is hardly longer than the tree itself is one.
    totalsize = int.from_bytes(head[4:8], "big")
    if head.startswith(FDT_MAGIC_BYTES) and file.size <= max(2 * totalsize, 4096):
        raise UnreadableInputError(
            f"{file.path} is a device tree, not a memory dump",
            hint="the order is: kho-inspect DUMP DTB",
            source=file.path,
        )
    return "raw"
