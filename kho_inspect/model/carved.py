"""What one dump yields by contents, without a map."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kho_inspect.geometry import PageGeometry
from kho_inspect.model.contents import Item


@dataclass(frozen=True, slots=True)
class CarvedFile:
    """A file that came out of a list of LUO, or of its descriptor alone."""

    item: Item
    handler: str
    folios: int


@dataclass(frozen=True, slots=True)
class Carving:
    """All that one dump yields by contents, the most trusted first."""

    geometry: PageGeometry
    page_size_reason: str
    files: tuple[CarvedFile, ...]
    others: tuple[Item, ...]
    """Blobs, memory regions and test folios."""
    examined: int
    """Places that begin like a structure, and were looked into."""
    rejected: Mapping[str, int]
    """Why structures that begin well are none → how many."""
    passed_over: int = 0
    """Places that may be more, unread: more than any undamaged dump has."""

    @property
    def items(self) -> Iterator[Item]:
        """Everything that can be extracted."""
        yield from (file.item for file in self.files)
        yield from self.others
