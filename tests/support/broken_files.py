"""Broken images for KHO518 to KHO535, the memfds; see ``broken``."""

from __future__ import annotations

import json
import struct

from tests.support.broken_base import BEYOND, Seen, Table
from tests.support.luo_builder import feature_header
from tests.support.reference import PAGE, Reference

broken = FILES = Table()

DIRTY, UPTODATE = 1 << 52, 1 << 53


def folio(it: Reference, code: int, pfn: int, flags: int = DIRTY | UPTODATE) -> None:
    """Overwrite the second entry of a folio table."""
    it.image.write_u64(it.memfds[code].table[0] + 16, pfn | flags)


@broken("KHO518", "fatal", "LUO/memfds/518", blind=True)
def descriptor_unreadable(it: Reference) -> Seen:
    file = it.memfds[518]
    it.image.write_u64(file.entry + 48, BEYOND)
    return Seen(BEYOND, file.path, "memfd descriptor: 48 bytes at 0x101000000")


@broken("KHO519", "error", "LUO/memfds/519")
def seals_unknown(it: Reference) -> Seen:
    file = it.memfds[519]
    it.image.write(file.descriptor + 16, struct.pack("<I", 0x81))
    return Seen(file.descriptor, file.path, "are 0x81, of which 0x80 is unknown")


@broken("KHO520", "warning", "LUO/memfds/520")
def flags_unknown(it: Reference) -> Seen:
    file = it.memfds[520]
    it.image.write(file.descriptor + 20, struct.pack("<I", 4))
    return Seen(file.descriptor, file.path, "flags of file 0x520 are 0x4, should be 0")


@broken("KHO521", "fatal", "LUO/memfds/521", blind=True)
def folios_beyond_table(it: Reference) -> Seen:
    file = it.memfds[521]
    it.image.write(file.descriptor + 32, bytes(16))
    return Seen(None, file.path, "nr_folios 2, its table gives 0")


@broken("KHO522", "error", "LUO/memfds/522")
def folio_unpreserved(it: Reference) -> Seen:
    file = it.memfds[522]
    it.clear(file.folios[1])
    return Seen(file.folios[1], f"{file.owner} → folio 1", "is not preserved")


@broken("KHO523", "error", "LUO/memfds/523")
def folio_not_head(it: Reference) -> Seen:
    file = it.memfds[523]
    pfn = (file.folios[0] >> 12) + 1
    it.image.write_u64(file.table[0], pfn | DIRTY | UPTODATE)
    return Seen(pfn << 12, f"{file.owner} → folio 0", "lies inside a preserved block")


@broken("KHO524", "error", "LUO/memfds/524")
def folio_pfn_zero(it: Reference) -> Seen:
    file = it.memfds[524]
    it.clear(file.folios[1])
    folio(it, 524, 0)
    return Seen(None, f"{file.path} → folio 1", "has pfn 0, should be a page frame")


@broken("KHO525", "error", "LUO/memfds/525")
def folios_overlap(it: Reference) -> Seen:
    file = it.memfds[525]
    it.image.write_u64(file.descriptor + 8, PAGE)
    it.image.write_u64(file.table[0] + 24, 0)
    return Seen(None, f"{file.path} → folio 1", "overlaps another in the file")


@broken("KHO526", "error", "LUO/memfds/526")
def folio_beyond_size(it: Reference) -> Seen:
    file = it.memfds[526]
    it.image.write_u64(file.descriptor + 8, PAGE)
    return Seen(None, f"{file.path} → folio 1", "starts beyond the file's size of 4 KiB")


@broken("KHO527", "error", "LUO/memfds/527")
def file_gaps(it: Reference) -> Seen:
    file = it.memfds[527]
    it.image.write_u64(file.descriptor + 8, 3 * PAGE)
    return Seen(file.descriptor, file.path, "has no folio for 4 KiB from offset 0x2000")


@broken("KHO528", "error", "LUO/memfds/528")
def folio_not_uptodate(it: Reference) -> Seen:
    file = it.memfds[528]
    folio(it, 528, file.folios[1] >> 12, DIRTY)
    return Seen(None, f"{file.path} → folio 1", "is not UPTODATE")


@broken("KHO529", "error", "LUO/memfds/529")
def folio_not_dirty(it: Reference) -> Seen:
    file = it.memfds[529]
    folio(it, 529, file.folios[1] >> 12, UPTODATE)
    return Seen(None, f"{file.path} → folio 1", "is not DIRTY")


@broken("KHO530", "warning", "LUO/memfds/530")
def folio_flags_unknown(it: Reference) -> Seen:
    file = it.memfds[530]
    folio(it, 530, file.folios[1] >> 12, DIRTY | UPTODATE | 1 << 60)
    return Seen(None, f"{file.path} → folio 1", "has unknown flags")


@broken("KHO531", "error", "LUO/memfds/519", blind=True)
def folio_table_junk(it: Reference) -> Seen:
    file = it.memfds[519]
    it.image.write(file.table[0], b"no folio" * (PAGE // 8))
    return Seen(file.chunk, file.path, "folio table of file")


@broken("KHO533", "error", "LUO/memfds/519")
def folio_repeated(it: Reference) -> Seen:
    file = it.memfds[519]
    it.clear(file.folios[1])
    folio(it, 519, file.folios[0] >> 12)
    return Seen(None, f"{file.path} → folio 1", "stands in the table before")


@broken("KHO534", "error", "LUO/memfds/523")
def folio_index_misaligned(it: Reference) -> Seen:
    file = it.memfds[523]
    it.image.write_u64(file.table[0] + 8, 1)
    it.image.write_u64(file.descriptor + 8, 5 * PAGE)
    return Seen(None, f"{file.path} → folio 0", "has an index that is no multiple of its pages")


@broken("KHO535", "error", "LUO/memfds/535", blind=True)
def features_contradict(it: Reference) -> Seen:
    file = it.memfds[535]
    record = it.image.read(file.descriptor, 48)
    it.image.write(file.descriptor, feature_header(3, 3, 1) + record)
    it.image.write(file.entry, b"memfd".ljust(48, b"\0"))
    words = "feature folios is not active, but its field is 0x2"
    return Seen(file.descriptor, file.path, words)


def mapping(it: Reference, entries: list[dict[str, object]]) -> str:
    """Make session 508 systemd's, with these entries of a unit; the path of the session."""
    session, (first, second) = it.sessions[508], (it.memfds[5080], it.memfds[5081])
    it.image.write(session.entry, b"systemd".ljust(64, b"\0"))
    it.image.write_u64(first.entry + 56, 0)
    it.image.write_u64(second.entry + 56, 1)
    named = {"version": 1, "state": {}, "units": {"a.service": {"fdstore": entries}}}
    text = json.dumps(named).encode().ljust(2 * PAGE)
    for at, folio in enumerate(first.folios):
        it.image.write(folio, text[at * PAGE : (at + 1) * PAGE])
    return session.path


STATE: dict[str, object] = {"type": "fd", "name": "state", "token": 1}


@broken("KHO536", "error", "LUO/kho-508")
def token_missing(it: Reference) -> Seen:
    path = mapping(it, [STATE, {**STATE, "token": 9}])
    return Seen(None, path, "'a.service' has 'state' as token 0x9, which session 'systemd' lacks")


@broken("KHO537", "warning", "LUO/kho-508")
def token_unnamed(it: Reference) -> Seen:
    path = mapping(it, [])
    return Seen(None, f"{path} → file 1", "no unit has token 0x1 of session 'systemd'")


@broken("KHO538", "warning", "LUO/kho-508")
def mapping_unreadable(it: Reference) -> Seen:
    path = mapping(it, [STATE])
    it.image.write(it.memfds[5080].folios[0], b"[")
    return Seen(None, path, "systemd's mapping: it is not JSON")


@broken("KHO539", "error", "LUO/kho-508")
def session_missing(it: Reference) -> Seen:
    path = mapping(it, [STATE, {"type": "luo_session", "name": "vm", "sessionName": "a/vm"}])
    return Seen(None, path, "refers to session 'a/vm', which is not there")
