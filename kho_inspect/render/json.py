"""The versioned JSON documents: addresses as ``"0x…"`` strings, counts as numbers.

Never goes through Rich. Long arrays are streamed, one item per line; all else is small. Documents
hold owners, places, paths and messages as they are: they are spelled as they are written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from kho_inspect import intervals
from kho_inspect.intervals import Intervals
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.claims import Unclaimed
from kho_inspect.model.contents import Document
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import Blob, Handover, Pointer, Source
from kho_inspect.model.identity import Owner, Place, Step, Vmalloc
from kho_inspect.render.fdt_values import fdt_value
from kho_inspect.render.names import given_text, item_name, message_text, path_name, place_name
from kho_inspect.render.safe import no_json_command
from kho_inspect.units import Extent

if TYPE_CHECKING:
    from kho_inspect.ownership.address import AddressInfo
    from kho_inspect.render.ranges import RangeBatch

SCHEMA_VERSION = 2
BATCH = 4096
"""Items of long arrays that are held at a time."""
MAX_CLAIMANTS = 8
"""Claims on one range that are spelled out."""


class Encoded:
    """An array whose items come as JSON text, in lists: for millions of the same shape."""

    def __init__(self, batches: Iterable[list[str]]) -> None:
        self.batches = batches


def stream(document: Document) -> Iterator[str]:
    """The document as text, piece by piece; an iterator becomes an array, one item per line."""
    yield "{"
    yield from map(no_json_command, _members(document, 1))
    yield "\n}\n"


def _members(document: Document, depth: int) -> Iterator[str]:
    pad = "\n" + "  " * depth
    for number, (key, value) in enumerate(document.items()):
        yield f"{',' if number else ''}{pad}{json.dumps(key)}: "
        yield from _value(value, depth)


def _value(value: Any, depth: int) -> Iterator[str]:
    pad = "\n" + "  " * depth
    if isinstance(value, dict) and value:
        yield "{"
        yield from _members(value, depth + 1)
        yield pad + "}"
    elif isinstance(value, Encoded) or hasattr(value, "__next__"):
        if isinstance(value, Encoded):
            batches = value.batches
        else:
            batches = ([json.dumps(spelled(item))] for item in value)
        separator = pad + "  "
        yield "["
        for batch in batches:
            yield separator + f",{pad}  ".join(batch)
            separator = f",{pad}  "
        yield pad + "]"
    else:
        yield json.dumps(spelled(value), indent=2).replace("\n", pad)


_PLAIN = frozenset({bool, int, str, type(None)})
"""Types of what is in documents by the million."""


def spelled(value: Any) -> Any:
    """A value of a document with all names, paths and messages in it as text."""
    if isinstance(value, dict):
        return {key: item if type(item) in _PLAIN else spelled(item) for key, item in value.items()}
    if isinstance(value, list) or hasattr(value, "__next__"):
        return [item if type(item) in _PLAIN else spelled(item) for item in value]
    return _text(value) if isinstance(value, tuple) else value


def _text(value: tuple[Any, ...]) -> str:
    if isinstance(value, Place):
        return place_name(value)
    if isinstance(value, Owner | Extent | Vmalloc):
        return item_name(value)
    if value and isinstance(value[0], Step):
        return path_name(value)
    return message_text(value)


def address(value: int | None) -> str | None:
    """``"0x4b0000"``, or null."""
    return None if value is None else hex(value)


def show_document(handover: Handover, *, known: bool = True) -> Document:
    """``kho-inspect show --json``; the root FDT itself is in it where its ABI is not known.

    ``preserved`` is null where the map is not ``known`` to be one of this handover.
    """
    preserved = handover.preserved
    root = {} if handover.fdt.known else {"root": _fdt_node(handover.fdt.root)}
    return answer(
        handover,
        **root,
        tree=_tree(handover),
        preserved={
            "blocks": preserved.blocks,
            "bytes": preserved.bytes,
            "orders": {str(order): count for order, count in preserved.orders.items()},
            "ranges": _extents(preserved.extents()),
        },
        blobs=[_blob(blob, known) for blob in handover.blobs],
        ownership=_ownership(handover),
    )


def _tree(handover: Handover) -> Document:
    tree = handover.tree
    return {
        "levels": tree.depth if tree else 0,
        "nodes": tree.nodes if tree else 0,
        "leaves": tree.leaves if tree else 0,
    }


def owners_document(handover: Handover) -> Document:
    """``kho-inspect owners --json``."""
    return answer(handover, ownership=_ownership(handover))


def _ownership(handover: Handover) -> Document:
    ownership = handover.ownership
    orphans, unattributed = ownership.unclaimed, intervals.empty()
    if handover.unclaimed is Unclaimed.UNATTRIBUTED:
        orphans, unattributed = unattributed, orphans
    return {
        "owned_bytes": ownership.size(ownership.owned),
        "orphan_bytes": ownership.size(orphans),
        "unattributed_bytes": ownership.size(unattributed),
        "dangling_bytes": ownership.size(ownership.dangling),
        "shared_bytes": ownership.size(ownership.shared),
        "owners": (
            {
                "owner": share.owner,
                "given_name": given_text(handover.names, share.owner),
                "bytes": share.bytes,
                "blocks": share.blocks,
            }
            for share in ownership.shares
        ),
        "orphans": _extents(ownership.extents(orphans)),
        "unattributed": _extents(ownership.extents(unattributed)),
        "unattributed_because": (
            {"message": reason.message, "path": reason.path} for reason in handover.hidden
        ),
        "dangling": _claimed_ranges(handover, ownership.dangling),
        "shared": _claimed_ranges(handover, ownership.shared),
    }


def _extents(extents: Iterable[Extent]) -> Encoded:
    extents = iter(extents)
    return Encoded(
        [
            f'{{"start": "{start:#x}", "end": "{end:#x}", "bytes": {end - start}}}'
            for start, end in batch
        ]
        for batch in iter(lambda: list(islice(extents, BATCH)), [])
    )


def _claimed_ranges(handover: Handover, pages: Intervals) -> Iterator[Document]:
    ownership, shift = handover.ownership, handover.geometry.shift
    for extent in ownership.extents(pages):
        owners = handover.index.places(extent.start >> shift, extent.end >> shift)
        yield {
            **extent_document(extent),
            "bytes": extent.size,
            "owners": owners[:MAX_CLAIMANTS],
            "more_owners": max(0, len(owners) - MAX_CLAIMANTS),
        }


def ranges_document(handover: Handover, batches: Iterable[RangeBatch]) -> Document:
    """``kho-inspect ranges --json``."""
    return answer(handover, ranges=Encoded(map(_ranges, batches)))


def _ranges(batch: RangeBatch) -> list[str]:
    owners = [""] * len(batch.starts)
    if batch.owners is not None:
        kind = f', "unclaimed": {json.dumps(batch.unclaimed and batch.unclaimed.value)}'
        owners = [
            f', "owners": {json.dumps(names)}{"" if names else kind}' for names in batch.owners
        ]
    return [
        f'{{"start": "{start:#x}", "end": "{end:#x}", "bytes": {end - start}, '
        f'"orders": {_orders(tuple(orders.items()))}{owned}}}'
        for start, end, orders, owned in zip(
            batch.starts, batch.ends, batch.orders, owners, strict=True
        )
    ]


@lru_cache(4096)
def _orders(orders: tuple[tuple[int, int], ...]) -> str:
    return json.dumps({str(order): count for order, count in orders})


def tree_document(handover: Handover) -> Document:
    """``kho-inspect tree --json``: every node, level by level from the root."""
    tree = handover.tree
    root = {"root": address(tree.root) if tree else None}
    nodes = tree.documents() if tree else iter(())
    return answer(handover, tree={**root, **_tree(handover)}, nodes=nodes)


def blobs_document(handover: Handover, blobs: Iterable[Blob], *, known: bool = True) -> Document:
    """``kho-inspect blobs --json``: as in ``show``, with each blob's device tree or bytes."""
    listed = [
        {
            **_blob(blob, known),
            "fdt": None if blob.fdt is None else _fdt_node(blob.fdt),
            "hex": bytes(blob.data).hex() if blob.stored else None,
        }
        for blob in blobs
    ]
    return answer(handover, blobs=listed)


def extract_document(handover: Handover, capture: Document, entries: list[Document]) -> Document:
    """``kho-inspect extract --json``: the manifest's capture and entries."""
    items = entries and Encoded([extracted(entry)] for entry in entries)
    return answer(handover, capture=capture, items=items)


def extracted(entry: Document) -> str:
    """The text of one entry: it may have a million sources, which json.dumps takes apart."""
    text = json.dumps({**entry, "sources": []}, indent=2)
    if entry["sources"]:
        members = '"offset": {offset},\n      "paddr": "{paddr}",\n      "size": {size}'
        row = f"\n    {{{{\n      {members}\n    }}}}"
        rows = ",".join(row.format_map(source) for source in entry["sources"])
        # No string has a line break in it.
        text = text.replace('\n  "sources": []', f'\n  "sources": [{rows}\n  ]')
    return text.replace("\n", "\n    ")


def addresses_document(
    handover: Handover, found: Iterable[AddressInfo], *, known: bool = True
) -> Document:
    """``kho-inspect addr --json``; ``preserved`` is null where it is not ``known``."""
    return answer(handover, addresses=[_address(handover, info, known) for info in found])


def head(dump: str, dtb: str | None) -> Document:
    """The first members of a document on files, which need not be a handover."""
    return {"schema_version": SCHEMA_VERSION, "source": {"path": dump, "dtb": dtb}}


def answer(handover: Handover, **members: Any) -> Document:
    """What is asked of a handover, between the head and the faults that every document has."""
    source, root = handover.source, handover.fdt
    return {
        **dump_head(source, page_size=source.page_size, page_size_reason=source.page_size_reason),
        "fdt": {
            "compatible": root.compatible,
            "abi": root.abi.compatible,
            "memory_map": address(root.memory_map),
            "size": root.size,
            "recovered": root.recovered,
        },
        **members,
        "faults": [
            {
                "kind": fault.kind.value,
                "message": fault.message,
                "paddr": address(fault.paddr),
                "path": fault.path,
            }
            for fault in handover.faults
        ],
    }


def dump_head(memory: PhysicalMemory | Source, **more: Any) -> Document:
    """The head of a document on memory alone; ``more`` is said of it."""
    source = {"path": memory.path, "format": memory.format, **more}
    return {"schema_version": SCHEMA_VERSION, "source": source}


def _blob(blob: Blob, known: bool) -> Document:
    return {
        "name": blob.name,
        "paddr": address(blob.paddr),
        "size": blob.size,
        "preserved": blob.preserved if known else None,
        "sha256": blob.sha256,
        "kind": blob.kind,
        "decoded": blob.content.document() if blob.content else None,
    }


def _fdt_node(node: FdtNode) -> Document:
    return {
        "name": node.name,
        "properties": [
            {"name": prop.name, "value": fdt_value(prop.data), "hex": prop.data.hex()}
            for prop in node.props
        ],
        "nodes": [_fdt_node(child) for child in node.children],
    }


def extent_document(extent: Extent) -> Document:
    """``{"start": "0x…", "end": "0x…"}``"""
    return {"start": hex(extent.start), "end": hex(extent.end)}


def pointer_document(pointer: Pointer, *, stray: bool) -> Document:
    """What points to a root FDT; ``stray``: none stands there."""
    return {
        "source": pointer.source,
        **extent_document(pointer.where),
        "fdt": hex(pointer.fdt),
        "stray": stray,
        "scratch_table": extent_document(pointer.scratch),
    }


def _address(handover: Handover, info: AddressInfo, known: bool) -> Document:
    entries: dict[str, list[Document | str]] = {"paths": [], "chunks": []}
    for entry in info.entries:
        entries.setdefault(entry.kind, []).append(entry.data)
    return {
        "paddr": hex(info.paddr),
        "presence": info.presence.value,
        "preserved": bool(info.blocks) if known else None,
        "blocks": [
            {**extent_document(Extent(one.paddr, one.paddr + one.size)), "order": one.order}
            for one in info.blocks
        ],
        **entries,
        "blob": info.blob.name if info.blob else None,
        "node_level": info.node_level,
        "owners": [
            {
                "owner": place,
                "given_name": given_text(handover.names, place.owner),
                "file_offset": address(place.file_offset),
            }
            for place in info.owners
        ],
        "unclaimed": info.unclaimed.value if known and info.unclaimed else None,
        "root_fdt_offset": info.root_fdt_offset,
        "scratch": [
            {"area": number, **extent_document(area), "bytes": area.size}
            for number, area in info.scratch
        ],
        "scratch_table": extent_document(info.scratch_table) if info.scratch_table else None,
        "pointers": [
            *(pointer_document(one, stray=False) for one in info.pointers),
            *(pointer_document(one, stray=True) for one in info.strays),
        ],
    }
