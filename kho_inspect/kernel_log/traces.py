"""Traces of kernels in memory, looked for in the one scan that finds root FDTs too."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kho_inspect.memory import PhysicalMemory
from kho_inspect.memory.elf_core import notes_of
from kho_inspect.memory.kdump import KdumpMemory
from kho_inspect.memory.mapped import MappedMemory
from kho_inspect.memory.recording import unrecorded
from kho_inspect.units import PhysAddr

MAX_SIGHTINGS = 256
"""Places of each kind that are looked at: a dump of two kernels has some ten."""

_NEEDLES = tuple(int.from_bytes(text, "little") for text in (b"OSRELEAS", b"Linux ve"))
"""How VMCOREINFO and banners begin."""
_KERNEL = np.uint64(0xFF << 56)
_NONE = np.empty(0, dtype=np.intp)
_ONE, _BITS = np.uint64(1), np.uint64(31)
"""The bits of any count of a ring: from, and to."""


@dataclass(slots=True, eq=False)
class Traces:
    """Where kernels may have left their name or log: all on 8 bytes, as the kernel lays them."""

    infos: list[PhysAddr] = field(default_factory=list)
    banners: list[PhysAddr] = field(default_factory=list)
    rings: list[PhysAddr] = field(default_factory=list)
    """What may be a ``printk_ringbuffer``, by its pointers and numbers."""
    _last: tuple[PhysAddr, NDArray[np.uint64]] | None = None
    """The end of the last piece, where a ring may begin in it, and where the next one does."""

    def look(self, start: PhysAddr, words: NDArray[np.uint64]) -> None:
        """Keep what is in a piece of memory, as words of 8 bytes from ``start`` on."""
        for needle, found in zip(_NEEDLES, (self.infos, self.banners), strict=True):
            same = words == needle
            if same.any():
                at = np.flatnonzero(same)[: MAX_SIGHTINGS - len(found)]
                found += [start + 8 * one for one in at.tolist()]
        self._look_for_rings(start, words)

    def in_dump(self, memory: PhysicalMemory) -> bool:
        """Whether there is any, or VMCOREINFO in the notes of the file."""
        return bool(self.infos or self.banners or self.rings) or any(vmcoreinfo_notes(memory))

    def _look_for_rings(self, start: PhysAddr, words: NDArray[np.uint64]) -> None:
        before, self._last = self._last, None
        heads, small = _heads(words), (words[-1:] - _ONE < _BITS).any()
        if before is None and not len(heads) and not small:
            return
        from kho_inspect.layouts.printk import RING_WORDS, may_be_rings

        if before is not None and before[0] == start:
            joined = np.concatenate([before[1], words[: RING_WORDS - 1]])
            first = _heads(joined)
            first = first[first < len(before[1])]
            if len(first):
                self._keep(start - 8 * len(before[1]), may_be_rings(joined, first))
        if small or (len(heads) and heads[-1] > len(words) - RING_WORDS):
            self._last = start + 8 * len(words), words[1 - RING_WORDS :].copy()
        if len(heads):
            self._keep(start, may_be_rings(words, heads))

    def _keep(self, start: PhysAddr, at: NDArray[np.intp]) -> None:
        room = MAX_SIGHTINGS - len(self.rings)
        self.rings += [start + 8 * one for one in at[:room].tolist()]


def vmcoreinfo_notes(memory: PhysicalMemory) -> Iterator[bytes]:
    """VMCOREINFO texts in the notes of an ELF core, or the header of a kdump-compressed file."""
    memory = unrecorded(memory)
    if isinstance(memory, KdumpMemory):
        yield memory.vmcoreinfo
    elif isinstance(memory, MappedMemory) and memory.format.startswith("elf"):
        notes = notes_of(memory.file)
        yield from (text for name, text in notes if name.rstrip(b"\0") == b"VMCOREINFO")


def _heads(words: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Where a ring may begin: with count_bits, then a pointer, which most memory has none of."""
    pointer = words[1:] >= _KERNEL
    return np.flatnonzero(pointer & (words[:-1] - _ONE < _BITS)) if pointer.any() else _NONE
