"""A sub-node of the root FDT and the blob it points to: ``kho_retrieve_subtree()``."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kho_inspect import fdt
from kho_inspect.errors import FdtError, MissingMemoryError
from kho_inspect.limits import DEFAULT_LIMITS, Limits, exceeded
from kho_inspect.model import Blob, FaultKind, FdtNode
from kho_inspect.preserved import Preserved
from kho_inspect.units import PhysAddr, human_size
from kho_inspect.walk.faults import missing_kind

if TYPE_CHECKING:
    from kho_inspect.abi import Abi
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.walk.faults import FaultLog


def blob_address(node: FdtNode, abi: Abi) -> PhysAddr | None:
    """Where a sub-node's blob stands, None when the property is missing or mis-sized."""
    return node.u64(abi.blob_property)


def read_blob(
    memory: PhysicalMemory,
    preserved: Preserved,
    node: FdtNode,
    abi: Abi,
    faults: FaultLog,
    limits: Limits = DEFAULT_LIMITS,
) -> Blob:
    """The blob of one sub-node, as far as the dump gives it; what it cannot give is a fault."""
    path = f"/{node.name}"
    paddr = blob_address(node, abi)
    size: int | None = None
    data: bytes | memoryview = b""
    _check_property(node, abi.blob_property, path, faults)
    if abi.blob_size_property is not None:
        _check_property(node, abi.blob_size_property, path, faults)
        size = node.u64(abi.blob_size_property)
    stored = False
    if paddr is not None:
        try:
            if abi.blob_size_property is None:
                size = _fdt_size(memory, paddr, path, faults)
            if size is not None and size > limits.blob:
                faults.add(
                    FaultKind.BLOB_TOO_LARGE,
                    f"blob of {human_size(size)} at {paddr:#x} is not read: "
                    f"{exceeded('bytes', 'blob', limits.blob)}",
                    paddr=paddr,
                    path=path,
                )
            elif size is not None:
                data = memory.read(paddr, size)
                stored = True
        except MissingMemoryError as error:
            kind = missing_kind(error, FaultKind.BLOB_OUTSIDE, FaultKind.BLOB_NOT_STORED)
            faults.add(kind, f"blob: {error.message}", paddr=paddr, path=path)
    tree = _as_fdt(data, paddr, path, faults, limits.fdt)
    return Blob(
        node.name,
        paddr,
        size,
        stored,
        paddr is not None and size is not None and preserved.covers(paddr, size),
        hashlib.sha256(data).hexdigest() if stored else None,
        "fdt" if tree else "data",
        data,
        tree,
    )


def _check_property(node: FdtNode, name: str, path: str, faults: FaultLog) -> None:
    value = node.prop(name)
    if value is None:
        faults.add(FaultKind.FDT_BLOB_PROPERTY, f"sub-node has no property {name!r}", path=path)
    elif len(value) != 8:
        faults.add(
            FaultKind.FDT_BLOB_PROPERTY,
            f"property {name!r} is {len(value)} bytes, should be 8",
            path=path,
        )


def _fdt_size(memory: PhysicalMemory, paddr: PhysAddr, path: str, faults: FaultLog) -> int | None:
    """Up to kho-v2 a blob is an FDT and its size is the FDT's own."""
    head = memory.read(paddr, 8)
    size = fdt.total_size(head)
    if size is None:
        faults.add(
            FaultKind.BLOB_NOT_FDT,
            f"blob at {paddr:#x} starts with {bytes(head[:4]).hex()}, should be an FDT",
            paddr=paddr,
            path=path,
        )
    return size


def _as_fdt(
    data: bytes | memoryview, paddr: PhysAddr | None, path: str, faults: FaultLog, limit: int
) -> FdtNode | None:
    size = fdt.total_size(data)
    if size is None:
        return None
    if limit < size <= len(data):
        # Elsewhere an FDT that cannot be parsed is plain data; this one only was not tried.
        faults.add(
            FaultKind.BLOB_TOO_LARGE,
            f"FDT of {human_size(size)} at {paddr:#x} is not parsed: "
            f"{exceeded('bytes', 'fdt', limit)}",
            paddr=paddr,
            path=path,
        )
        return None
    try:
        return fdt.parse(data, limit=limit)
    except FdtError:
        return None
