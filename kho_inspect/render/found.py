"""What ``find`` found, as lines for a plain stream and as JSON."""

from collections.abc import Callable, Iterable, Iterator

from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import Document
from kho_inspect.model.handover import Handover
from kho_inspect.model.identity import Place
from kho_inspect.render.json import address, answer, dump_head
from kho_inspect.render.names import given_text, place_name, with_given
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
        named = (
            with_given(place_name(place), handover.names, place.owner)
            for place in owners[:MAX_OWNERS]
        )
        names = "; ".join(named) or "not claimed"
        left = len(owners) - MAX_OWNERS
        yield f"{paddr:#x}\t{names}{f'; {left:,} more: addr' if left > 0 else ''}\n"


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
            yield {
                "paddr": hex(paddr),
                "owners": None if handover is None else _owner_documents(handover, paddr),
            }

    members = {"pattern": wanted.hex(), "places": documents()}
    return answer(handover, **members) if handover else {**dump_head(memory), **members}


def _owner_documents(handover: Handover, paddr: PhysAddr) -> list[Document]:
    return [
        {
            "owner": place,
            "given_name": given_text(handover.names, place.owner),
            "file_offset": address(place.file_offset),
        }
        for place in _owners(handover, paddr)[:MAX_OWNERS]
    ]


def _owners(handover: Handover, paddr: PhysAddr) -> list[Place]:
    page = paddr >> handover.geometry.shift
    return handover.index.places(page, page + 1, paddr)
