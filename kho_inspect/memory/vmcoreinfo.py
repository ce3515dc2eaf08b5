"""VMCOREINFO as the file format of a dump carries it, besides the memory."""

from __future__ import annotations

from collections.abc import Iterator

from kho_inspect.memory.base import PhysicalMemory
from kho_inspect.memory.elf_core import notes_of
from kho_inspect.memory.kdump import KdumpMemory
from kho_inspect.memory.mapped import MappedMemory
from kho_inspect.memory.recording import unrecorded

NOTE_NAME = b"VMCOREINFO"


def vmcoreinfo_notes(memory: PhysicalMemory) -> Iterator[bytes]:
    """The texts in the notes of an ELF core, or in the header of a kdump-compressed file."""
    memory = unrecorded(memory)
    if isinstance(memory, KdumpMemory):
        yield memory.vmcoreinfo
    elif isinstance(memory, MappedMemory) and memory.format.startswith(("elf", "kcore")):
        for name, text in notes_of(memory.file):
            if name.rstrip(b"\0") == NOTE_NAME:
                yield text
