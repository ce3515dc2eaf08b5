"""Images whose map is gone, and what carving makes of them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from kho_inspect.carve.carver import carve
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.carved import Carving
from kho_inspect.model.contents import Item
from kho_inspect.model.provenance import DoubtKind
from kho_inspect.recover.content import Reader
from kho_inspect.recover.selectors import numbered
from kho_inspect.render.names import item_name
from tests.support.builder import Image
from tests.support.looking import open_image


def lose(image: Image, *pages: int) -> None:
    """Put noise where some pages were, as a kernel does that uses them."""
    for paddr in pages:
        image.pages[paddr] = bytearray(random.Random(paddr).randbytes(image.page_size))


def lose_map(image: Image) -> None:
    """Finish an image, and then recycle its tree and root FDT."""
    image.finish()
    lose(image, *image.nodes, image.fdt_paddr)


def carved(image: Image, **options: Any) -> Carving:
    """What an image yields by its contents."""
    return carve(open_image(image, elf=True), **options)


def by_name(carving: Carving) -> dict[str, Item]:
    """Selector → item."""
    items = list(numbered(list(carving.items)))
    found = {item_name(item.name, item.number): item for item in items}
    assert len(found) == len(items), "two items of one name"
    return found


def hashes(memory: PhysicalMemory, carving: Carving) -> dict[str, str | None]:
    """Selector, without what marks it as carved → SHA-256."""
    found = by_name(carving)
    names = (name.removeprefix("carved/") for name in found)
    return dict(zip(names, map(Reader(memory).digest, found.values()), strict=True))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def doubts(item: Item) -> set[DoubtKind]:
    """The kinds of doubts about an item."""
    assert item.provenance is not None
    return {doubt.kind for doubt in item.provenance.doubts}


def content(image: Image, item: Item) -> bytes:
    """What extracting the item gives; holes are zeros."""
    held = bytearray(item.size)
    for offset, paddr, size in item.pieces:
        held[offset : offset + size] = image.read(paddr, size)
    return bytes(held)


def went_wrong(name: str) -> Path:
    """The folder of a handover that went wrong."""
    from tests.support.captures import HOME

    return HOME.parent / "went-wrong" / name
