"""The tree of a DTB does not read well in a dump: which way of reading the two does fit?

A raw dump says nothing of its addresses, a DTB nothing of its dump. What the blobs of a handover
begin with is known: each pair of a pointer and such a beginning in the file votes for one
difference between address and file offset. Votes only propose: a fit is what the tree itself
confirms, read from the root down, with blobs and the root FDT recorded in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kho_inspect.errors import KhoError
from kho_inspect.geometry import PageGeometry, page_size_name
from kho_inspect.limits import Limits
from kho_inspect.locate.page_size import blob_pointers, find_page_size
from kho_inspect.locate.placing import (
    MAX_SCANNED,
    addresses,
    begins_blob,
    find_beginnings,
    may_be_map,
    propose_layouts,
)
from kho_inspect.locate.scan import MAX_ROOT_FDT, Located, locate
from kho_inspect.memory import PhysicalMemory, Presence, RamBlock
from kho_inspect.memory.mapped import MappedMemory
from kho_inspect.memory.raw import open_raw
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import RootFdt
from kho_inspect.units import PhysAddr, plural
from kho_inspect.walk.chunk_list import walk_chunks
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.radix import walk_radix

MAX_TRIED = 32
"""Layouts of the file under which the tree is read."""
MAX_NODES = 1 << 14
MAX_RUNS = 1 << 18
MAX_COPIES = 64
"""Copies of the root FDT that may be the one which the tree records."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A way of reading the dump in which a tree reads well."""

    option: str
    """For the command line: ``--base …``, ``--map …``, ``--page-size …``; or a DTB, ``auto``."""
    evidence: tuple[str, ...]
    """Facts, for people."""


class _Reading(NamedTuple):
    """What a tree that reads well says of the handover."""

    pointers: int
    """To nodes of the tree."""
    blobs: int
    """Those in a block that the tree preserves, and the dump holds."""
    all_blobs: int
    fdt: PhysAddr | None
    """Where the root FDT stands in a preserved page."""
    stored: int
    """Runs of preserved pages of which the dump holds both ends."""
    runs: int

    @property
    def evidence(self) -> tuple[str, ...]:
        blobs = f"{self.blobs} of {plural(self.all_blobs, 'blob')} and "
        said = [f"{blobs if self.all_blobs else ''}the tree root read there"]
        said.append(f"{plural(self.pointers, 'pointer')} in the tree, none bad")
        if self.fdt is not None:
            said.append(f"the tree preserves the page of the root FDT, {self.fdt:#x}")
        said.append(f"{self.stored} of {plural(self.runs, 'run')} of preserved pages in the dump")
        return tuple(said)


def find_fit(
    memory: PhysicalMemory,
    root: RootFdt,
    geometry: PageGeometry,
    located: Located | None,
    limits: Limits,
) -> Fit | None:
    """Why the tree of ``root`` does not read well in ``memory`` under ``geometry``.

    None where nothing fits better, or two ways fit equally: a dump taken late, a tree that was
    zeroed or damaged; and where the tree does read well. ``located``: what a scan of ``memory``
    found, if there was one. Never raises.
    """
    bounded = Limits(nodes=min(limits.nodes, MAX_NODES), runs=min(limits.runs, MAX_RUNS))
    if not root.reads_map or not root.memory_map:
        return None
    try:
        located = located or locate(memory, limit=MAX_SCANNED)
        finder = _Finder(root, bounded)
        copies = [found.paddr for found in located.fdts if found.data == root.data]
        if finder.read(memory, geometry, copies):
            return None
        return (
            finder.page_size(memory, geometry, copies)
            or finder.dtb(memory, located, copies)
            or finder.layout(memory, located)
        )
    except KhoError:  # the file shrinks while it is read, say
        return None


class _Finder:
    """Reads one root FDT's tree in several ways."""

    def __init__(self, root: RootFdt, limits: Limits) -> None:
        self.root = root
        self.limits = limits
        self.memory_map = root.memory_map or 0
        self.blobs = blob_pointers(root.root, root.abi)

    def read(
        self, memory: PhysicalMemory, geometry: PageGeometry, copies: Sequence[PhysAddr]
    ) -> _Reading | None:
        """The tree in ``memory``, None where it does not read well.

        It has no bad pointer, and knows most of the blobs and of the root FDT, which stands at
        one of ``copies``.
        """
        faults = FaultLog()
        walk = walk_radix if self.root.abi.radix else walk_chunks
        tree, preserved = walk(memory, geometry, self.memory_map, faults, self.limits)
        # A tree beyond the limits was read in part, which is enough.
        if any(fault.kind is not FaultKind.LIMIT for fault in faults.result()):
            return None

        def kept(paddr: PhysAddr) -> bool:
            # A key that is junk may cover all memory there is, and more.
            return any(
                memory.presence(block.paddr, block.size) is Presence.STORED
                for block in preserved.blocks_at(paddr)
            )

        blobs = sum(map(kept, self.blobs))
        fdt = next(filter(kept, copies[:MAX_COPIES]), None)
        if 2 * (blobs + (fdt is not None)) <= len(self.blobs):
            return None
        stored = runs = 0
        for starts, ends in preserved.runs.values():
            first = starts.astype(np.uint64) << np.uint64(geometry.shift)
            last = (ends - 1).astype(np.uint64) << np.uint64(geometry.shift)
            held = memory.stored_mask(first, geometry.page_size)
            held &= memory.stored_mask(last, geometry.page_size)
            stored, runs = stored + int(held.sum()), runs + len(starts)
        return _Reading(tree.pointers, blobs, len(self.blobs), fdt, stored, runs)

    def page_size(
        self, memory: PhysicalMemory, geometry: PageGeometry, copies: Sequence[PhysAddr]
    ) -> Fit | None:
        """Another page size than the one that was given."""
        best = self.best_geometry(memory)
        if best is None or best.shift == geometry.shift:
            return None
        reading = self.read(memory, best, copies)
        if reading is None:
            return None
        return Fit(f"--page-size {page_size_name(best.shift)}", reading.evidence)

    def best_geometry(self, memory: PhysicalMemory) -> PageGeometry | None:
        """The page size that a part of the tree shows; None where it has bad pointers."""
        abi, root = self.root.abi, self.root.root
        best, _ = find_page_size(memory, abi, root, self.memory_map, self.limits)
        return best.geometry if best.aligned and best.good and not best.bad else None

    def dtb(
        self, memory: PhysicalMemory, located: Located, copies: Sequence[PhysAddr]
    ) -> Fit | None:
        """Another root FDT in the dump, where nothing of this one is in it.

        A dump taken late holds the root FDT that the next kernel prepares for its own successor.
        That is told by what points elsewhere (only a kernel that was handed over to has such
        pointers, and keeps them), or by this FDT, or most of its blobs, being there too.
        """
        begun = sum(begins_blob(memory, paddr) for paddr in self.blobs)
        if copies or not located.fdts or 2 * begun > len(self.blobs):
            return None
        best = located.fdts[0]
        meant = best.pointers or not located.pointers
        if not (best.valid_tree and best.preserved and meant):
            return None
        evidence = [
            f"another root FDT ({best.compatible}) stands at {best.paddr:#x}: {best.why}",
            "no copy of the DTB in the dump",
        ]
        if self.blobs:
            evidence.append(f"{begun} of {plural(len(self.blobs), 'blob')} of the DTB in the dump")
        return Fit("auto", tuple(evidence))

    def layout(self, memory: PhysicalMemory, located: Located) -> Fit | None:
        """A base, or a map of two blocks, for a raw dump."""
        if not isinstance(memory, MappedMemory) or not memory.format.startswith("raw"):
            return None
        file = memory.file
        offsets = find_beginnings(file)
        data = self.root.data[: MAX_ROOT_FDT + 1]  # a longer one was never in one page of memory
        fdts = [at for at in offsets.tolist() if file.view[at : at + len(data)] == data]
        # An entry of setup_data names its root FDT, whatever the base; only PCs have such.
        pc = any(pointer.source.startswith("setup_data") for pointer in located.pointers)
        ranked = []
        tried = 0
        for votes, blocks in propose_layouts(self.blobs, offsets, file.size):
            moved = open_raw(file, base=0, blocks=blocks)
            if tried >= MAX_TRIED or not may_be_map(moved, self.root.abi, self.memory_map):
                continue
            tried += 1
            geometry = self.best_geometry(moved)
            copies = addresses(blocks, fdts[:MAX_COPIES])
            reading = geometry and self.read(moved, geometry, copies)
            if reading:
                starts_at_0 = pc and blocks[0].paddr == 0
                known = reading.blobs, reading.fdt is not None, reading.stored, votes
                ranked.append(((*known, starts_at_0, -len(blocks)), blocks, reading))
        ranked.sort(key=lambda one: one[0])
        if not ranked or (len(ranked) > 1 and ranked[-2][0] == ranked[-1][0]):
            return None
        rank, blocks, reading = ranked[-1]
        evidence = reading.evidence
        # A handover all above 4 GiB, with nothing to tell a PC from another machine.
        others = (other for score, other, _ in ranked[:-1] if score[:-1] == rank[:-1])
        around_hole = next((other for other in others if other[0].paddr == 0), None)
        if around_hole and blocks[0].paddr:
            evidence += (f"as good: {_option(around_hole)}",)
        return Fit(_option(blocks), evidence)


def _option(blocks: Sequence[RamBlock]) -> str:
    if len(blocks) == 1:
        return f"--base {blocks[0].paddr:#x}"
    return " ".join(f"--map {one.paddr:#x}:{one.offset:#x}:{one.size:#x}" for one in blocks)
