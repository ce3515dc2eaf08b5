"""The kho-v1 chunk list as text."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from kho_inspect.units import human_size, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.tree import Tree

    from kho_inspect.geometry import PageGeometry
    from kho_inspect.model.map import ChunkList, MapChunk

MAX_BITMAPS = 16
"""Bitmaps of one chunk that the folded view lists."""


def chunk_words(chunks: ChunkList, geometry: PageGeometry) -> str:
    """The list in a few words."""
    bitmaps = chunks.nodes - len(chunks.chunks)
    size = human_size(chunks.bitmap_size)
    return (
        f"{plural(len(chunks.chunks), 'chunk')}, {plural(bitmaps, 'bitmap')} of {size} · "
        f"first chunk {chunks.root:#x}"
    )


def chunk_tree(chunks: ChunkList, geometry: PageGeometry) -> Tree:
    """A Rich tree: chunks, and the bitmaps of each."""
    from rich.tree import Tree

    from kho_inspect.render.console import plain

    root = Tree(plain(chunk_words(chunks, geometry)), guide_style="dim")
    for chunk in chunks.chunks:
        branch = root.add(plain(_chunk_line(chunk)))
        for line in islice(_bitmap_lines(chunk), MAX_BITMAPS):
            branch.add(plain(line))
        if len(chunk.bitmap) > MAX_BITMAPS:
            branch.add(plain(f"… {len(chunk.bitmap) - MAX_BITMAPS:,} more: --full", "dim"))
    return root


def chunk_lines(chunks: ChunkList, geometry: PageGeometry) -> Iterator[str]:
    """Every chunk and bitmap on its own line."""
    yield chunk_words(chunks, geometry)
    for chunk in chunks.chunks:
        yield f"  {_chunk_line(chunk)}"
        for line in _bitmap_lines(chunk):
            yield f"    {line}"


def _chunk_line(chunk: MapChunk) -> str:
    return f"chunk {chunk.paddr:#x} · order {chunk.order} · {plural(chunk.num_elms, 'bitmap')}"


def _bitmap_lines(chunk: MapChunk) -> Iterator[str]:
    for start, bitmap in zip(chunk.phys_start.tolist(), chunk.bitmap.tolist(), strict=True):
        yield f"bitmap {bitmap:#x} · memory from {start:#x}"
