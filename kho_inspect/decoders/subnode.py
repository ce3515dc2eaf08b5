"""The sub-nodes of the root FDT and the blobs they point to: ``kho_retrieve_subtree()``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kho_inspect import fdt
from kho_inspect.errors import FdtError
from kho_inspect.limits import DEFAULT_LIMITS, Limits, exceeded
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import Blob
from kho_inspect.model.preserved import Preserved
from kho_inspect.units import PhysAddr, human_size, plural
from kho_inspect.walk.pages import Target

if TYPE_CHECKING:
    from kho_inspect.abi import Abi
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.walk.faults import FaultLog

_BLOB = Target("blob", FaultKind.BLOB_OUTSIDE, FaultKind.BLOB_NOT_STORED)
MAX_SUBNODES = 2048
"""The root FDT is one page, 64 KiB at the most, of which a sub-node takes at least 32 bytes."""


def blob_address(node: FdtNode, abi: Abi) -> PhysAddr | None:
    """Where a sub-node's blob stands, None when the property is missing or mis-sized."""
    return node.u64(abi.blob_property)


def read_blobs(
    memory: PhysicalMemory,
    preserved: Preserved,
    root: FdtNode,
    abi: Abi,
    faults: FaultLog,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Blob]:
    """The blob of each sub-node, as far as the dump gives it; what it cannot give is a fault."""
    more = len(root.children) - MAX_SUBNODES
    if more > 0:
        faults.add(
            FaultKind.LIMIT,
            f"{plural(more, 'sub-node')} behind the first {MAX_SUBNODES:,} not looked at: "
            "no page has room for so many",
            path="/",
        )
    reader = _Reader(memory, preserved, abi, faults, limits)
    for node in root.children[:MAX_SUBNODES]:
        yield reader.read(node)


class _Reader:
    """Reads blobs within the limits of all of them: any number may name the same memory."""

    def __init__(
        self,
        memory: PhysicalMemory,
        preserved: Preserved,
        abi: Abi,
        faults: FaultLog,
        limits: Limits,
    ) -> None:
        self.memory = memory
        self.preserved = preserved
        self.abi = abi
        self.faults = faults
        self.limits = limits
        self.left = limits.blob
        self.tokens = fdt.Tokens()

    def read(self, node: FdtNode) -> Blob:
        path = f"/{node.name}"
        paddr = blob_address(node, self.abi)
        size: int | None = None
        data: bytes | memoryview | None = None
        self.check_property(node, self.abi.blob_property, path)
        if self.abi.blob_size_property is not None:
            self.check_property(node, self.abi.blob_size_property, path)
            size = node.u64(self.abi.blob_size_property)
        if paddr is not None:
            if self.abi.blob_size_property is None:
                size = self.fdt_size(paddr, path)
            if size is not None:
                data = self.data(paddr, size, path)
        tree = None if data is None else self.as_fdt(data, paddr, path)
        return Blob(
            node.name,
            paddr,
            size,
            data is not None,
            paddr is not None and size is not None and self.preserved.covers(paddr, size),
            None if data is None else hashlib.sha256(data).hexdigest(),
            "fdt" if tree else "data",
            b"" if data is None else data,
            tree,
        )

    def data(self, paddr: PhysAddr, size: int, path: str) -> bytes | memoryview | None:
        """The bytes of a blob, None (and a fault) where they are missing or beyond the limit."""
        limit = self.limits.blob
        if size > self.left:
            self.faults.add(
                FaultKind.BLOB_TOO_LARGE if size > limit else FaultKind.LIMIT,
                f"blob of {human_size(size)} at {paddr:#x} is not read: "
                f"{exceeded('bytes of blobs', 'blob', limit)}",
                paddr=paddr,
                path=path,
            )
            return None
        data = _BLOB.read(self.memory, paddr, size, path, self.faults)
        self.left -= 0 if data is None else size
        return data

    def check_property(self, node: FdtNode, name: str, path: str) -> None:
        value = node.prop(name)
        if value is None:
            message = f"sub-node has no property {name!r}"
            self.faults.add(FaultKind.FDT_BLOB_PROPERTY, message, path=path)
        elif len(value) != 8:
            message = f"property {name!r} is {len(value)} bytes, should be 8"
            self.faults.add(FaultKind.FDT_BLOB_PROPERTY, message, path=path)

    def fdt_size(self, paddr: PhysAddr, path: str) -> int | None:
        """Up to kho-v2 a blob is an FDT and its size is the FDT's own."""
        head = _BLOB.read(self.memory, paddr, fdt.START_SIZE, path, self.faults)
        if head is None:
            return None
        size = fdt.total_size(head)
        if size is None:
            self.faults.add(
                FaultKind.BLOB_NOT_FDT,
                f"blob at {paddr:#x} starts with {bytes(head[:4]).hex()}, should be an FDT",
                paddr=paddr,
                path=path,
            )
        return size

    def as_fdt(self, data: bytes | memoryview, paddr: PhysAddr | None, path: str) -> FdtNode | None:
        size = fdt.total_size(data)
        if size is None:
            return None
        try:
            return fdt.parse(data, limit=self.limits.fdt, tokens=self.tokens)
        except FdtError as error:
            # Any other FDT that is none is plain data.
            if size > self.limits.fdt or not self.tokens.left:
                message = f"the FDT at {paddr:#x} is not parsed: {error.message}"
                self.faults.add(FaultKind.LIMIT, message, paddr=paddr, path=path)
            return None
