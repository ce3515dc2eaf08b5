"""``addr`` on the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from kho_inspect.render.console import grid, plain
from kho_inspect.units import Extent, human_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from kho_inspect.geometry import PageGeometry
    from kho_inspect.ownership.address import AddressInfo, KeyPath

MAX_OWNERS = 64
"""Owners of one page that are shown; many have it only where entries without number lie."""


def print_address(console: Console, geometry: PageGeometry, info: AddressInfo) -> None:
    """Preserved or not, by which block, whose, on which path, in which sub-node."""
    state = Text("preserved", "green") if info.blocks else Text("not preserved", "yellow")
    console.print(Text.assemble((f"{info.paddr:#x}", "bold"), "  ", state))
    rows = [(name, plain(value)) for name, value in _rows(geometry, info)]
    console.print(grid(rows, indent=2))


def _rows(geometry: PageGeometry, info: AddressInfo) -> Iterator[tuple[str, str]]:
    for block in info.blocks:
        extent = Extent(block.paddr, block.paddr + block.size)
        yield "block", f"{extent}, order {block.order}, {human_size(block.size)}"
    if len(info.blocks) > 1:
        yield "overlap", f"{len(info.blocks)} blocks of different orders hold this page"
    for owner in info.owners[:MAX_OWNERS]:
        yield "owner", owner.chain
    if len(info.owners) > MAX_OWNERS:
        yield "", f"… {len(info.owners) - MAX_OWNERS:,} more: --json lists them all"
    if info.blocks and not info.owners:
        yield "owner", "none: an orphan, nothing that was decoded points here"
    if info.owners and not info.blocks:
        yield "", "dangling: claimed, but not preserved, so it will be overwritten"
    for path in info.paths:
        yield from _path_rows(geometry, path)
    for place in info.chunks:
        yield "map", place
    if info.blob is not None and info.blob.paddr is not None:
        yield "sub-node", f"{info.blob.name}, byte {info.paddr - info.blob.paddr}"
    if info.node_level is not None:
        kind = "a leaf" if info.node_level == 0 else f"a level-{info.node_level} node"
        yield "tree", f"{kind} of the preserved-memory tree itself"
    yield "dump", info.presence.value


def _path_rows(geometry: PageGeometry, path: KeyPath) -> Iterator[tuple[str, str]]:
    yield "key", f"{path.key:#x} (order {path.order})"
    for step in path.steps:
        if step.level:
            name = "root" if step.level == geometry.levels - 1 else f"L{step.level}"
            target = f"→ {step.value:#x}" if step.value else "is 0: no such block is preserved"
            yield name, f"{step.paddr:#x} [{step.index}] {target}"
        else:
            yield "leaf", f"{step.paddr:#x} bit {step.index} {'set' if step.value else 'clear'}"
    if path.steps and path.steps[-1].level and path.steps[-1].value:
        yield "", "the path breaks off here: that node cannot be read"
