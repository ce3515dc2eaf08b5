"""The versioned JSON documents: addresses as ``"0x…"`` strings, counts as numbers.

Never goes through Rich. Ranges are streamed, one per line; all else is small.
"""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from kho_inspect.model.map import RadixTree
from kho_inspect.ownership.index import OwnerIndex
from kho_inspect.render.decoded_json import decoded
from kho_inspect.render.fdt_values import fdt_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kho_inspect.intervals import Intervals
    from kho_inspect.locate.scan import Located
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.model.fdt_node import FdtNode
    from kho_inspect.model.handover import Blob, Handover, Scratch
    from kho_inspect.ownership.address import AddressInfo, KeyPath
    from kho_inspect.render.ranges import RangeBatch
    from kho_inspect.units import Extent

SCHEMA_VERSION = 1
BATCH = 4096
"""Items of long arrays that are held at a time."""
MAX_CLAIMANTS = 8
"""Claims on one range that are spelled out."""

Document = dict[str, Any]
"""JSON-ready, but for iterators of documents, which become arrays as they are written."""


class Encoded:
    """An array whose items come as JSON text, in lists: for millions of the same shape."""

    def __init__(self, batches: Iterable[list[str]]) -> None:
        self.batches = batches


def stream(document: Document) -> Iterator[str]:
    """The document as text, piece by piece; an iterator becomes an array, one item per line."""
    yield "{"
    yield from _members(document, 1)
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
            batches = ([json.dumps(item)] for item in value)
        separator = pad + "  "
        yield "["
        for batch in batches:
            yield separator + f",{pad}  ".join(batch)
            separator = f",{pad}  "
        yield pad + "]"
    else:
        yield json.dumps(value, indent=2).replace("\n", pad)


def address(value: int | None) -> str | None:
    """``"0x4b0000"``, or null."""
    return None if value is None else hex(value)


def show_document(handover: Handover) -> Document:
    """``kho-inspect show --json``."""
    preserved, tree = handover.preserved, handover.tree
    return {
        **_head(handover),
        "tree": {
            "levels": tree.depth if tree else 0,
            "nodes": tree.nodes if tree else 0,
            "leaves": tree.leaves if tree else 0,
        },
        "preserved": {
            "blocks": preserved.blocks,
            "bytes": preserved.bytes,
            "orders": {str(order): count for order, count in preserved.orders.items()},
            "ranges": _extents(preserved.extents()),
        },
        "blobs": [_blob(blob) for blob in handover.blobs],
        "ownership": _ownership(handover),
        "faults": _faults(handover),
    }


def owners_document(handover: Handover) -> Document:
    """``kho-inspect owners --json``."""
    return {
        **_head(handover),
        "ownership": _ownership(handover),
        "faults": _faults(handover),
    }


def _ownership(handover: Handover) -> Document:
    ownership = handover.ownership
    return {
        "owned_bytes": ownership.size(ownership.owned),
        "orphan_bytes": ownership.size(ownership.orphans),
        "dangling_bytes": ownership.size(ownership.dangling),
        "shared_bytes": ownership.size(ownership.shared),
        "owners": (
            {"owner": owner.name, "bytes": owner.bytes, "blocks": owner.blocks}
            for owner in ownership.owners
        ),
        "orphans": _extents(ownership.extents(ownership.orphans)),
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
    if not len(pages[0]):
        return
    index = OwnerIndex(handover.preserved, handover.claims)
    for extent in ownership.extents(pages):
        owners = index.owners(extent.start >> shift, extent.end >> shift)
        yield {
            "start": hex(extent.start),
            "end": hex(extent.end),
            "bytes": extent.size,
            "owners": [one.chain(extent.start, shift) for one in owners[:MAX_CLAIMANTS]],
        }


def ranges_document(handover: Handover, batches: Iterable[RangeBatch]) -> Document:
    """``kho-inspect ranges --json``."""
    return {
        **_head(handover),
        "ranges": Encoded(map(_ranges, batches)),
        "faults": _faults(handover),
    }


def _ranges(batch: RangeBatch) -> list[str]:
    owners = [""] * len(batch.starts)
    if batch.owners is not None:
        owners = [f', "owners": {json.dumps(names)}' for names in batch.owners]
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
    return {
        **_head(handover),
        "tree": {
            "root": address(tree.root) if tree else None,
            "levels": tree.depth if tree else 0,
            "nodes": tree.nodes if tree else 0,
            "leaves": tree.leaves if tree else 0,
        },
        "nodes": _nodes(handover),
        "faults": _faults(handover),
    }


def _nodes(handover: Handover) -> Iterator[Document]:
    tree = handover.tree
    if isinstance(tree, RadixTree):
        for level in tree.levels:
            for paddr, key, used in zip(
                level.paddr.tolist(), level.key.tolist(), level.used.tolist(), strict=True
            ):
                yield {
                    "level": level.level,
                    "paddr": hex(paddr),
                    "path": handover.geometry.node_path(key, level.level),
                    "used": used,
                }
    elif tree is not None:
        for number, chunk in enumerate(tree.chunks):
            yield {
                "chunk": number,
                "paddr": hex(chunk.paddr),
                "path": f"chunk {number}",
                "order": chunk.order,
                "num_elms": chunk.num_elms,
                "bitmaps": [
                    {"phys_start": hex(start), "bitmap": hex(bitmap)}
                    for start, bitmap in zip(
                        chunk.phys_start.tolist(), chunk.bitmap.tolist(), strict=True
                    )
                ],
            }


def blobs_document(handover: Handover, blobs: Iterable[Blob]) -> Document:
    """``kho-inspect blobs --json``: as in ``show``, with each blob's device tree or bytes."""
    return {
        **_head(handover),
        "blobs": [
            {
                **_blob(blob),
                "fdt": None if blob.fdt is None else _fdt_node(blob.fdt),
                "hex": bytes(blob.data).hex() if blob.stored else None,
            }
            for blob in blobs
        ],
        "faults": _faults(handover),
    }


def extract_document(handover: Handover, entries: list[Document]) -> Document:
    """``kho-inspect extract --json``: the manifest's entries."""
    return {**_head(handover), "items": entries, "faults": _faults(handover)}


def locate_document(memory: PhysicalMemory, located: Located, scratch: Scratch | None) -> Document:
    """``kho-inspect locate --json``: candidates best first."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": {"path": memory.path, "format": memory.format},
        "candidates": (
            {
                "paddr": hex(found.paddr),
                "compatible": found.compatible,
                "size": len(found.data),
                "valid_tree": found.valid_tree,
                "why": found.why,
            }
            for found in located.fdts
        ),
        "scratch": [
            {"start": hex(area.start), "end": hex(area.end)}
            for area in (scratch.areas if scratch else ())
        ],
    }


def addresses_document(handover: Handover, found: Iterable[AddressInfo]) -> Document:
    """``kho-inspect addr --json``."""
    return {
        **_head(handover),
        "addresses": [_address(handover, info) for info in found],
        "faults": _faults(handover),
    }


def _head(handover: Handover) -> Document:
    source, root = handover.source, handover.fdt
    return {
        "schema_version": SCHEMA_VERSION,
        "source": {
            "path": source.path,
            "format": source.format,
            "page_size": source.page_size,
            "page_size_reason": source.page_size_reason,
        },
        "fdt": {
            "compatible": root.compatible,
            "abi": root.abi.compatible,
            "memory_map": address(root.memory_map),
            "size": root.size,
            "recovered": root.recovered,
        },
    }


def _blob(blob: Blob) -> Document:
    return {
        "name": blob.name,
        "paddr": address(blob.paddr),
        "size": blob.size,
        "preserved": blob.preserved,
        "sha256": blob.sha256,
        "kind": blob.kind,
        "decoded": decoded(blob.content),
    }


def _faults(handover: Handover) -> list[Document]:
    return [
        {
            "kind": fault.kind.value,
            "message": fault.message,
            "paddr": address(fault.paddr),
            "path": fault.path,
        }
        for fault in handover.faults
    ]


def _fdt_node(node: FdtNode) -> Document:
    return {
        "name": node.name,
        "properties": [
            {"name": prop.name, "value": fdt_value(prop.data), "hex": prop.data.hex()}
            for prop in node.props
        ],
        "nodes": [_fdt_node(child) for child in node.children],
    }


def _address(handover: Handover, info: AddressInfo) -> Document:
    return {
        "paddr": hex(info.paddr),
        "presence": info.presence.value,
        "preserved": bool(info.blocks),
        "blocks": [
            {
                "start": hex(block.paddr),
                "end": hex(block.paddr + block.size),
                "order": block.order,
            }
            for block in info.blocks
        ],
        "paths": [_key_path(handover, path) for path in info.paths],
        "chunks": list(info.chunks),
        "blob": info.blob.name if info.blob else None,
        "node_level": info.node_level,
        "owners": [
            {"owner": owner.chain, "file_offset": address(owner.file_offset)}
            for owner in info.owners
        ],
    }


def _key_path(handover: Handover, path: KeyPath) -> Document:
    reached = path.steps[-1].level if path.steps else handover.geometry.levels - 1
    return {
        "key": hex(path.key),
        "order": path.order,
        "path": handover.geometry.entry_path(path.key, reached),
        "steps": [
            {
                "level": step.level,
                "node": hex(step.paddr),
                "index": step.index,
                "value": hex(step.value) if step.level else step.value,
            }
            for step in path.steps
        ],
    }
