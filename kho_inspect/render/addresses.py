"""``addr`` on the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from kho_inspect.render.console import plain
from kho_inspect.units import Extent, human_size

if TYPE_CHECKING:
    from rich.console import Console

    from kho_inspect.address import AddressInfo, KeyPath
    from kho_inspect.geometry import PageGeometry


def print_address(console: Console, geometry: PageGeometry, info: AddressInfo) -> None:
    """Preserved or not, by which block, on which path, in which sub-node."""
    state = Text("preserved", "green") if info.blocks else Text("not preserved", "yellow")
    console.print(Text.assemble((f"{info.paddr:#x}", "bold"), "  ", state))
    for block in info.blocks:
        extent = Extent(block.paddr, block.paddr + block.size)
        _row(console, "block", f"{extent}, order {block.order}, {human_size(block.size)}")
    if len(info.blocks) > 1:
        _row(console, "overlap", f"{len(info.blocks)} blocks of different orders hold this page")
    for owner in info.owners:
        _row(console, "owner", owner.chain)
    if info.blocks and not info.owners:
        _row(console, "owner", "none: an orphan, nothing that was decoded points here")
    if info.owners and not info.blocks:
        _row(console, "", "dangling: claimed, but not preserved, so it will be overwritten")
    for path in info.paths:
        _print_path(console, geometry, path)
    if info.blob is not None and info.blob.paddr is not None:
        _row(console, "sub-node", f"{info.blob.name}, byte {info.paddr - info.blob.paddr}")
    if info.node_level is not None:
        kind = "a leaf" if info.node_level == 0 else f"a level-{info.node_level} node"
        _row(console, "tree", f"{kind} of the preserved-memory tree itself")
    _row(console, "dump", info.presence.value)


def _print_path(console: Console, geometry: PageGeometry, path: KeyPath) -> None:
    _row(console, "key", f"{path.key:#x} (order {path.order})")
    for step in path.steps:
        if step.level:
            name = "root" if step.level == geometry.levels - 1 else f"L{step.level}"
            target = f"→ {step.value:#x}" if step.value else "is 0: no such block is preserved"
            _row(console, name, f"{step.paddr:#x} [{step.index}] {target}")
        else:
            state = "set" if step.value else "clear"
            _row(console, "leaf", f"{step.paddr:#x} bit {step.index} {state}")
    if path.steps and path.steps[-1].level and path.steps[-1].value:
        _row(console, "", "the path breaks off here: that node cannot be read")


def _row(console: Console, name: str, value: str) -> None:
    console.print(Text.assemble((f"  {name:<9} ", "dim"), plain(value)), soft_wrap=True)
