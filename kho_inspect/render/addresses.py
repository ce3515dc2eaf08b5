"""``addr`` on the console."""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from kho_inspect.model.claims import Unclaimed
from kho_inspect.model.fd_names import FdNames
from kho_inspect.ownership.address import AddressInfo
from kho_inspect.render.console import grid, most, plain
from kho_inspect.render.names import place_name, with_given
from kho_inspect.units import Extent, human_size

MAX_OWNERS = 64
"""Owners of one page that are shown; many have it only where entries without number lie."""


_UNCLAIMED = {
    Unclaimed.ORPHAN: "none: an orphan, nothing points here",
    Unclaimed.UNATTRIBUTED: "unattributed: may be owned by what was not followed (see owners)",
}


def print_address(
    console: Console, info: AddressInfo, names: FdNames, *, known: bool = True
) -> None:
    """Preserved or not, by which block, whose, where in the map, in which sub-node.

    ``known``: the map reads as one, so that its silence means something.
    """
    state = Text("preserved", "green") if info.blocks else Text("not preserved", "yellow")
    if not known:
        state = Text("unknown whether preserved: the map does not read as one", "yellow")
    console.print(Text.assemble((f"{info.paddr:#x}", "bold"), "  ", state))
    rows = [(name, plain(value)) for name, value in _rows(info, names, known)]
    console.print(grid(rows, indent=2))


def _rows(info: AddressInfo, names: FdNames, known: bool) -> Iterator[tuple[str, str]]:
    for block in info.blocks:
        extent = Extent(block.paddr, block.paddr + block.size)
        yield "block", f"{extent}, order {block.order}, {human_size(block.size)}"
    if len(info.blocks) > 1:
        yield "overlap", f"{len(info.blocks)} blocks of different orders hold this page"
    for owner in (listed := most(info.owners, MAX_OWNERS)):
        yield "owner", with_given(place_name(owner), names, owner.owner)
    if left := len(info.owners) - len(listed):
        yield "", f"… {left:,} more: --json lists them all"
    if known and info.unclaimed is not None:
        yield "owner", _UNCLAIMED[info.unclaimed]
    if known and info.owners and not info.blocks:
        yield "", "dangling: claimed, but not preserved, so it will be overwritten"
    for entry in info.entries:
        yield from entry.rows
    if info.blob is not None and info.blob.paddr is not None:
        yield "sub-node", f"{info.blob.name}, byte {info.paddr - info.blob.paddr}"
    if info.root_fdt_offset is not None:
        yield "root FDT", f"byte {info.root_fdt_offset}"
    for number, area in info.scratch:
        yield "scratch", f"area {number}, {area}, {human_size(area.size)}"
    if info.scratch_table is not None:
        byte = info.paddr - info.scratch_table.start
        yield "scratch", f"byte {byte} of the scratch table, {info.scratch_table}"
    for pointer in info.pointers:
        byte = info.paddr - pointer.where.start
        table = f", and to the scratch table {pointer.scratch}" if pointer.scratch.size else ""
        words = f"points to the root FDT at {pointer.fdt:#x}{table}"
        yield "pointer", f"byte {byte} of {pointer.source}, which {words}"
    for pointer in info.strays:
        byte = info.paddr - pointer.where.start
        words = f"points to {pointer.fdt:#x}, where no root FDT was found"
        yield "pointer", f"byte {byte} of {pointer.source}, which {words}"
    if info.node_level is not None:
        kind = "a leaf" if info.node_level == 0 else f"a level-{info.node_level} node"
        yield "tree", f"{kind} of the preserved-memory tree itself"
    yield "dump", info.presence.value
