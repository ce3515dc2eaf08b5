"""What ``find`` found, as lines for a plain stream and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import Document
from kho_inspect.model.handover import Handover
from kho_inspect.model.identity import Place
from kho_inspect.render.json import address, answer, dump_head
from kho_inspect.render.names import place_name
from kho_inspect.units import PhysAddr

MAX_OWNERS = 8
"""Owners of one place that are named; many have it only where structures are damaged."""


def found_lines(
    places: Iterable[PhysAddr], handover: Handover | None, count: Callable[[int], None]
) -> Iterator[str]:
    """Address, tab, and whose it is. ``count`` gets 1 for each."""
    for paddr in places:
        count(1)
        if handover is None:
            yield f"{paddr:#x}\towner not known\n"
            continue
        owners = _owners(handover, paddr)
        names = "; ".join(map(place_name, owners[:MAX_OWNERS])) or "not claimed"
        left = len(owners) - MAX_OWNERS
        yield f"{paddr:#x}\t{names}{f'; {left:,} more' if left > 0 else ''}\n"


def find_document(
    memory: PhysicalMemory,
    handover: Handover | None,
    wanted: bytes,
    places: Iterable[PhysAddr],
    count: Callable[[int], None],
) -> Document:
    """``kho-inspect find --json``; ``owners`` is null where no handover was found."""

    def documents() -> Iterator[Document]:
        for paddr in places:
            count(1)
            owners = None if handover is None else _owners(handover, paddr)[:MAX_OWNERS]
            yield {
                "paddr": hex(paddr),
                "owners": owners
                and [
                    {"owner": place, "file_offset": address(place.file_offset)} for place in owners
                ],
            }

    members = {"pattern": wanted.hex(), "places": documents()}
    return answer(handover, **members) if handover else {**dump_head(memory), **members}


def _owners(handover: Handover, paddr: PhysAddr) -> list[Place]:
    page = paddr >> handover.geometry.shift
    return handover.index.places(page, page + 1, paddr)
