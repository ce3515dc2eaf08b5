"""What the rules look at: one handover, in views of its map, claims and memfds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from kho_inspect.abi import RELEASED, Kernel, kernels_of
from kho_inspect.errors import FdtError, LostHandoverError
from kho_inspect.model.claims import Unclaimed
from kho_inspect.model.contents import Content, Item
from kho_inspect.model.faults import BAD_POINTERS, Fault, FaultKind
from kho_inspect.model.handover import Blob, Handover, Pointer, Scratch
from kho_inspect.model.identity import Message, Name, Owner, Path, Place, Step, StepKind
from kho_inspect.model.luo import Handler, Luo, LuoFile, LuoSession
from kho_inspect.ownership.hidden import undecoded
from kho_inspect.rules.base import Need, Observation, Subject
from kho_inspect.rules.claims_view import ClaimsView
from kho_inspect.rules.map_view import MapView
from kho_inspect.rules.memfds_view import MemfdsView
from kho_inspect.units import PhysAddr, human_size

if TYPE_CHECKING:
    from kho_inspect.locate.fit import Fit
    from kho_inspect.model.kernel_image import KernelImage
    from kho_inspect.model.printed import Printed
    from kho_inspect.rules.expectations import Expectation

C = TypeVar("C", bound=Content)
T = TypeVar("T")

MAX_SCRATCH = 1024
"""Entries of a scratch table; kernels have one per NUMA node and two more."""
ROOT: Path = (Step(StepKind.FDT),)
"""The path of the root FDT."""


@dataclass(frozen=True, eq=False)
class Case:
    """One handover under examination."""

    opened: Handover | None
    """None when there is no root FDT that can be read; ``fdt_error`` or ``lost`` says why."""
    fdt_error: FdtError | None = None
    target: Kernel | None = None
    """The kernel whose decision is emulated."""
    target_name: str = ""
    expectations: Sequence[Expectation] | None = None
    fit: Fit | None = None
    """What the dump shows to be given wrongly, where the map does not read as one."""
    lost: LostHandoverError | None = None
    """The handover was handed over, and nothing of its root FDT is left."""
    printed: Sequence[Printed] = ()
    """What kernels in the dump printed of this very handover."""
    handed: frozenset[PhysAddr] = frozenset()
    """Root FDTs of other handovers that kernels in the dump printed to have been given."""
    ignored: Collection[Name] = ()
    """Owners of whom nothing is to be found."""
    digest: Callable[[Item], str | None] = lambda item: None
    """SHA-256 of what is in the dump, None where some of it is lacking, or it is not read."""

    @property
    def handover(self) -> Handover:
        """What was opened, for rules with ``Need.FDT``."""
        assert self.opened is not None
        return self.opened

    @cached_property
    def map(self) -> MapView:
        """The preserved-memory map."""
        return MapView(self.handover)

    @cached_property
    def claims(self) -> ClaimsView:
        return ClaimsView(self.map)

    @cached_property
    def memfds(self) -> MemfdsView:
        return MemfdsView(self.claims, [luo.files for _, luo in self.contents(Luo)])

    @property
    def scratch(self) -> Scratch:
        """The scratch table, for rules with ``Need.SCRATCH``."""
        assert self.handover.scratch is not None
        return self.handover.scratch

    @cached_property
    def scratch_trouble(self) -> str | None:
        """What shows that the scratch table is none; None when it is one, or there is none."""
        if self.handover.scratch is None:
            return None
        table, areas = self.scratch.table, self.scratch.areas
        if table is not None and table.size > MAX_SCRATCH * 16:
            return f"scratch table is {human_size(table.size)}, should be a few times 16"
        page, declared = self.handover.geometry.page_size, self.handover.source.declared
        if areas and not any(
            not (area.start % page or area.end % page)
            or any(ram.overlaps(area) for ram in declared)
            for area in areas
        ):
            return "no scratch area is aligned or in RAM: the table was overwritten"
        return None

    @property
    def consumer(self) -> Kernel:
        """The kernel that would read the blobs.

        A target that refuses the root FDT does not read them.
        """
        fdt, target = self.handover.fdt, self.target
        if target is not None and target.takes_root(fdt.root.strings("compatible")):
            return target
        return kernels_of(fdt.abi.compatible)

    def takes_unreleased(self, compatible: str) -> bool:
        """Whether it is for another kernel of its writer's kind to take what no release writes."""
        return self.consumer is not self.target and compatible not in RELEASED

    @property
    def image(self) -> KernelImage | None:
        """The target, where it is a kernel image."""
        if self.target is None:
            return None
        from kho_inspect.model.kernel_image import KernelImage

        return self.target if isinstance(self.target, KernelImage) else None

    @property
    def root_outside(self) -> bool:
        """Whether the map begins outside the dump's memory."""
        tree = self.handover.tree
        return (
            tree is not None
            and not tree.readable
            and any(fault.paddr == tree.root for fault in self.faults(FaultKind.NODE_OUTSIDE))
        )

    @property
    def misreads(self) -> bool:
        """Whether pointers lead elsewhere: damage, or dump and DTB that do not fit as opened."""
        if self.opened is None:
            return False
        tree = self.handover.tree
        unread = tree is not None and not tree.readable
        elsewhere = any(self.faults(*BAD_POINTERS, FaultKind.BLOB_OUTSIDE))
        return unread or elsewhere or self.map.is_late

    @property
    def writer_unknown(self) -> bool:
        """Whether what kernels of this root take is a guess: its ABI is not known as a whole."""
        fdt, own = self.handover.fdt, self.consumer is not self.target
        return own and (fdt.assumed or bool(fdt.abi.unknown))

    @cached_property
    def foreign(self) -> bool:
        """Whether the handover is of an ABI that is not known as a whole, assumed or not."""
        fdt = self.handover.fdt
        luo = any(content.foreign for _, content in self.contents(Luo))
        return not fdt.known or fdt.assumed or bool(fdt.abi.unknown) or luo

    @property
    def subjects(self) -> set[Subject]:
        """What this handover has, for rules that are about one thing."""
        if self.opened is None:
            return set()
        names = {node.name for node in self.handover.fdt.root.children}
        undecoded = any(b.name == "LUO" and b.content is None for b in self.handover.blobs)
        memfd = undecoded or any(self.memfds.present())
        radix = self.handover.fdt.abi.radix
        present = {
            Subject.LUO: "LUO" in names,
            Subject.MEMFD: memfd,
            Subject.MEMBLOCK: "memblock" in names,
            Subject.KHO_TEST: "kho_test" in names,
            Subject.METADATA: "kexec-metadata" in names,
            Subject.VMALLOC: memfd or "kho_test" in names,
            Subject.RADIX: radix,
            Subject.CHUNKS: not radix,
        }
        return {subject for subject, here in present.items() if here}

    def why(self, need: Need) -> str:
        """Why it is missing, and what to do."""
        if need is Need.TREE and self.opened is not None and self.opened.fdt.unwritten:
            return Need.MAP.value
        pointer: Pointer | None = None
        if need is Need.SCRATCH and self.opened is not None:
            pointer = self.handover.boot or next(iter(self.handover.pointers), None)
        if pointer is None:
            return need.value
        table, size = pointer.scratch, min(pointer.scratch.size, MAX_SCRATCH * 16)
        stored = any(part.contains(table.start, size) for part in self.handover.source.stored)
        state = "zero" if stored else "not stored in the dump"
        if size < 16:
            state = f"{size} bytes, less than an entry"
        words = f"scratch table that {pointer.source} names, {table}, is {state}"
        return f"the {words}: --scratch START+LEN, or --boot-dtb FILE"

    @property
    def missing(self) -> set[Need]:
        """What this case cannot provide."""
        if self.opened is None:
            return set(Need)
        handover = self.handover
        gone = {
            Need.ABI: not handover.fdt.known,
            Need.TREE: handover.tree is None or not handover.tree.readable,
            Need.MAP: handover.fdt.unwritten,
            Need.SESSIONS: bool(self.unserialized) and not any(self.sessions()),
            Need.TRUSTED: self.map.is_late,
            Need.SCRATCH: handover.scratch is None,
            Need.SOUND_SCRATCH: self.scratch_trouble is not None,
            Need.TARGET: self.target is None,
            Need.EXPECTATIONS: self.expectations is None,
            Need.FDT_IN_MEMORY: handover.fdt.paddr is None,
            Need.ALL_CLAIMS: handover.unclaimed is not Unclaimed.ORPHAN,
        }
        return {need for need, absent in gone.items() if absent}

    @cached_property
    def unserialized(self) -> list[Blob]:
        """LUO where it has no sessions (yet), and nothing shows that they were lost."""
        return [
            blob
            for blob, luo in self.contents(Luo)
            if not (luo.complete() or luo.flbs)
            and (luo.sessions_pa or not luo.abi.fdt)
            and (*subnode(blob.name), Step(StepKind.SESSIONS)) not in self.memfds.broken
        ]

    def unknown_content(self) -> Iterator[tuple[str, Path]]:
        """Words and path of each blob and file that no decoder knows."""
        yield from undecoded(self.handover.blobs)
        for _, content in self.contents(Content):
            yield from content.unknown()

    def faults(self, *kinds: FaultKind) -> Iterator[Fault]:
        """The faults of these kinds."""
        return (fault for fault in self.handover.faults if fault.kind in kinds)

    def observed(self, *kinds: FaultKind) -> Iterator[Observation]:
        """The faults of these kinds as they are."""
        for fault in self.faults(*kinds):
            yield Observation(fault.message, fault.paddr, fault.path)

    def in_ram(self, paddr: PhysAddr | None) -> bool:
        """Whether the machine has memory at an address."""
        declared = self.handover.source.declared
        return paddr is not None and any(ram.contains(paddr) for ram in declared)

    def contents(self, kind: type[C]) -> Iterator[tuple[Blob, C]]:
        """Every blob that was decoded as this kind of content."""
        for blob in self.handover.blobs:
            if isinstance(blob.content, kind):
                yield blob, blob.content

    def sessions(self) -> Iterator[LuoSession]:
        for _, luo in self.contents(Luo):
            yield from luo.sessions

    def files(self) -> Iterator[tuple[LuoSession, LuoFile]]:
        """All files with their sessions."""
        for session in self.sessions():
            for file in session.files:
                yield session, file

    def files_of(self, wanted: Callable[[Handler], bool]) -> Iterator[tuple[LuoSession, LuoFile]]:
        """The files of some handlers, and all with a feature header, with their sessions."""
        for _, luo in self.contents(Luo):
            yield from luo.select(wanted)

    @cached_property
    def owners(self) -> dict[Path, Owner]:
        """Owners by the paths of their structures: of sessions and files."""
        files = {file.path: file.owner for _, file in self.files()}
        return {session.path: session.owner for session in self.sessions()} | files

    def ignores(self, found: Observation) -> bool:
        """Whether it is about owners who are ignored, and about no other."""
        if not self.ignored:
            return False
        words = found.message if isinstance(found.message, tuple) else ()
        named = [*words, *(step.value for step in found.path)]
        owners = {one.owner if isinstance(one, Place) else one for one in named}
        owners = {owner for owner in owners if isinstance(owner, Owner)}
        ways = (found.path[:length] for length in range(len(found.path), 0, -1))
        owners.update(filter(None, [next(filter(None, map(self.owners.get, ways)), None)]))
        return bool(owners) and all(owner in self.ignored for owner in owners)

    def in_fdt(self, message: Message, path: Path = ROOT) -> Observation:
        """What is wrong in the root FDT, at its address."""
        return Observation(message, self.handover.fdt.paddr, path)


def in_blob(blob: Blob, message: Message) -> Observation:
    """What is wrong with a blob, at its address."""
    return Observation(message, blob.paddr, subnode(blob.name))


def subnode(name: str) -> Path:
    """The path of a sub-node."""
    return (Step(StepKind.SUBNODE, name),)


def fdt_property(name: str, node: str | None = None) -> Path:
    """The path of a property of the root FDT, or of a sub-node."""
    return *(ROOT if node is None else subnode(node)), Step(StepKind.PROPERTY, name)


def repeated(items: Sequence[T], key: Callable[[T], Hashable]) -> Iterator[tuple[T, int]]:
    """The first of the items that have one key, and their number, where there are several."""
    counts = Counter(map(key, items))
    for item in items:
        count = counts.pop(key(item), 0)
        if count > 1:
            yield item, count
