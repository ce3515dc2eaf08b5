"""A broken image for every rule: KHO1xx to KHO3xx, and the table of all.

Like the builder, independent of kho_inspect: addresses, paths and severities are said here once
more, in plain.
"""

from __future__ import annotations

import struct

from tests.support.broken_base import BEYOND, FREE, HOLE, Broken, Seen, Table
from tests.support.broken_contents import CONTENTS
from tests.support.broken_files import FILES
from tests.support.broken_subnodes import SUBNODES
from tests.support.builder import Image, Tree, fdt_blob, fdt_container
from tests.support.kernel_builder import Kernel
from tests.support.luo_builder import u64
from tests.support.reference import LEAF, MIB, PAGE, Reference, steps

broken = Table()

MAP = b"preserved-memory-map"
# -- KHO1xx: the root FDT


@broken("KHO101", "fatal")
def fdt_invalid(it: Reference) -> Seen:
    it.dtb = fdt_container(bytes(8), version=3, last_compatible=2)
    return Seen(None, "root FDT", "disabling KHO revival: invalid FDT (")


@broken("KHO102", "fatal")
def fdt_truncated(it: Reference) -> Seen:
    def cut() -> None:
        size = int.from_bytes(it.image.read(it.fdt + 4, 4), "big")
        it.dtb = it.image.read(it.fdt, size - 40)
        it.image.write(it.fdt, bytes(PAGE))

    it.last.append(cut)
    return Seen(None, "root FDT", "the root FDT is cut short: ")


@broken("KHO103", "fatal", "fdt-page")
def fdt_oversized(it: Reference) -> Seen:
    it.clear(it.fdt)
    it.preserve(it.fdt, 1)
    it.props[b"padding"] = bytes(PAGE)
    return Seen(it.fdt, "root FDT", "should be at most one page of 4 KiB")


@broken("KHO104", "info")
def compatible_unknown(it: Reference) -> Seen:
    it.props[b"compatible"] = b"kho-v9\0"
    return Seen(
        it.fdt,
        "root FDT → property compatible",
        "compatible is 'kho-v9', should be one of kho-v1, kho-v2",
    )


@broken("KHO105", "fatal", "target", target="kho-v3")
def compatible_not_targets(it: Reference) -> Seen:
    return Seen(
        it.fdt,
        "root FDT → property compatible",
        "disabling KHO revival: incompatible with 'kho-v3'",
    )


@broken("KHO117", "fatal", target="16K")
def page_size_not_targets(it: Reference) -> Seen:
    return Seen(it.fdt, "root FDT", "pages are 4 KiB, those of 16K 16 KiB")


@broken("KHO116", "error", target="no LUO")
def target_without_luo(it: Reference) -> Seen:
    return Seen(None, "sub-node LUO", "no LUO has no LUO: all sessions are lost")


@broken("KHO106", "fatal")
def map_missing(it: Reference) -> Seen:
    del it.props[MAP]
    return Seen(it.fdt, "root FDT", "'preserved-memory-map' is missing, should be 8 bytes")


@broken("KHO107", "fatal")
def map_missized(it: Reference) -> Seen:
    it.props[MAP] = it.props[MAP][:4]
    return Seen(it.fdt, "root FDT → property preserved-memory-map", "is 4 bytes, should be 8")


@broken("KHO108", "fatal")
def map_zero(it: Reference) -> Seen:
    it.props[MAP] = bytes(8)
    return Seen(it.fdt, "root FDT → property preserved-memory-map", "is zero, should be an address")


@broken("KHO109", "fatal", "fdt-page")
def fdt_unpreserved(it: Reference) -> Seen:
    it.clear(it.fdt)
    return Seen(it.fdt, "root FDT", f"root FDT page at {it.fdt:#x} is not preserved")


@broken("KHO110", "error", "fdt/x110")
def duplicate_names(it: Reference) -> Seen:
    it.blob("kexec-metadata", struct.pack("<I65sI", 1, b"7.3.4", 1))
    return Seen(
        it.fdt, "sub-node kexec-metadata", "'kexec-metadata' is there 2 times, should be once"
    )


@broken("KHO111", "warning", "fdt/x111", blind=True)
def duplicate_addresses(it: Reference) -> Seen:
    paddr = it.blobs["kexec-metadata"]
    it.subnode("x111", paddr, 0)
    return Seen(paddr, "sub-node x111", f"'kexec-metadata' and 'x111' both point to {paddr:#x}")


@broken("KHO112", "info")
def fdt_not_in_dump(it: Reference) -> Seen:
    def wipe() -> None:
        size = int.from_bytes(it.image.read(it.fdt + 4, 4), "big")
        it.dtb = it.image.read(it.fdt, size)
        it.image.write(it.fdt, bytes(PAGE))

    it.last.append(wipe)
    return Seen(None, "root FDT", "was not found in the dump")


@broken("KHO113", "info")
def compatible_composite(it: Reference) -> Seen:
    it.props[b"compatible"] = b"kho-v4;foo-v1;radix-v1\0"
    words = "'kho-v4;foo-v1;radix-v1', of which 'foo-v1' is not known; read as kho-v4"
    return Seen(it.fdt, "root FDT → property compatible", words)


@broken("KHO114", "fatal", "setup_data")
def setup_data_wrong(it: Reference) -> Seen:
    it.last.append(lambda: it.image.write_u64(it.setup_data + 24, 0))
    path = f"setup_data at {it.setup_data:#x}"
    return Seen(it.setup_data, path, "says that the FDT is 0 bytes, should be one page")


@broken("KHO115", "warning", "boot-dtb")
def boot_dtb_empty(it: Reference) -> Seen:
    it.boot = fdt_blob(Tree(b"", [], [Tree(b"chosen", [(b"bootargs", b"quiet\0")])]))
    return Seen(None, "", "boot.dtb: /chosen has no linux,kho-fdt of one address and size")


@broken("KHO118", "fatal")
def kernel_refused(it: Reference) -> Seen:
    kernel = Kernel(it.image, image_phys=FREE, release="7.1.13", static=True)
    line = f"KHO: setup: handover FDT ({it.fdt:#x}) is incompatible with 'kho-v3': 1"
    kernel.boot(line, "KHO: disabling KHO revival")
    words = f'Linux 7.1.13 (takes kho-v3) refused the handover at {it.fdt:#x} (kho-v4): "{line}"'
    return Seen(it.fdt, "root FDT", words)


# -- KHO2xx: the radix tree


def leaf_slot(it: Reference, code: int) -> tuple[int, int, str]:
    """The entry that leads to the leaf of one rule's region, its value, the leaf's path."""
    key = it.key(it.start(f"r{code}"))
    slot = it.slot(key)
    return slot, it.image.read_u64(slot), steps(key, 0)


@broken("KHO201", "fatal")
def late_dump(it: Reference) -> Seen:
    for number, node in enumerate(it.image.nodes):
        it.image.write_u64(
            node, *((number * 0x1D872B41 + at * 0x2545F491) | 1 for at in range(512))
        )
    return Seen(it.image.root, "root", "holds recycled memory")


@broken("KHO202", "fatal", "tree/202")
def node_outside(it: Reference) -> Seen:
    slot, _, path = leaf_slot(it, 202)
    it.image.write_u64(slot, BEYOND)
    return Seen(BEYOND, path, f"points to {BEYOND:#x}, outside the dump's memory")


@broken("KHO203", "warning", "tree/203")
def node_not_stored(it: Reference) -> Seen:
    slot, _, path = leaf_slot(it, 203)
    it.image.write_u64(slot, HOLE)
    return Seen(HOLE, path, f"points to {HOLE:#x}, not stored in the dump")


@broken("KHO204", "fatal", "tree/204")
def node_misaligned(it: Reference) -> Seen:
    slot, leaf, path = leaf_slot(it, 204)
    it.image.write_u64(slot, leaf + 8)
    return Seen(leaf + 8, path, f"points to {leaf + 8:#x}, not aligned to the 4K page size")


@broken("KHO205", "fatal", "tree/205")
def node_aliased(it: Reference) -> Seen:
    slot, _, path = leaf_slot(it, 205)
    other = it.image.node(it.key(it.fdt), 0)
    it.image.write_u64(slot, other)
    return Seen(other, path, "a node already reached by another path")


@broken("KHO206", "fatal", "tree/206")
def node_cycle(it: Reference) -> Seen:
    slot, _, path = leaf_slot(it, 206)
    table = slot & ~(PAGE - 1)
    it.image.write_u64(slot, table)
    return Seen(table, path, "a node on the path that leads here")


@broken("KHO207", "fatal", "tree/207")
def key_without_order(it: Reference) -> Seen:
    it.image.insert(0)
    return Seen(it.image.node(0, 0), steps(0), "key 0 is set")


@broken("KHO208", "fatal", "tree/208")
def key_above_order0(it: Reference) -> Seen:
    key = 1 << 53 | 0x12345
    it.image.insert(key)
    return Seen(it.image.node(key, 0), steps(key), "have a bit set above the order-0 bit 52")


@broken("KHO209", "fatal")
def order0_lost(it: Reference) -> Seen:
    image = Image(14, "kho-v2")
    blob = fdt_blob(Tree(b"", [(b"compatible", b"memblock-v1\0")]))
    paddr = image.alloc(2, 2 << 14)
    image.write(paddr, blob)
    image.preserve(paddr, 1)
    image.subnode("memblock", paddr, len(blob))
    it.use_image(image, image.finish(fdt_order=1))
    return Seen(None, "root", "kho-v2 with 16K pages cannot record order-0 pages")


@broken("KHO210", "fatal", "tree/210")
def node_in_scratch(it: Reference) -> Seen:
    slot, leaf, path = leaf_slot(it, 210)
    there = it.scratch[0][0] + 3 * PAGE
    it.image.write(there, it.image.read(leaf, PAGE))
    it.image.write_u64(slot, there)
    return Seen(there, path, f"tree node (level 0) {there:#x} lies in scratch area")


@broken("KHO211", "error", "tree/211")
def node_preserved(it: Reference) -> Seen:
    slot, leaf, path = leaf_slot(it, 211)
    there = it.start("r211") + PAGE
    it.image.write(there, it.image.read(leaf, PAGE))
    it.image.write_u64(slot, there)
    return Seen(there, path, f"tree node (level 0) {there:#x} lies in a preserved block of order 0")


@broken("KHO212", "fatal", "memblock/r212")
def order_implausible(it: Reference) -> Seen:
    start = it.start("r212")
    for paddr in (start, start + (1 << 30)):
        it.clear(paddr, 18)
    it.preserve(start, 19)
    return Seen(start, steps(it.key(start, 19)), "1 block of order 19 (2 GiB)")


@broken("KHO213", "warning", "file")
def dump_incomplete(it: Reference) -> Seen:
    it.cut = 100
    return Seen(None, "", "the file is cut short")


def use_chunk_list(it: Reference, order: int = 0, start: int = 0) -> int:
    """A kho-v1 handover with one chunk for its FDT and one for a blob: the second chunk."""
    image = Image(12, "kho-v1", (0, 64 * MIB))
    at, blob, *pages = (image.alloc() for _ in range(6))
    data = fdt_blob(Tree(b"", [(b"compatible", b"memblock-v1\0")]))
    image.write(blob, data)
    for chunk, bitmap, page, following in zip(
        pages[::2], pages[1::2], (at, blob), (1, 0), strict=True
    ):
        image.write_u64(chunk, pages[2] * following, 1 << 32, 0, bitmap)
        image.write(bitmap + (page >> 15), bytes([1 << (page >> 12) % 8]))
    image.write(pages[2] + 8, struct.pack("<I", order))
    image.write_u64(pages[2] + 16, start)
    props = [(b"compatible", b"kho-v1\0"), (MAP, u64(pages[0]))]
    dtb = fdt_blob(Tree(b"", props, [Tree(b"memblock", [(b"fdt", u64(blob))])]))
    image.write(at, dtb)
    it.use_image(image, dtb)
    return pages[2]


@broken("KHO214", "fatal")
def chunk_header(it: Reference) -> Seen:
    chunk = use_chunk_list(it, order=60)
    return Seen(chunk, "chunk 1", f"chunk 1 at {chunk:#x} has order 60")


@broken("KHO215", "error")
def bitmap_start(it: Reference) -> Seen:
    chunk = use_chunk_list(it, start=8)
    return Seen(
        chunk + PAGE, "chunk 1 → bitmap 0", "covers memory from 0x8, not aligned to order 0"
    )


@broken("KHO216", "warning")
def over_budget(it: Reference) -> Seen:
    it.max_nodes = len(it.image.nodes) - 1
    node, key = it.image.root, 0
    for level in range(5, 0, -1):
        last = max(at for at in range(512) if it.image.read_u64(node + 8 * at))
        key |= last << 15 + 9 * (level - 1)
        node = it.image.read_u64(node + 8 * last)
    return Seen(None, steps(key, 0), "tree nodes; --max-nodes raises that")


@broken("KHO217", "warning", "tree/208")
def node_unreachable(it: Reference) -> Seen:
    node = it.image.alloc()
    it.image.write_u64(it.image.root + 8 * 300, node)
    return Seen(node, "root[300] → L4", "no key leads to node")


# -- KHO3xx: preserved memory and scratch


@broken("KHO301", "fatal", "memory/301")
def block_outside_ram(it: Reference) -> Seen:
    it.region("r301", BEYOND, PAGE)
    return Seen(BEYOND, "", "is preserved, but lies outside the memory of the dump")


@broken("KHO302", "error", "memory/302")
def blocks_overlap(it: Reference) -> Seen:
    start = it.start("r302")
    it.preserve(start, 1)
    return Seen(start, "", "is preserved by several blocks")


@broken("KHO303", "fatal", "memory/303")
def block_in_scratch(it: Reference) -> Seen:
    start = it.start("r303")
    it.scratch.append((start, PAGE))
    return Seen(start, "", "is preserved, but lies in scratch area")


@broken("KHO304", "warning", "scratch/304")
def scratch_malformed(it: Reference) -> Seen:
    it.scratch.append((0x7200_0000, 0))
    path = f"setup_data at {it.setup_data:#x} → area 2"
    return Seen(it.scratch_table, path, "scratch area 2 is 0x72000000+0x0, should have a size")


@broken("KHO305", "warning", "scratch/305")
def scratch_overlaps(it: Reference) -> Seen:
    it.scratch.append((0x7080_0000, 2 * MIB))
    return Seen(0x7080_0000, f"setup_data at {it.setup_data:#x}", "overlap")


@broken("KHO306", "warning", "scratch/306")
def scratch_misaligned(it: Reference) -> Seen:
    it.scratch.append((0x7300_0200, MIB))
    return Seen(
        0x7300_0200, f"setup_data at {it.setup_data:#x}", "is not aligned to pages of 4 KiB"
    )


@broken("KHO307", "error", "scratch/307")
def scratch_outside_ram(it: Reference) -> Seen:
    there = BEYOND + LEAF
    it.scratch.append((there, MIB))
    return Seen(there, f"setup_data at {it.setup_data:#x}", "lies outside the memory of the dump")


@broken("KHO308", "warning", "memory/308")
def orphan(it: Reference) -> Seen:
    paddr = it.image.alloc(1, 4 * PAGE)
    it.preserve(paddr)
    return Seen(paddr, "", "is preserved, but nothing points to it: an orphan")


@broken("KHO309", "error", "memory/309")
def dangling(it: Reference) -> Seen:
    # No decoder of today makes a claim that no more specific rule looks at.
    it.foreign = it.image.alloc()
    return Seen(it.foreign, "blob/pci → structure", " is not preserved")


@broken("KHO310", "error", "memory/310")
def two_owners(it: Reference) -> Seen:
    paddr = it.blobs["kexec-metadata"]
    it.region("r310", paddr, PAGE)
    return Seen(paddr, "reserve_mem/r310 → region", "and by kexec-metadata → blob")


@broken("KHO311", "warning")
def scratch_contradicted(it: Reference) -> Seen:
    start, size = it.scratch[0]
    it.given = ((start, start + size),)
    path = f"setup_data at {it.setup_data:#x}"
    own = f"{start:#x}-{start + size:#x}"
    return Seen(it.scratch_table, path, f"--scratch names {own}; {path} names {own}, ")


BROKEN: dict[str, Broken] = {**broken.cases, **SUBNODES.cases, **CONTENTS.cases, **FILES.cases}
