"""The sub-nodes of the root FDT and the blobs they point to: ``kho_retrieve_subtree()``."""

import hashlib
from collections.abc import Iterator

from kho_inspect import fdt
from kho_inspect.abi import ABIS, Abi
from kho_inspect.decoders.context import Context
from kho_inspect.errors import FdtError
from kho_inspect.limits import exceeded
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import Blob
from kho_inspect.model.identity import Owner, Path, Step, StepKind, Subsystem
from kho_inspect.units import PhysAddr, human_size, plural
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.pages import Target

_BLOB = Target("blob", FaultKind.BLOB_OUTSIDE, FaultKind.BLOB_NOT_STORED)
MAX_SUBNODES = 2048
"""The root FDT is one page, 64 KiB at the most, of which a sub-node takes at least 32 bytes."""


def read_blobs(
    context: Context, root: FdtNode, abi: Abi | None, *, cut: bool = False
) -> Iterator[Blob]:
    """The blob of each sub-node, as far as the dump gives it; what it cannot give is a fault.

    Under an ABI that is not known (None), where its properties are those of a known one. With
    ``cut`` it is no fault that the last sub-node is not whole.
    """
    more = len(root.children) - MAX_SUBNODES
    if more > 0:
        words = f"{plural(more, 'sub-node')} behind the first {MAX_SUBNODES:,} not looked at"
        message = f"{words}: no page has room for so many"
        context.faults.add(FaultKind.LIMIT, message, path=(Step(StepKind.FDT),))
    reader = _Reader(context, abi)
    for node in root.children[:MAX_SUBNODES]:
        whole = not (cut and node is root.children[-1])
        reader.faults = context.faults if whole else FaultLog()
        yield reader.read(node)


def _like(node: FdtNode) -> Abi:
    """The newest known ABI whose properties a sub-node has, else the newest."""
    names = {prop.name for prop in node.props}
    newest = ABIS[::-1]
    return next(
        (abi for abi in newest if {abi.blob_property, abi.blob_size_property} - {None} <= names),
        newest[0],
    )


class _Reader:
    """Reads blobs within the limits of all of them: any number may name the same memory."""

    def __init__(self, context: Context, abi: Abi | None) -> None:
        self.context = context
        self.abi = abi
        self.faults = context.faults
        self.left = context.limits.blob
        """Bytes of blobs that may still be read."""
        self.tokens = fdt.Tokens()

    def read(self, node: FdtNode) -> Blob:
        path = (Step(StepKind.SUBNODE, node.name),)
        abi = self.abi or _like(node)
        paddr = self.pointer(node, abi.blob_property, path)
        size: int | None = None
        data: bytes | memoryview | None = None
        preserved = False
        if abi.blob_size_property is not None:
            size = self.pointer(node, abi.blob_size_property, path)
        elif paddr is not None:
            size = self.fdt_size(paddr, path)
        if paddr is not None and size is not None:
            data = self.data(paddr, size, path)
            preserved = self.context.preserved.covers(paddr, size)
        tree = None if data is None else self.as_fdt(data, paddr, path)
        return Blob(
            name=node.name,
            owner=Owner(Subsystem.SUBNODE, (node.name,)),
            paddr=paddr,
            size=size,
            stored=data is not None,
            preserved=preserved,
            sha256=None if data is None else hashlib.sha256(data).hexdigest(),
            kind="fdt" if tree else "data",
            data=b"" if data is None else data,
            fdt=tree,
        )

    def data(self, paddr: PhysAddr, size: int, path: Path) -> bytes | memoryview | None:
        """The bytes of a blob, None (and a fault) where they are missing or beyond the limit."""
        limit = self.context.limits.blob
        if size > self.left:
            kind = FaultKind.BLOB_TOO_LARGE if size > limit else FaultKind.LIMIT
            words = f"blob of {human_size(size)} at {paddr:#x} is not read"
            message = f"{words}: {exceeded('bytes of blobs', 'blob', limit)}"
            self.faults.add(kind, message, paddr=paddr, path=path)
            return None
        data = _BLOB.read(self.context.memory, paddr, size, path, self.faults)
        self.left -= 0 if data is None else size
        return data

    def pointer(self, node: FdtNode, name: str, path: Path) -> int | None:
        """A property's value; None, and a fault, when it is missing or mis-sized."""
        value = node.u64(name)
        if value is None:
            data = node.prop(name)
            message = f"sub-node has no property {name!r}"
            if data is not None:
                message = f"property {name!r} is {len(data)} bytes, should be 8"
            self.faults.add(FaultKind.FDT_BLOB_PROPERTY, message, path=path)
        return value

    def fdt_size(self, paddr: PhysAddr, path: Path) -> int | None:
        """Up to kho-v2 a blob is an FDT and its size is the FDT's own."""
        head = _BLOB.read(self.context.memory, paddr, fdt.START_SIZE, path, self.faults)
        if head is None:
            return None
        size = fdt.total_size(head)
        if size is None:
            words = f"blob at {paddr:#x} starts with {bytes(head[:4]).hex()}, should be an FDT"
            self.faults.add(FaultKind.BLOB_NOT_FDT, words, paddr=paddr, path=path)
        return size

    def as_fdt(
        self, data: bytes | memoryview, paddr: PhysAddr | None, path: Path
    ) -> FdtNode | None:
        size = fdt.total_size(data)
        if size is None:
            return None
        try:
            return fdt.parse(data, limit=self.context.limits.fdt, tokens=self.tokens)
        except FdtError as error:
            # Any other FDT that is none is plain data.
            if size > self.context.limits.fdt or not self.tokens.left:
                message = f"the FDT at {paddr:#x} is not parsed: {error.message}"
                self.faults.add(FaultKind.LIMIT, message, paddr=paddr, path=path)
            return None
