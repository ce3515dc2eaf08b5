"""What can be taken out of a handover, and the selectors and file names for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from kho_inspect.errors import KhoError, MissingMemoryError
from kho_inspect.layouts.vmalloc import kho_vmalloc
from kho_inspect.model.contents import KhoTest, Luo, Memblock
from kho_inspect.units import Extent, PhysAddr, parse_size
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.vmalloc import parse_vmalloc, walk_vmalloc

if TYPE_CHECKING:
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.model.contents import Memfd, VmallocArea
    from kho_inspect.model.handover import Handover

MAX_NAME = 200
"""Bytes of one component of a file name; the rest of a longer one is hashed."""
MAX_TOKEN_DIGITS = 20


class SelectorError(KhoError):
    """A selector that names nothing in this handover."""


@dataclass(frozen=True, slots=True)
class Piece:
    """``size`` bytes at ``paddr`` that stand at ``offset`` in the file."""

    offset: int
    paddr: PhysAddr
    size: int


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be extracted."""

    selector: str
    size: int
    """Bytes of the file, holes included."""
    pieces: Sequence[Piece]
    """In file order, clipped to ``size``."""


def all_items(handover: Handover) -> Iterator[Item]:
    """Everything with a name: memfds, blobs, regions, test folios, and orphans as ranges."""
    items = list(_named_items(handover, handover.geometry.page_size))
    names = {item.selector for item in items}
    taken: set[str] = set()
    for item in items:
        # Two files of one session with the same token: a defect, but both have content.
        selector, number = item.selector, 1
        while selector in taken or (number > 1 and selector in names):
            number += 1
            selector = f"{item.selector}#{number}"
        taken.add(selector)
        yield replace(item, selector=selector)


def _named_items(handover: Handover, page: int) -> Iterator[Item]:
    for blob in handover.blobs:
        if blob.paddr is not None and blob.size is not None:
            yield _plain_item(f"blob/{blob.name}", blob.paddr, blob.size)
        if isinstance(blob.content, Luo):
            for session in blob.content.sessions:
                for file in session.files:
                    if file.memfd is not None:
                        yield memfd_item(f"LUO/{session.name}/{file.token:#x}", file.memfd, page)
        elif isinstance(blob.content, Memblock):
            for region in blob.content.regions:
                if region.start is not None and region.size is not None:
                    yield _plain_item(f"reserve_mem/{region.name}", region.start, region.size)
        elif isinstance(blob.content, KhoTest):
            orders = blob.content.order.tolist()
            told: set[PhysAddr] = set()
            for number, paddr in enumerate(blob.content.phys.tolist()):
                if paddr in told:
                    continue  # a hostile table names one page a hundred thousand times
                told.add(paddr)
                yield _plain_item(f"kho_test/{number}", paddr, page << orders[number])
    ownership = handover.ownership
    for extent in ownership.extents(ownership.orphans):
        yield _range_item(extent)


def select(handover: Handover, memory: PhysicalMemory, selectors: Sequence[str]) -> list[Item]:
    """The items that the selectors name; all of them when there is no selector.

    A selector is an item's own, any leading part of it up to a slash, ``vmalloc@PADDR`` (the
    first chunk of an area, or a ``struct kho_vmalloc``) or ``range@START-END``.
    Raises SelectorError for one that names nothing.
    """
    items = list(all_items(handover))
    if not selectors:
        return items
    chosen: dict[str, Item] = {}
    for selector in selectors:
        if selector.startswith("range@"):
            found = [_range_item(_parse_range(selector))]
        elif selector.startswith("vmalloc@"):
            found = [_vmalloc_item(handover, memory, selector)]
        else:
            wanted = {selector, _with_hex_token(selector)}
            found = [
                item
                for item in items
                if any(
                    item.selector == one or item.selector.startswith(f"{one}/") for one in wanted
                )
            ]
        if not found:
            known = ", ".join(item.selector for item in items[:6])
            raise SelectorError(
                f"no {selector!r} in this handover",
                hint=f"there are {known}{', …' if len(items) > 6 else ''}",
            )
        chosen.update((item.selector, item) for item in found)
    return list(chosen.values())


def _with_hex_token(selector: str) -> str:
    """``LUO/vm/4097`` → ``LUO/vm/0x1001``."""
    head, slash, token = selector.rpartition("/")
    if not token.isdecimal() or len(token) > MAX_TOKEN_DIGITS:
        return selector
    return f"{head}{slash}{int(token):#x}"


def memfd_item(selector: str, memfd: Memfd, page: int) -> Item:
    """A memfd's folios in file order, clipped to its size."""
    table = memfd.table
    held = np.flatnonzero(table.pfn)
    last_page = -(-memfd.size // page)
    held = held[table.index[held] < np.uint64(min(last_page, 1 << 63))]
    held = held[np.argsort(table.index[held], kind="stable")]
    pieces = []
    for pfn, index, order in zip(
        table.pfn[held].tolist(),
        table.index[held].tolist(),
        np.maximum(table.order[held], 0).tolist(),
        strict=True,
    ):
        offset = index * page
        pieces.append(Piece(offset, pfn * page, min(page << order, memfd.size - offset)))
    return Item(selector, memfd.size, pieces)


def _plain_item(selector: str, paddr: PhysAddr, size: int) -> Item:
    return Item(selector, size, [Piece(0, paddr, size)])


def _range_item(extent: Extent) -> Item:
    return _plain_item(f"range@{extent}", extent.start, extent.size)


def _parse_range(selector: str) -> Extent:
    try:
        start, end = (parse_size(part) for part in selector.removeprefix("range@").split("-"))
    except ValueError:
        start = end = 0
    if start >= end:
        raise SelectorError(f"{selector!r} is not range@START-END", hint="range@0x1000-0x3000")
    return Extent(start, end)


def _vmalloc_item(handover: Handover, memory: PhysicalMemory, selector: str) -> Item:
    try:
        paddr = parse_size(selector.removeprefix("vmalloc@"))
    except ValueError as error:
        raise SelectorError(str(error)) from error
    area = next((area for area in _areas(handover) if area.first == paddr), None)
    if area is None:
        try:
            descriptor = parse_vmalloc(memory.read(paddr, kho_vmalloc.sizeof()))
        except MissingMemoryError as error:
            raise SelectorError(f"{selector}: {error.message}") from error
        faults = FaultLog()
        area = walk_vmalloc(memory, handover.geometry, descriptor, selector, faults)
        if faults.result():
            raise SelectorError(
                f"{paddr:#x} is neither an area's first chunk nor a sound kho_vmalloc: "
                f"{faults.result()[0].message}"
            )
    size = handover.geometry.page_size << area.order
    pieces = [Piece(at * size, phys, size) for at, phys in enumerate(area.phys.tolist())]
    return Item(selector, len(pieces) * size, pieces)


def _areas(handover: Handover) -> Iterator[VmallocArea]:
    for blob in handover.blobs:
        if isinstance(blob.content, Luo):
            yield from (file.memfd.folios for file in blob.content.files if file.memfd)
        elif isinstance(blob.content, KhoTest) and blob.content.folios_info is not None:
            yield blob.content.folios_info


def file_name(selector: str) -> Path:
    """A relative path for a selector: no component can leave the directory or be mistaken.

    Anything but letters, digits and ``_.-~`` becomes ``%XX``; the manifest has the selector.
    ``LUO/SESSION/TOKEN`` keeps its three parts even where the session's name has slashes.
    """
    head, slash, rest = selector.partition("/")
    parts = [head, *([rest] if slash else [])]
    if head == "LUO" and "/" in rest:
        parts = [head, *rest.rsplit("/", 1)]
    return Path(*(_safe_component(part) for part in parts))


def _safe_component(name: str) -> str:
    safe = quote(name, safe="@")
    if not safe.strip("."):
        # "", "." and ".." name no file, or the wrong one.
        safe = safe.replace(".", "%2E") or "%"
    if len(safe) > MAX_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        safe = f"{safe[: MAX_NAME - 20]}%~{digest}"
    return safe
