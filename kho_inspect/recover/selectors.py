"""What can be taken out of a handover, and the selectors and file names for it."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

from kho_inspect.errors import MissingMemoryError, SelectorError
from kho_inspect.layouts.vmalloc import kho_vmalloc
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import Item, Piece
from kho_inspect.model.handover import Handover
from kho_inspect.model.identity import Carved, Name, Owner, Subsystem, Vmalloc
from kho_inspect.model.selector import parse_glob, parse_owner
from kho_inspect.render.names import item_name, message_text
from kho_inspect.units import PhysAddr, parse_extent, parse_size
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.vmalloc import parse_vmalloc, walk_vmalloc

CARVED = "carved/"
"""What the name of everything carved begins with."""
MAX_NAME = 200
"""Bytes of one component of a file name; the rest of a longer one is hashed."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names of devices to Windows, in every directory."""
MAX_DIGITS = 9
"""Of the number of an item: there are no more files than that."""


def all_items(handover: Handover) -> Iterator[Item]:
    """Everything with a name: memfds, blobs, regions, test folios, unclaimed memory as ranges."""
    yield from numbered(list(_named_items(handover)))


def numbered(items: Sequence[Item]) -> Iterator[Item]:
    """The items, each with a number where several have one name."""
    names = {item.name for item in items}
    numbers: Counter[Name] = Counter()
    for item in items:
        # Two files of one session with the same token: a defect, but both have content.
        numbers[item.name] += 1
        while numbers[item.name] > 1 and _numbered(item.name, numbers[item.name]) in names:
            numbers[item.name] += 1
        yield replace(item, number=numbers[item.name])


def _numbered(name: Name, number: int) -> Name:
    """The owner whose file would be called as that of an item with a number."""
    if isinstance(name, Carved):
        owner = _numbered(name.owner, number)
        return name._replace(owner=owner) if isinstance(owner, Owner) else name
    if isinstance(name, Owner) and name.parts:
        return Owner(name.subsystem, (*name.parts[:-1], f"{name.parts[-1]}#{number}"))
    return name


def _named_items(handover: Handover) -> Iterator[Item]:
    for blob in handover.blobs:
        if blob.paddr is not None and blob.size is not None:
            yield _plain_item(Owner(Subsystem.SUBNODE, (blob.name,)), blob.paddr, blob.size)
        if blob.content is not None:
            yield from blob.content.items(handover.geometry)
    ownership = handover.ownership
    for extent in ownership.extents(ownership.unclaimed):
        yield _plain_item(extent, extent.start, extent.size)


def select(handover: Handover, memory: PhysicalMemory, selectors: Sequence[str]) -> list[Item]:
    """The items that the selectors name; all of them when there is no selector.

    A selector is an item's own, any leading part of it up to a slash, either with ``*`` and ``?``,
    ``vmalloc@PADDR`` (the first chunk of an area, or a ``struct kho_vmalloc``), or START-END or
    START+LEN, with or without ``range@``. Raises SelectorError for one that names nothing.
    """
    items = list(all_items(handover))
    if not selectors:
        return items
    return _unique(item for one in selectors for item in select_one(handover, memory, items, one))


def select_among(items: Sequence[Item], selectors: Sequence[str]) -> list[Item]:
    """The same of given items; only by their own names, or a leading part."""
    if not selectors:
        return list(items)
    return _unique(item for one in selectors for item in find(items, one))


def select_owners(owners: Iterable[Owner], selectors: Sequence[str]) -> frozenset[Name]:
    """The same of owners of memory: each selector's, and of the parts of its memory."""
    items = [Item(owner, 0, ()) for owner in dict.fromkeys(owners)]
    return frozenset(item.name for item in select_among(items, selectors))


def _unique(items: Iterable[Item]) -> list[Item]:
    return list({(item.name, item.number): item for item in items}.values())


def select_one(
    handover: Handover, memory: PhysicalMemory, items: Sequence[Item], selector: str
) -> list[Item]:
    """The same for one selector, where ``items`` are :func:`all_items`."""
    if parse_glob(selector):
        return find(items, selector)
    if selector.startswith("range@") or selector[:1].isdigit():
        try:
            extent = parse_extent(selector.removeprefix("range@"))
        except ValueError as error:
            raise SelectorError(f"{selector!r}: {error}", hint="range@0x1000-0x3000") from error
        return [_plain_item(extent, extent.start, extent.size)]
    if selector.startswith("vmalloc@"):
        return [_vmalloc_item(handover, memory, selector)]
    return find(items, selector)


def find(items: Sequence[Item], selector: str) -> list[Item]:
    """The items of that name, and of what it is the whole of. Raises SelectorError for none."""
    found = _find(items, selector)
    if not found:
        words = f"no {selector!r} in this handover"
        raise SelectorError(words, hint=f"there are {_some_names(items)}")
    return found


def sole(items: Sequence[Item], text: str) -> Item:
    """The one item that ``text`` named. Raises SelectorError where there are more, or none."""
    if len(items) == 1:
        return items[0]
    words = f"{text!r} names {len(items):,} items, should be one"
    raise SelectorError(words, hint=f"there are {_some_names(items)}")


def _some_names(items: Sequence[Item]) -> str:
    known = ", ".join(item_name(item.name, item.number) for item in items[:6])
    return f"{known or 'none'}{', …' if len(items) > 6 else ''}"


def select_carved(items: Sequence[Item], selectors: Sequence[str]) -> list[Item]:
    """The numbered items of a carving that the selectors name; all of them without a selector.

    A selector is an item's own, or any leading part of it; ``carved/`` may be left out.
    Raises SelectorError for one that names nothing.
    """
    if not selectors:
        return list(items)
    whole = [_as_owned(item) for item in items]
    by_owner = {id(one): item for one, item in zip(whole, items, strict=True)}
    names = [item_name(item.name, item.number).removeprefix(CARVED) for item in items]
    chosen: dict[tuple[Name, int], Item] = {}
    for selector in selectors:
        asked = selector.removeprefix(CARVED)
        found = [by_owner[id(one)] for one in _find(whole, asked)]
        found += [
            item
            for item, name in zip(items, names, strict=True)
            if name == asked or name.startswith(f"{asked}/")
        ]
        if not found:
            words = f"nothing that was carved is called {selector!r}"
            raise SelectorError(words, hint=f"there are {_some_names(items)}")
        chosen.update(((item.name, item.number), item) for item in found)
    return list(chosen.values())


def _as_owned(item: Item) -> Item:
    """A carved item by the name that it would have from a map, where its owner is known."""
    name = item.name
    if isinstance(name, Carved) and name.paddr is None:
        return replace(item, name=name.owner)
    return item


def _find(items: Sequence[Item], selector: str) -> list[Item]:
    glob = parse_glob(selector)
    if glob is not None:
        return [item for item in items if any(map(glob.match, _all_names(item)))]
    text, mark, digits = selector.rpartition("#")
    numbered = mark and digits.isascii() and digits.isdecimal() and len(digits) <= MAX_DIGITS
    query = parse_owner(text if numbered else selector)
    number = int(digits) if numbered else 1
    found = [item for item in items if query is not None and _meets(item, query, number)]
    return found or [item for item in items if selector in _plain_names(item)]


def _meets(item: Item, query: Owner, number: int) -> bool:
    if item.name == query:
        return item.number == number
    return number == 1 and isinstance(item.name, Owner) and item.name.within(query)


def _all_names(item: Item) -> Iterator[str]:
    """An item's name, and those of what it is a part of, in every spelling."""
    spelled = item_name(item.name, item.number)
    yield spelled
    yield from (spelled[:at] for at, char in enumerate(spelled) if char == "/")
    yield from _plain_names(item)


def _plain_names(item: Item) -> Iterator[str]:
    """The same without escapes; none of a range or an area.

    The numbers of tokens are hex or decimal.
    """
    if not isinstance(item.name, Owner):
        return
    for spell in (hex, str):
        text = item.name.subsystem.value
        for part in item.name.parts:
            yield text
            text += f"/{part if isinstance(part, str) else spell(part)}"
        yield text if item.number == 1 else f"{text}#{item.number}"


def _plain_item(name: Name, paddr: PhysAddr, size: int) -> Item:
    return Item(name, size, [Piece(0, paddr, size)])


def _vmalloc_item(handover: Handover, memory: PhysicalMemory, selector: str) -> Item:
    try:
        paddr = parse_size(selector.removeprefix("vmalloc@"))
    except ValueError as error:
        raise SelectorError(str(error)) from error
    contents = [blob.content for blob in handover.blobs if blob.content is not None]
    areas = (area for content in contents for area in content.areas())
    area = next((area for area in areas if area.first == paddr), None)
    if area is None:
        try:
            descriptor = parse_vmalloc(memory.read(paddr, kho_vmalloc.sizeof()))
        except MissingMemoryError as error:
            raise SelectorError(f"{selector}: {error.message}") from error
        faults = FaultLog()
        area = walk_vmalloc(memory, handover.geometry, descriptor, (), faults)
        if faults.result():
            raise SelectorError(
                f"{paddr:#x} is neither an area's first chunk nor a sound kho_vmalloc: "
                f"{message_text(faults.result()[0].message)}"
            )
    size = handover.geometry.page_size << area.order
    pieces = [Piece(at * size, phys, size) for at, phys in enumerate(area.phys.tolist())]
    return Item(Vmalloc(paddr), len(pieces) * size, pieces)


def file_name(item: Item) -> Path:
    """A relative path for an item: no component can leave the directory or be mistaken.

    Anything but letters, digits and ``_.-~`` of each part of its name becomes ``%XX``, and what
    shells, ``ls`` or other systems take for something else; the manifest has the selector.
    """
    parts = item_name(item.name, item.number).split("/")
    names = [_safe_component(unquote(part, errors="surrogatepass")) for part in parts]
    if isinstance(item.name, Owner) and item.name.subsystem is Subsystem.SUBNODE:
        # Beside the blob's own file there can be no directory of that name.
        return Path(names[0], "%~".join(names[1:]))
    return Path(*names)


def _safe_component(name: str) -> str:
    safe = quote(name, safe="@", errors="surrogatepass")
    if not safe.strip("."):
        # "", "." and ".." name no file, or the wrong one.
        safe = safe.replace(".", "%2E") or "%"
    if safe[0] in "-~." or _RESERVED.match(safe):
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    if safe.endswith("."):
        safe = f"{safe[:-1]}%2E"
    if len(safe) > MAX_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        safe = f"{safe[: MAX_NAME - 20]}%~{digest}"
    return safe
