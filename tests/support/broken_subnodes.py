"""Broken images for KHO4xx: sub-nodes and vmalloc areas; see ``broken``."""

from __future__ import annotations

import struct

from tests.support.broken_base import BEYOND, FREE, HOLE, Seen, Table
from tests.support.builder import Tree, fdt_blob
from tests.support.luo_builder import u64
from tests.support.reference import MIB, PAGE, Reference

broken = SUBNODES = Table()


def opaque(it: Reference, name: str) -> dict[bytes, bytes]:
    """A sub-node more."""
    it.blob(name, b"opaque")
    return it.node(name)


@broken("KHO401", "error", "fdt/x401", blind=True)
def address_missing(it: Reference) -> Seen:
    del opaque(it, "x401")[b"preserved-data"]
    return Seen(it.fdt, "sub-node x401", "has no property 'preserved-data', should have 8 bytes")


@broken("KHO402", "error", "fdt/x402", blind=True)
def address_missized(it: Reference) -> Seen:
    opaque(it, "x402")[b"preserved-data"] = bytes(4)
    return Seen(it.fdt, "sub-node x402 → property preserved-data", "is 4 bytes, should be 8")


@broken("KHO403", "error", "fdt/x403", blind=True)
def size_missing(it: Reference) -> Seen:
    del opaque(it, "x403")[b"blob-size"]
    return Seen(it.fdt, "sub-node x403", "has no property 'blob-size'")


@broken("KHO404", "error", "fdt/x404", blind=True)
def size_missized(it: Reference) -> Seen:
    opaque(it, "x404")[b"blob-size"] = bytes(9)
    return Seen(it.fdt, "sub-node x404 → property blob-size", "is 9 bytes, should be 8")


@broken("KHO405", "warning", "fdt/kexec-metadata")
def property_of_other_abi(it: Reference) -> Seen:
    it.node("kexec-metadata")[b"fdt"] = bytes(8)
    return Seen(
        it.fdt,
        "sub-node kexec-metadata → property fdt",
        "has property 'fdt', which kho-v4 does not know",
    )


@broken("KHO406", "fatal", "fdt/x406", blind=True)
def blob_outside(it: Reference) -> Seen:
    there = BEYOND + MIB
    it.subnode("x406", there, 64)
    return Seen(there, "sub-node x406", f"blob: 64 bytes at {there:#x}")


@broken("KHO407", "warning", "fdt/x407", blind=True)
def blob_not_stored(it: Reference) -> Seen:
    it.subnode("x407", HOLE, 64)
    it.preserve(HOLE)
    return Seen(HOLE, "sub-node x407", "blob: 64 bytes at 0x50000000")


@broken("KHO408", "error", "fdt/x408", blind=True)
def blob_unpreserved(it: Reference) -> Seen:
    paddr = it.image.alloc()
    it.subnode("x408", paddr, 64)
    return Seen(paddr, "sub-node x408", f"blob of sub-node 'x408' at {paddr:#x} is not preserved")


@broken("KHO409", "error", "fdt/x409", blind=True)
def blob_too_long(it: Reference) -> Seen:
    paddr = it.image.alloc(2)
    it.subnode("x409", paddr, 2 * PAGE)
    it.preserve(paddr)
    return Seen(paddr, "sub-node x409", "is 8 KiB at")


@broken("KHO410", "error")
def blob_not_fdt(it: Reference) -> Seen:
    paddr = it.use_sample("memblock", lambda blob: b"\xff" + blob[1:])
    return Seen(paddr, "sub-node memblock", "starts with ff0dfeed, should be an FDT")


@broken("KHO411", "warning", "fdt/x411", blind=True)
def blob_too_large(it: Reference) -> Seen:
    it.subnode("x411", FREE, 65 * MIB)
    return Seen(FREE, "sub-node x411", "blob of 65 MiB at 0x60000000 is not read")


@broken("KHO412", "error", "fdt/x412", blind=True)
def blob_fdt_size(it: Reference) -> Seen:
    data = fdt_blob(Tree(b"", [(b"compatible", b"x\0")]))
    paddr = it.blob("x412", data)
    it.node("x412")[b"blob-size"] = u64(len(data) - 4)
    return Seen(
        paddr,
        "sub-node x412",
        f"says {len(data)} bytes, should be at most the blob's {len(data) - 4}",
    )


@broken("KHO413", "error", "LUO/memfds/413", blind=True)
def vmalloc_count(it: Reference) -> Seen:
    file = it.memfds[413]
    it.image.write(file.descriptor + 40, struct.pack("<I", 2))
    return Seen(file.chunk, f"{file.path} → folios", "name 1 page, total_pages is 2")


@broken("KHO414", "error", "LUO/memfds/414", blind=True)
def vmalloc_misaligned(it: Reference) -> Seen:
    file = it.memfds[414]
    it.image.write_u64(file.chunk + 16, file.table[1] + 8)
    path = f"{file.path} → folios → chunk 0"
    return Seen(file.table[1] + 8, path, "not aligned to order 0")


@broken("KHO415", "error", "LUO/memfds/415")
def vmalloc_unpreserved(it: Reference) -> Seen:
    file = it.memfds[415]
    it.clear(file.table[0])
    return Seen(file.table[0], f"{file.owner} → folio table", "is not preserved")


@broken("KHO416", "error", "LUO/memfds/416")
def vmalloc_not_head(it: Reference) -> Seen:
    file = it.memfds[416]
    pages = it.image.alloc(2, 2 * PAGE)
    it.image.write(pages + PAGE, it.image.read(file.table[0], PAGE))
    it.image.write_u64(file.chunk + 8, pages + PAGE)
    it.clear(file.table[0])
    it.preserve(pages, 1)
    return Seen(pages + PAGE, f"{file.owner} → folio table 0", "should be its head")


@broken("KHO417", "error", "LUO/memfds/417", blind=True)
def vmalloc_chain(it: Reference) -> Seen:
    file = it.memfds[417]
    it.image.write_u64(file.chunk, file.chunk)
    return Seen(file.chunk, f"{file.path} → folios → chunk 1", "links back to chunk")


@broken("KHO418", "warning", "LUO/memfds/418", blind=True)
def vmalloc_flags(it: Reference) -> Seen:
    file = it.memfds[418]
    it.image.write(file.descriptor + 44, struct.pack("<H", 0x8000))
    return Seen(None, f"{file.path} → folios", "have unknown bits 0x8000")


@broken("KHO419", "error", "LUO/memfds/419", blind=True)
def vmalloc_order(it: Reference) -> Seen:
    file = it.memfds[419]
    it.image.write(file.descriptor + 46, struct.pack("<H", 60))
    return Seen(None, f"{file.path} → folios", "vmalloc order is 60")


@broken("KHO420", "fatal", "LUO/memfds/420", blind=True)
def vmalloc_chunk_unreadable(it: Reference) -> Seen:
    file = it.memfds[420]
    it.image.write_u64(file.descriptor + 32, BEYOND)
    return Seen(BEYOND, f"{file.path} → folios → chunk 0", "vmalloc chunk: 4 KiB at 0x101000000")


@broken("KHO421", "warning", "LUO/memfds/421", blind=True)
def vmalloc_chunk_not_stored(it: Reference) -> Seen:
    file = it.memfds[421]
    it.image.drop(file.chunk)
    return Seen(file.chunk, f"{file.path} → folios → chunk 0", "vmalloc chunk: 4 KiB at")


@broken("KHO422", "error", "LUO/memfds/422")
def vmalloc_chunk_unpreserved(it: Reference) -> Seen:
    file = it.memfds[422]
    it.clear(file.chunk)
    return Seen(file.chunk, f"{file.owner} → folio table vmalloc chunk", "is not preserved")


@broken("KHO423", "error", "LUO/memfds/414", blind=True)
def vmalloc_duplicate(it: Reference) -> Seen:
    file = it.memfds[414]
    it.image.write_u64(file.chunk + 16, file.table[0])
    return Seen(file.table[0], f"{file.path} → folios", "which stands there before")
