"""The build id of a kernel that left no VMCOREINFO, from the ELF notes in its image."""

from collections.abc import Iterator

from kho_inspect.kernel_log.translate import Shifted, read_filled
from kho_inspect.layouts.elf import ELFMAG, NT_GNU_BUILD_ID, elf64_nhdr
from kho_inspect.memory import PhysicalMemory
from kho_inspect.memory.recording import unrecorded
from kho_inspect.units import PhysAddr

IMAGE = 64 << 20
"""Bytes before a kernel's data in which the rest of its image lies."""
PIECE = 512 << 10
SHA1 = 20
PAGE = 4096
VDSO = 16 * PAGE
"""Bytes of the largest vDSO: an ELF image, with a build id of its own, in the kernel's."""
BESIDE = 32
"""Bytes before the note, in which another of the kernel's own stands: ``CONFIG_BUILD_SALT``."""

_NAME = b"GNU\0"
_HEAD = (
    elf64_nhdr.build({"n_namesz": len(_NAME), "n_descsz": SHA1, "n_type": NT_GNU_BUILD_ID}) + _NAME
)


def noted_build_id(memory: PhysicalMemory, data: PhysAddr) -> str | None:
    """The build id in the image whose data is at ``data``; None unless there is just one."""
    found = {note for at in _heads(memory, data) if (note := _kernel_note(memory, at))}
    return found.pop().hex() if len(found) == 1 else None


def _heads(memory: PhysicalMemory, data: PhysAddr) -> Iterator[PhysAddr]:
    """Where a build id's note may begin, before ``data``."""
    searched = unrecorded(memory)
    for extent in memory.stored:
        end = min(extent.end, data)
        for start in range(max(extent.start, data - IMAGE), end, PIECE):
            size = min(PIECE, end - start) + len(_HEAD) - 1
            piece = bytes(read_filled(searched, Shifted(0), start, size)[0])
            at = piece.find(_HEAD)
            while at >= 0:
                yield start + at
                at = piece.find(_HEAD, at + 1)


def _kernel_note(memory: PhysicalMemory, at: PhysAddr) -> bytes | None:
    """What the note says; None in an ELF image, or without a kernel's note before it."""
    start = max(0, at - VDSO) & -PAGE
    before = bytes(read_filled(memory, Shifted(0), start, at - start)[0])
    if any(before.startswith(ELFMAG, page) for page in range(0, len(before), PAGE)):
        return None
    note, missing = read_filled(memory, Shifted(0), at + len(_HEAD), SHA1)
    return None if missing or b"Linux\0" not in before[-BESIDE:] else bytes(note)
