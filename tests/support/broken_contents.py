"""Broken images for KHO5xx up to sessions, KHO6xx and KHO7xx; see ``broken``."""

from __future__ import annotations

import struct

from tests.support.broken_base import BEYOND, HOLE, Seen, Table
from tests.support.luo_builder import u64
from tests.support.reference import PAGE, Reference

broken = CONTENTS = Table()


# -- KHO50x, KHO51x: LUO


@broken("KHO501", "fatal", "LUO", blind=True)
def luo_short(it: Reference) -> Seen:
    it.node("LUO")[b"blob-size"] = u64(31)
    return Seen(it.blobs["LUO"], "sub-node LUO", "luo-v5 blob is 31 bytes, should be 32")


@broken("KHO502", "fatal", "LUO", blind=True)
def luo_incompatible(it: Reference) -> Seen:
    it.image.write(it.blobs["LUO"], b"luo-v9")
    return Seen(
        it.blobs["LUO"], "sub-node LUO", "LUO compatible is 'luo-v9', should be luo-v5 for kho-v4"
    )


@broken("KHO503", "fatal")
def luo_property(it: Reference) -> Seen:
    it.use_sample("LUO", lambda blob: blob.replace(b"luo-flb-header", b"luo-flb-headex"))
    return Seen(None, "sub-node LUO → node luo-flb", "'luo-flb-header' is missing or not 8 bytes")


@broken("KHO504", "fatal", "LUO/kho-504", blind=True)
def chain_cycle(it: Reference) -> Seen:
    session = it.sessions[504]
    it.image.write_u64(session.block, session.block)
    return Seen(session.block, f"{session.path} → block 1", "links back to block")


@broken("KHO505", "fatal", "LUO/kho-505", blind=True)
def chain_unreadable(it: Reference) -> Seen:
    session = it.sessions[505]
    it.image.write_u64(session.entry + 64, BEYOND)
    return Seen(BEYOND, f"{session.path} → block 0", "kho_block: 4 KiB at 0x101000000")


@broken("KHO506", "warning", "LUO/kho-506", blind=True)
def luo_not_stored(it: Reference) -> Seen:
    session = it.sessions[506]
    it.image.drop(session.block)
    return Seen(session.block, f"{session.path} → block 0", "kho_block: 4 KiB at")


@broken("KHO507", "fatal", "LUO/kho-507", blind=True)
def count_over_capacity(it: Reference) -> Seen:
    session = it.sessions[507]
    it.image.write_u64(session.block + 8, 64)
    return Seen(
        session.block, f"{session.path} → block 0", "counts 64 entries, its page has room for 63"
    )


@broken("KHO508", "error", "LUO/kho-508")
def session_name_empty(it: Reference) -> Seen:
    session = it.sessions[508]
    it.image.write(session.entry, bytes(64))
    return Seen(None, session.path, "session name is empty")


@broken("KHO509", "error", "LUO/kho-509")
def session_name_unterminated(it: Reference) -> Seen:
    session = it.sessions[509]
    it.image.write(session.entry, b"n" * 64)
    return Seen(None, session.path, "is 64 bytes without a NUL")


@broken("KHO510", "error", "LUO/kho-510")
def session_name_duplicate(it: Reference) -> Seen:
    it.image.write(it.sessions[510].entry, b"kho-memfds\0")
    return Seen(None, it.sessions[0].path, "several sessions are called 'kho-memfds'")


@broken("KHO511", "error", "LUO/kho-511")
def file_count(it: Reference) -> Seen:
    session = it.sessions[511]
    it.image.write_u64(session.entry + 72, 3)
    return Seen(session.block, session.path, "'kho-511' counts 3 files, its list has 2")


@broken("KHO512", "error", "LUO/kho-512")
def token_duplicate(it: Reference) -> Seen:
    session = it.sessions[512]
    it.image.write_u64(it.memfds[5121].entry + 56, 0x5120)
    return Seen(
        None, f"{session.path} → file 0", "several files of session 'kho-512' have token 0x5120"
    )


@broken("KHO513", "error", "LUO/kho-513", blind=True)
def handler_unknown(it: Reference) -> Seen:
    file = it.memfds[5130]
    it.image.write(file.entry, b"memfd-v9")
    return Seen(file.descriptor, file.path, "is 'memfd-v9', kernels of kho-v4 have memfd-v2")


@broken("KHO514", "fatal", "LUO/kho-514")
def page_under_two_files(it: Reference) -> Seen:
    first, second = it.memfds[5100], it.memfds[5110]
    it.clear(second.folios[1])
    it.image.write_u64(second.table[0] + 16, first.folios[1] >> 12 | 3 << 52)
    return Seen(first.folios[1], f"{first.owner} → folio 1", "belongs to two files")


@broken("KHO515", "error", "LUO/flbs")
def flb_malformed(it: Reference) -> Seen:
    it.image.write(it.flbs + 16 + 64, bytes(48))
    return Seen(None, "sub-node LUO → FLB 1", "FLB name is '', should be 1 to 47 bytes and a NUL")


@broken("KHO516", "error", "LUO/memfds/516")
def luo_unpreserved(it: Reference) -> Seen:
    file = it.memfds[516]
    it.clear(file.descriptor)
    return Seen(file.descriptor, f"{file.owner} → memfd descriptor", "is not preserved")


@broken("KHO517", "info")
def not_serialized(it: Reference) -> Seen:
    it.image.write_u64(it.blobs["LUO"] + 16, 0)
    it.image.write(it.flbs + 8, bytes(PAGE - 8))
    for paddr, order in it.session_blocks:
        it.clear(paddr, order)
    return Seen(it.blobs["LUO"], "sub-node LUO", "LUO has no sessions: not serialized (yet)")


@broken("KHO532", "error", "LUO/kho-507", blind=True)
def record_uncounted(it: Reference) -> Seen:
    session = it.sessions[507]
    it.image.write_u64(session.block + 8, 1)
    it.image.write_u64(session.entry + 72, 1)
    words = "counts 1 entries, one more stands behind them"
    return Seen(session.block, f"{session.path} → block 0", words)


# -- KHO6xx: the other blobs


@broken("KHO601", "error", "memblock/r601", blind=True)
def memblock_property(it: Reference) -> Seen:
    del dict(it.regions)[b"r601"][b"size"]
    return Seen(None, "sub-node memblock → region r601", "'size' is missing or not 8 bytes")


@broken("KHO602", "error", "memblock/r602")
def region_compatible(it: Reference) -> Seen:
    props = {b"compatible": b"reserve-mem-v2\0", b"start": u64(HOLE), b"size": u64(PAGE)}
    it.regions.append((b"r602", props))
    return Seen(
        HOLE, "sub-node memblock → region r602", "is 'reserve-mem-v2', should be 'reserve-mem-v1'"
    )


@broken("KHO603", "fatal", "memblock/r603")
def region_unpreserved(it: Reference) -> Seen:
    start = it.start("r603")
    it.clear(start)
    return Seen(start, "reserve_mem/r603 → region", "is not preserved")


@broken("KHO604", "error", "memblock/r604")
def regions_overlap(it: Reference) -> Seen:
    start = it.start("r604")
    it.region("r604", it.image.alloc(), PAGE)
    return Seen(start, "sub-node memblock → region r604", "several regions are called 'r604'")


@broken("KHO605", "warning", "metadata", blind=True)
def metadata_short(it: Reference) -> Seen:
    it.node("kexec-metadata")[b"blob-size"] = u64(72)
    return Seen(
        it.blobs["kexec-metadata"], "sub-node kexec-metadata", "blob is 72 bytes, should be 73"
    )


@broken("KHO606", "warning", "metadata/version")
def metadata_version(it: Reference) -> Seen:
    it.image.write(it.blobs["kexec-metadata"], b"\x02")
    return Seen(it.blobs["kexec-metadata"], "sub-node kexec-metadata", "version is 2, should be 1")


@broken("KHO607", "warning", "metadata/release")
def metadata_release(it: Reference) -> Seen:
    it.image.write(it.blobs["kexec-metadata"] + 4, b"7" * 65)
    return Seen(it.blobs["kexec-metadata"], "sub-node kexec-metadata", "65 bytes without a NUL")


@broken("KHO608", "error", "kho_test", blind=True)
def kho_test_property(it: Reference) -> Seen:
    del it.test_data[b"csum"]
    return Seen(None, "sub-node kho_test → node data", "'csum' is missing or not 4 bytes")


@broken("KHO609", "error", "kho_test/magic")
def kho_test_magic(it: Reference) -> Seen:
    it.test_props[b"magic"] = struct.pack("<I", 0x4B484F22)
    return Seen(
        it.blobs["kho_test"], "sub-node kho_test", "magic is 0x4b484f22, should be 0x4b484f21"
    )


@broken("KHO610", "error", "kho_test/folios")
def kho_test_checksum(it: Reference) -> Seen:
    it.image.write(it.test_folios[1] + PAGE, b"changed")
    return Seen(it.blobs["kho_test"], "sub-node kho_test → node data", "kho_test checksum is")


@broken("KHO611", "error", "kho_test/folios", blind=True)
def kho_test_folio(it: Reference) -> Seen:
    it.image.write_u64(it.test_table + 8, it.test_folios[1] | 0xFFF)
    return Seen(None, "sub-node kho_test → node data", "kho_test folio 1 has an impossible order")


@broken("KHO612", "error", "kho_test/folios")
def kho_test_unpreserved(it: Reference) -> Seen:
    it.clear(it.test_folios[1], 1)
    return Seen(it.test_folios[1], "kho_test → test folio 1", "is not preserved")


@broken("KHO613", "warning", "kho_test/folios", blind=True)
def kho_test_not_stored(it: Reference) -> Seen:
    it.image.drop(it.test_folios[2])
    return Seen(
        it.test_folios[2],
        "sub-node kho_test → node data → property folios_info",
        "kho_test folio of 4 KiB",
    )


@broken("KHO614", "info", "fdt/x614", blind=True)
def content_unknown(it: Reference) -> Seen:
    it.blob("x614", b"opaque")
    return Seen(None, "sub-node x614", "sub-node 'x614' is not known here")


@broken("KHO615", "error", "kho_test", blind=True)
def known_blob_unreadable(it: Reference) -> Seen:
    paddr = it.blobs["kho_test"]
    it.last.append(lambda: it.image.write(paddr, bytes(PAGE)))
    return Seen(paddr, "sub-node kho_test", "sub-node 'kho_test' holds no device tree")


# -- KHO7xx: expectations


@broken("KHO701", "error", expect='# what is wanted\ncompatible = "kho-v3"\n')
def identity(it: Reference) -> Seen:
    return Seen(None, "EXPECT:2", "compatible is 'kho-v4', should be 'kho-v3'")


@broken("KHO702", "error", expect='[subnodes]\nrequired = ["LUO", "hugetlb"]\n')
def names(it: Reference) -> Seen:
    return Seen(None, "EXPECT:2", "subnode 'hugetlb' is missing")


@broken("KHO703", "error", expect='[[files]]\nsession = "kho-508"\ntoken = 0x9\n')
def files(it: Reference) -> Seen:
    return Seen(None, "EXPECT:1", "file 0x9 of session 'kho-508' is missing")


@broken("KHO704", "error", expect='[preserved]\nmax_bytes = "1M"\n')
def sizes(it: Reference) -> Seen:
    return Seen(None, "EXPECT:2", "should be at most 1 MiB")


@broken("KHO705", "error", expect='\n[[ranges]]\nname = "log"\nstart = "0x50000000"\nsize = "8K"\n')
def ranges(it: Reference) -> Seen:
    return Seen(HOLE, "EXPECT:2", "log 0x50000000-0x50002000 is not preserved")
