"""What things in a handover are called, as values that compare; ``render.names`` spells them.

A sub-node's name is any text, so spelled names are never compared: a foreign sub-node that is
called like a file of LUO is another owner than that file.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeAlias

from kho_inspect.units import Extent


class Subsystem(Enum):
    """Who preserves memory; the value begins every spelled name."""

    KHO = "KHO"
    """The handover itself: its root FDT."""
    LUO = "LUO"
    """Live Update Orchestrator; parts: session name, token of a file."""
    MEMBLOCK = "memblock"
    RESERVE_MEM = "reserve_mem"
    """A ``reserve_mem=`` region; part: its name."""
    KHO_TEST = "kho_test"
    """The kernel's test module; part: number of a folio."""
    KEXEC_METADATA = "kexec-metadata"
    SUBNODE = "blob"
    """A sub-node by its name: of a subsystem without a decoder, or a second one of a name."""

    __hash__ = object.__hash__  # quicker than Enum's, for a hundred thousand owners


class Owner(NamedTuple):
    """One owner of memory: a subsystem, or a part of it."""

    subsystem: Subsystem
    parts: tuple[str | int, ...] = ()

    def of(self, *parts: str | int) -> Owner:
        """The owner of a part of this one's memory."""
        return Owner(self.subsystem, (*self.parts, *parts))

    def within(self, other: Owner) -> bool:
        """Whether this is ``other``, or owns a part of its memory."""
        return self.subsystem is other.subsystem and self.parts[: len(other.parts)] == other.parts

    @property
    def top(self) -> Owner:
        """The whole that this is a part of: for a foreign sub-node, that sub-node."""
        return Owner(self.subsystem, self.parts[: self.subsystem is Subsystem.SUBNODE])


class ClaimKind(Enum):
    """What claimed memory is for."""

    ROOT_FDT = "root FDT"
    BLOB = "blob"
    SESSION_ARRAY = "session array"
    SESSION_BLOCK = "session block"
    FILE_ARRAY = "file array"
    FILE_BLOCK = "file block"
    FLB_ARRAY = "FLB array"
    MEMFD_DESCRIPTOR = "memfd descriptor"
    FOLIO_TABLE = "folio table"
    FOLIO_TABLE_CHUNK = "folio table vmalloc chunk"
    FOLIO = "folio"
    FOLIOS_INFO = "folios_info"
    FOLIOS_INFO_CHUNK = "folios_info vmalloc chunk"
    TEST_FOLIO = "test folio"
    REGION = "region"
    STRUCTURE = "structure"
    """Any other structure: of kinds of blobs and files without rules of their own."""


CONTENT = frozenset({ClaimKind.FOLIO, ClaimKind.REGION})
"""What no report reads. Test folios are read: they have a checksum."""


class StepKind(Enum):
    """One kind of step on the way to a structure; the value is the word for it."""

    FDT = "root FDT"
    SUBNODE = "sub-node"
    """Value: its name."""
    NODE = "node"
    """Of a blob that is a device tree; value: its name."""
    PROPERTY = "property"
    """Value: its name."""
    TABLE = "table"
    """An entry of a radix tree's table; value: the entry, ``of``: the level, None for the root."""
    TREE_NODE = "tree node"
    """A node of the radix tree; ``of``: its level, None for the root."""
    BIT = "bit"
    """Of a leaf; value: its number."""
    CHUNK = "chunk"
    """Of a kho-v1 map or a vmalloc area; value: its number in the list."""
    CHUNK_LIST = "chunk list"
    BITMAP = "bitmap"
    """Of a chunk; value: its number."""
    BLOCK = "block"
    """A kho_block; value: its number in the chain."""
    SESSIONS = "sessions"
    SESSION = "session"
    """Value: its number."""
    FILE = "file"
    """Value: its number in the session."""
    FOLIOS = "folios"
    """The vmalloc area of a folio table."""
    FOLIO = "folio"
    """Value: its number in the table."""
    FLBS = "FLBs"
    FLB = "FLB"
    """Value: its number."""
    REGION = "region"
    """Value: its name."""
    OWNER = "owner"
    """Value: an owner, as which claimed memory is known."""
    PIECE = "piece"
    """Of claimed memory; value: its number (None: there is only one), ``of``: the claim's kind."""
    POINTER = "pointer"
    """What points to the scratch table; value: in words."""
    AREA = "area"
    """Of the scratch table; value: its number."""
    EXPECTATION = "expectation"
    """Value: the file, ``of``: the line."""


class Step(NamedTuple):
    """One step on the way to a structure."""

    kind: StepKind
    value: int | str | Owner | None = None
    of: int | ClaimKind | None = None


Path: TypeAlias = tuple[Step, ...]
"""The way to a structure from the root FDT, the map, or an owner; () for the handover itself."""


class Place(NamedTuple):
    """One piece of claimed memory, and what a byte in it is to the owner."""

    owner: Owner
    kind: ClaimKind
    piece: int | None = None
    """Number of the piece; None where there is only one."""
    file_offset: int | None = None
    """Offset in the file, in bytes, where the memory is a file's content."""

    @property
    def path(self) -> Path:
        """The way to the piece."""
        return Step(StepKind.OWNER, self.owner), Step(StepKind.PIECE, self.piece, self.kind)


Message: TypeAlias = str | tuple[str | Owner | Place, ...]
"""A sentence; a tuple where it names owners, which are spelled where it is shown."""


class Vmalloc(NamedTuple):
    """The vmalloc area that a user names by an address."""

    paddr: int


class Carved(NamedTuple):
    """What was found by its contents: as whose, by what stands there."""

    owner: Owner
    paddr: int | None = None
    """The list or descriptor itself, where nothing names the session that it belongs to."""


Name: TypeAlias = Owner | Extent | Vmalloc | Carved
"""What can be taken out of a dump: memory by its owner, by its address, or by its contents."""


def above(paths: list[Path]) -> frozenset[Path]:
    """The given paths and those of all structures on the way to them."""
    return frozenset(path[:length] for path in paths for length in range(1, len(path) + 1))
