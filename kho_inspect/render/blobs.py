"""Sub-nodes and what they hold, on the console."""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import Blob
from kho_inspect.render.console import Columns, is_endless, left_out, plain, table
from kho_inspect.render.fdt_values import fdt_value
from kho_inspect.render.hexdump import hexdump
from kho_inspect.units import exact_size, human_size

PREVIEW_LINES = 8
"""Hexdump lines of a blob of unknown kind, unless more is asked for."""
MAX_FDT_LINES = 200
"""Properties and nodes of one FDT blob that are printed."""


def blob_table(blobs: Sequence[Blob], *, known: bool = True) -> Columns:
    """One row per sub-node; ``known``: the map reads as one, so that something follows from it."""
    made = table("name", "address", "size", "preserved", "kind", right=("address", "size"))
    for blob in blobs:
        state = Text("yes", "green") if blob.preserved else Text("NO", "bold red")
        made.add_row(
            plain(blob.name),
            "?" if blob.paddr is None else f"{blob.paddr:#x}",
            "?" if blob.size is None else exact_size(blob.size),
            state if known and None not in (blob.paddr, blob.preserved) else Text("?"),
            plain(blob.kind if blob.stored else f"{blob.kind}, not read"),
        )
    return made


def blob_content(blob: Blob) -> RenderableType:
    """What the blob holds: its device tree, else a hexdump."""
    if blob.fdt is not None:
        return fdt_tree(blob.name, blob.fdt)
    title = plain(blob.name, "bold")
    if not blob.stored:
        return Group(title, Text("  its bytes could not be read: see the faults", "yellow"))
    lines = list(islice(hexdump(blob.data, blob.paddr or 0), PREVIEW_LINES))
    text = Text("\n".join(f"  {line}" for line in lines))
    if len(blob.data) > 16 * PREVIEW_LINES:
        text.append(f"\n  … {human_size(len(blob.data))} in all: blobs --hexdump", "dim")
    return Group(title, text)


def hexdump_lines(blob: Blob) -> Iterator[str]:
    """Every byte of the blob, as lines for a plain stream: Rich is slow where they are many."""
    for line in hexdump(blob.data, blob.paddr or 0):
        yield f"  {line}\n"


def fdt_tree(name: str, root: FdtNode) -> Tree:
    """A device tree with KHO's native-endian values decoded."""
    left = sys.maxsize if is_endless() else MAX_FDT_LINES

    def grow(branch: Tree, node: FdtNode) -> None:
        nonlocal left
        for prop in node.props:
            if left > 0:
                line = Text.assemble(plain(prop.name, "cyan"), " = ", plain(fdt_value(prop.data)))
                branch.add(line)
            left -= 1
        for child in node.children:
            left -= 1
            grow(branch.add(plain(child.name, "bold")) if left >= 0 else branch, child)

    top = Tree(plain(name, "bold"), guide_style="dim")
    grow(top, root)
    if left < 0:
        top.add(left_out(-left, "lines of its device tree", "a pipe shows them, as does --hexdump"))
    return top
