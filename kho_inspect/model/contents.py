"""What is known of every decoded blob and file, as plain data.

The classes of each kind stand beside its decoder; fields are named as in the kernel structs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64
from kho_inspect.model.features import Features
from kho_inspect.model.identity import Name, Owner, Path
from kho_inspect.model.preserved import Preserved
from kho_inspect.model.provenance import Provenance
from kho_inspect.units import PhysAddr

Document: TypeAlias = dict[str, Any]
"""JSON-ready, but for names and paths, which are spelled, and iterators, which become arrays."""


class Piece(NamedTuple):
    """``size`` bytes at ``paddr`` that stand at ``offset`` in a file."""

    offset: int
    paddr: PhysAddr
    size: int


class Columns(NamedTuple):
    """Pieces as arrays of shape ``(n,)``: of int64, or of objects where one is of 2**62 or more."""

    offset: NDArray[Any]
    paddr: NDArray[Any]
    size: NDArray[Any]

    def pieces(self) -> Iterator[Piece]:
        """The same one by one."""
        return map(Piece, *(column.tolist() for column in self))


class Pieces(Collection[Piece]):
    """Pieces that are made whenever they are asked for: of all files there may be millions."""

    def __init__(self, columns: Callable[[], Columns]) -> None:
        self.columns = columns

    def __iter__(self) -> Iterator[Piece]:
        return self.columns().pieces()

    def __len__(self) -> int:
        return len(self.columns().offset)

    def __contains__(self, piece: object) -> bool:
        return any(piece == one for one in self)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be extracted."""

    name: Name
    size: int
    """Bytes of the file, holes included."""
    pieces: Collection[Piece]
    """In file order, clipped to ``size``."""
    number: int = 1
    """Above 1: another one of this name."""
    provenance: Provenance | None = None
    """Of what was carved."""


class Part(NamedTuple):
    """``size`` bytes at ``offset`` of an item, as they were read."""

    offset: int
    size: int
    paddr: PhysAddr | None
    """None for a hole."""
    data: memoryview | None
    """None for a hole, and for what cannot be read."""
    why: str = ""
    """Why there are no data."""
    runs: Sequence[Piece] = ()
    """What the data were gathered from; empty: all of them stand at ``paddr``."""


class Row(NamedTuple):
    """One row of a table, or one line of an outline: label, name and words."""

    cells: tuple[str, ...]
    depth: int = 0
    owner: Owner | None = None
    """What may have a given name."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How content looks: a heading, and an outline, or a table where there are columns."""

    heading: str
    rows: Sequence[Row] = ()
    columns: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    """The columns whose cells end at the same place."""


@dataclass(frozen=True, slots=True)
class VmallocArea:
    """A preserved vmalloc area (``struct kho_vmalloc``), as far as it could be followed."""

    first: PhysAddr
    total_pages: int
    flags: int
    order: int
    """Each entry of the chunks covers ``1 << order`` pages."""
    chunks: tuple[PhysAddr, ...]
    """The chunk pages that were read, in list order."""
    phys: NDArray[np.uint64]
    """Start of each physically contiguous piece, in virtual order, shape ``(n,)``."""
    path: Path

    @property
    def pages(self) -> int:
        """Pages that the chunks name; the kernel accepts only ``total_pages`` of them."""
        return len(self.phys) << self.order if len(self.phys) else 0

    @property
    def whole(self) -> bool:
        """Whether every page of the area is known."""
        return self.pages == self.total_pages

    def document(self) -> Document:
        """The descriptor and its chunks."""
        return {
            "first": hex(self.first),
            "total_pages": self.total_pages,
            "flags": self.flags,
            "order": self.order,
            "chunks": [hex(chunk) for chunk in self.chunks],
        }


@dataclass(frozen=True, eq=False)
class VmallocAreas(Sequence[VmallocArea]):
    """Many areas in columns; one of them is a view, made when it is asked for."""

    descriptors: NDArray[Any]
    """Each ``struct kho_vmalloc``, with its fields."""
    chunks: NDArray[np.uint64]
    """The chunk pages of all of them, area by area."""
    chunk_bounds: I64
    """First chunk of each area, and behind the last one; shape ``(areas + 1,)``."""
    phys: NDArray[np.uint64]
    bounds: I64
    """The same of ``phys``."""
    path: Callable[[int], Path]
    """The path of each area, by its number."""

    def __len__(self) -> int:
        return len(self.descriptors)

    @overload
    def __getitem__(self, number: int) -> VmallocArea: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[VmallocArea]: ...
    def __getitem__(self, number: int | slice) -> VmallocArea | Sequence[VmallocArea]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        low, high = self.bounds[number : number + 2].tolist()
        first, last = self.chunk_bounds[number : number + 2].tolist()
        start, total_pages, flags, order = self.descriptors[number].item()
        return VmallocArea(
            start,
            total_pages,
            flags,
            order,
            tuple(self.chunks[first:last].tolist()),
            self.phys[low:high],
            self.path(number),
        )


class Decoded:
    """What a blob or a file holds; a kind overrides the methods that have a result for it."""

    __slots__ = ()

    def summary(self) -> str:
        """A few words for an overview."""
        raise NotImplementedError

    def document(self) -> Document:
        """All of it, with the field names of the kernel structs."""
        raise NotImplementedError

    def areas(self) -> Iterator[VmallocArea]:
        """The vmalloc areas in it."""
        return iter(())


class Content(Decoded):
    """What a blob holds."""

    __slots__ = ()

    def rows(self) -> Rows:
        """All of it for people, but for what there are millions of."""
        return Rows(self.summary())

    def items(self, geometry: PageGeometry) -> Iterator[Item]:
        """What can be extracted."""
        return iter(())

    def unknown(self) -> Iterator[tuple[str, Path]]:
        """Words and path of what no decoder reads: what memory it owns is not known."""
        return iter(())

    def hidden(self, preserved: Preserved, path: Path) -> Iterator[tuple[str, Path]]:
        """Why, and at which path, memory may be owned by what was not followed.

        ``path``: the blob's own.
        """
        for what, where in self.unknown():
            yield f"{what} is not decoded", where

    def expected(self) -> Iterator[tuple[str, Document]]:
        """``(table, entry)`` of each line that an expectation file would have."""
        return iter(())


class FileEntry(NamedTuple):
    """One file of a list, as its handler gets it."""

    data: PhysAddr
    """What the handler wrote: as a rule the address of a descriptor."""
    owner: Owner
    path: Path


@dataclass(frozen=True, eq=False)
class FileEntries(Sequence[FileEntry]):
    """Many files of lists in columns; one of them is a view, made when it is asked for."""

    data: NDArray[np.uint64]
    owners: I64
    """The number of each owner in the log of claims; -1 for what claims nothing."""
    entry: Callable[[int], FileEntry]
    numbers: I64
    """What ``entry`` knows each of them by."""

    def __len__(self) -> int:
        return len(self.data)

    @overload
    def __getitem__(self, at: int) -> FileEntry: ...
    @overload
    def __getitem__(self, at: slice | I64) -> FileEntries: ...
    def __getitem__(self, at: int | slice | I64) -> FileEntry | FileEntries:
        if isinstance(at, int):
            return self.entry(int(self.numbers[at]))
        return FileEntries(self.data[at], self.owners[at], self.entry, self.numbers[at])


class FileContent(Decoded):
    """What a preserved file holds, by its handler."""

    __slots__ = ()

    key: ClassVar[str]
    """Name of its part in a document."""
    size: int
    """Bytes of the file."""
    features: Features | None
    """Its feature header, where there is one."""

    def facts(self) -> Document:
        """Of ``folios``, ``pos`` and ``seals`` (a list of names) those that the kind has."""
        return {}

    def pieces(self, geometry: PageGeometry) -> Collection[Piece]:
        """The memory of the file's content, in file order, clipped to its size."""
        return ()


class FileContents(Sequence[FileContent | None]):
    """Contents of many files of one handler, in columns; None for what cannot be read."""

    features: Mapping[int, Features]
    """The feature headers that there are, by the number of the content."""
