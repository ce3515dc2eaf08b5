"""Sub-node blobs by their contents, and the root FDTs in the dump that point to them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from kho_inspect import fdt
from kho_inspect.abi import MAP_PROPERTY, find_abi
from kho_inspect.carve.files import Files
from kho_inspect.carve.scan import LUO_SER, AnchorKind, Anchors
from kho_inspect.decoders.kexec_metadata import KexecMetadata
from kho_inspect.decoders.kho_test import KhoTest
from kho_inspect.decoders.memblock import REGION, Memblock
from kho_inspect.decoders.registry import BLOB_DECODERS, decode_blobs
from kho_inspect.errors import FdtError
from kho_inspect.layouts.kexec_metadata import kho_kexec_metadata
from kho_inspect.layouts.kho_test import KHO_TEST_MAGIC
from kho_inspect.memory import Presence, read_or_none
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import Blob
from kho_inspect.model.identity import Owner, Subsystem
from kho_inspect.model.luo import Luo
from kho_inspect.units import PhysAddr

MAX_FDT = 64 << 10
"""Bytes: the kernel allots these one page."""
MAX_SUBNODES = 4096
"""Sub-nodes of root FDTs that are kept."""
MAX_BLOBS = 4096
"""Blobs that are decoded."""
_NODES = {decoder.kind: decoder.subsystem.value for decoder in BLOB_DECODERS}


@dataclass(frozen=True, slots=True)
class Found:
    """One blob that reads as what it is."""

    blob: Blob
    root: PhysAddr | None
    """The root FDT whose sub-node of that name points to it."""
    sound: bool
    """What it points to reads as its own."""


class Blobs:
    """Reads device trees and raw structs where pages begin like them."""

    def __init__(self, files: Files, anchors: Anchors) -> None:
        self.files = files
        self.memory = files.memory
        self.tokens = fdt.Tokens()
        self.summed = 0
        """Bytes that checksums were computed of."""
        self.roots: dict[tuple[str, PhysAddr], PhysAddr] = {}
        """Name and address of a blob → root FDT that points to it."""
        self.found = list(self._found(anchors))

    def _found(self, anchors: Anchors) -> Iterator[Found]:
        blobs = [
            *self._trees(anchors[AnchorKind.FDT]),
            *self._raw("LUO", anchors[AnchorKind.LUO], LUO_SER.sizeof()),
            *self._raw("kexec-metadata", anchors[AnchorKind.METADATA], kho_kexec_metadata.sizeof()),
        ]
        # What a root FDT points to comes first: a limit must not cost that.
        blobs.sort(key=lambda blob: (blob.name, blob.paddr) not in self.roots)
        self.files.passed_over += max(0, len(blobs) - MAX_BLOBS)
        for blob in blobs[:MAX_BLOBS]:
            with self.files.decoding() as context:
                context.spent["summed"] = self.summed
                decoded = next(decode_blobs(context, [blob]))
            self.summed = context.spent["summed"]
            assert blob.paddr is not None
            root, sound = self.roots.get((blob.name, blob.paddr)), self._is_sound(decoded)
            if sound or root is not None:
                yield Found(decoded, root, sound)
            else:
                self.files.rejected[f"blob {blob.name}: does not read as one"] += 1

    def _trees(self, paddrs: list[PhysAddr]) -> Iterator[Blob]:
        for number, paddr in enumerate(paddrs):
            if not self.tokens.left:
                self.files.passed_over += len(paddrs) - number
                return
            data = self._read_tree(paddr)
            # Parsing every decoy would take longer than the scan.
            if data is None or not any(mark in data for mark in _MARKS):
                continue
            try:
                root = fdt.parse(data, limit=MAX_FDT, tokens=self.tokens)
            except FdtError:
                continue
            node = _NODES.get(root.string("compatible") or "")
            if node is not None:
                yield _blob(node, paddr, data, root)
            elif len(self.roots) < MAX_SUBNODES:
                self._note_root(root, paddr)

    def _read_tree(self, paddr: PhysAddr) -> bytes | None:
        size = fdt.total_size(read_or_none(self.memory, paddr, fdt.START_SIZE) or b"")
        if size is None or size > MAX_FDT:
            return None
        data = read_or_none(self.memory, paddr, size)
        return None if data is None else bytes(data)

    def _note_root(self, root: FdtNode, paddr: PhysAddr) -> None:
        known = find_abi(root.strings("compatible"))
        if known is None:
            return
        abi = known[1]
        for child in root.children[:MAX_SUBNODES]:
            blob = child.u64(abi.blob_property)
            if blob is not None:
                self.roots.setdefault((child.name, blob), paddr)

    def _raw(self, node: str, paddrs: list[PhysAddr], size: int) -> Iterator[Blob]:
        for paddr in paddrs:
            yield _blob(node, paddr, bytes(self.memory.read(paddr, size)), None)

    def _is_sound(self, blob: Blob) -> bool:
        content = blob.content
        if isinstance(content, Luo):
            sessions = content.sessions_pa
            return sessions == 0 or (
                sessions % self.files.geometry.page_size == 0
                and self.memory.presence(sessions) is not Presence.OUTSIDE
            )
        if isinstance(content, Memblock):
            return bool(content.regions) and all(
                region.compatible == REGION
                and region.start is not None
                and region.size is not None
                and region.size > 0
                and self.memory.presence(region.start, region.size) is not Presence.OUTSIDE
                for region in content.regions
            )
        if isinstance(content, KhoTest):
            whole = 0 < len(content.phys) == content.nr_folios
            return whole and content.magic == KHO_TEST_MAGIC
        return isinstance(content, KexecMetadata) and content.previous_release.isprintable()


_MARKS = (*(kind.encode() for kind in _NODES), MAP_PROPERTY.encode())


def _blob(node: str, paddr: PhysAddr, data: bytes, root: FdtNode | None) -> Blob:
    return Blob(
        name=node,
        owner=Owner(Subsystem.SUBNODE, (node,)),
        paddr=paddr,
        size=len(data),
        stored=True,
        preserved=False,
        sha256=hashlib.sha256(data).hexdigest(),
        kind="fdt" if root else "data",
        data=data,
        fdt=root,
    )
