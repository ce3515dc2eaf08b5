"""One thing overwritten, as damage comes: one finding above info, not a cascade.

The images of ``broken`` are cut so that only their own rule has anything to say. Here the damage
is left as it is: a stray bit, a pointer or a count overwritten, a page recycled.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kho_inspect.render.names import message_text
from tests.support.broken import BROKEN, MAP
from tests.support.broken_base import BEYOND, FREE
from tests.support.broken_files import DIRTY, UPTODATE, folio
from tests.support.builder import Image
from tests.support.luo_builder import File, Session, luo_v5, memfd, metadata, pattern, u64
from tests.support.reference import MIB, PAGE, Reference
from tests.support.running import document, save
from tests.support.verdicts import above_info, codes, verdict_of

Damage = Callable[[Reference], object]
TEXT = b"Nov 22 22:51:13 host systemd[1]: Reached target Basic System.\n" * 70


def region(it: Reference, name: str, prop: str, value: int) -> None:
    dict(it.regions)[name.encode()][prop.encode()] = u64(value)


def large(it: Reference) -> int:
    """Make the file of one large folio as long as its folio, which is sound: where that is."""
    it.image.write_u64(it.memfds[523].descriptor + 8, 4 * PAGE)
    return it.memfds[523].folios[0]


def lose_leaf(it: Reference, paddr: int, order: int = 0) -> None:
    it.image.write_u64(it.slot(it.key(paddr, order)), BEYOND)


def late_write(it: Reference, paddr: int, data: bytes) -> None:
    it.last.append(lambda: it.image.write(paddr, data))


NAMED_ONCE: dict[str, tuple[Damage, set[str]]] = {
    "stray key of order 1 over a page": (lambda it: it.preserve(it.start("r302"), 1), {"KHO302"}),
    "leaf of all single pages lost": (lambda it: lose_leaf(it, it.fdt), {"KHO202"}),
    "table under the root lost": (
        lambda it: it.image.write_u64(it.slot(it.key(it.fdt), 5), BEYOND),
        {"KHO202"},
    ),
    "map property outside RAM": (lambda it: it.props.update({MAP: u64(BEYOND)}), {"KHO202"}),
    "map property misaligned": (
        lambda it: it.props.update({MAP: u64(it.image.root + 8)}),
        {"KHO204"},
    ),
    "map property to another page": (lambda it: it.props.update({MAP: u64(it.fdt)}), {"KHO201"}),
    "sub-node address of zero": (
        lambda it: it.node("kho_test").update({b"preserved-data": u64(0)}),
        {"KHO406"},
    ),
    "sub-node address with a bit flipped": (
        lambda it: it.node("LUO").update({b"preserved-data": u64(it.blobs["LUO"] ^ FREE)}),
        {"KHO407"},
    ),
    "LUO blob zeroed": (lambda it: it.image.write(it.blobs["LUO"], bytes(32)), {"KHO502"}),
    "sessions_pa outside RAM": (
        lambda it: it.image.write_u64(it.blobs["LUO"] + 16, BEYOND),
        {"KHO505"},
    ),
    "flbs_pa outside RAM": (
        lambda it: it.image.write_u64(it.blobs["LUO"] + 24, BEYOND),
        {"KHO505"},
    ),
    "FLB pgcnt of zero": (lambda it: it.image.write_u64(it.flbs, 0), {"KHO507"}),
    "FLB count gone wild": (lambda it: it.image.write_u64(it.flbs + 8, 1 << 40), {"KHO507"}),
    "session count gone wild": (
        lambda it: it.image.write_u64(it.sessions[505].entry + 72, 1 << 63),
        {"KHO511"},
    ),
    "file entry zeroed": (lambda it: it.image.write(it.memfds[5050].entry, bytes(64)), {"KHO513"}),
    "file size zeroed": (
        lambda it: it.image.write_u64(it.memfds[519].descriptor + 8, 0),
        {"KHO526"},
    ),
    "file size gone wild": (
        lambda it: it.image.write_u64(it.memfds[519].descriptor + 8, 1 << 63),
        {"KHO527"},
    ),
    "nr_folios one too many": (
        lambda it: it.image.write_u64(it.memfds[519].descriptor + 24, 3),
        {"KHO521", "KHO524"},
    ),
    "vmalloc chunk link outside RAM": (
        lambda it: it.image.write_u64(it.memfds[519].chunk, BEYOND),
        {"KHO417", "KHO420"},
    ),
    "vmalloc chunk link to another area": (
        lambda it: it.image.write_u64(it.memfds[519].chunk, it.memfds[520].chunk),
        {"KHO417"},
    ),
    "vmalloc chunk zeroed": (
        lambda it: it.image.write(it.memfds[519].chunk, bytes(PAGE)),
        {"KHO413"},
    ),
    "vmalloc area without a first chunk": (
        lambda it: it.image.write_u64(it.memfds[519].descriptor + 32, 0),
        {"KHO413"},
    ),
    "vmalloc order off by one": (
        lambda it: it.image.write(it.memfds[519].descriptor + 46, b"\1"),
        {"KHO413", "KHO414"},
    ),
    "folios_info zeroed": (
        lambda it: it.test_data.update({b"folios_info": bytes(16)}),
        {"KHO413", "KHO611"},
    ),
    "scratch table of an odd size": (
        lambda it: late_write(it, it.setup_data + 40, u64(20)),
        {"KHO304"},
    ),
}
"""Damage → the codes of which one is to be found."""

CASCADES: dict[str, tuple[Damage, set[str]]] = {
    # A stray bit is seen by whatever it hits, and then once more as an orphan.
    "stray bit outside RAM": (lambda it: it.preserve(BEYOND), {"KHO301"}),
    "stray bit over a tree node": (lambda it: it.preserve(it.image.nodes[3]), {"KHO211"}),
    "stray bit in scratch": (lambda it: it.preserve(it.scratch[0][0]), {"KHO303"}),
    # One key over many blocks is one finding per range.
    "stray key of order 8": (lambda it: it.preserve(MIB, 8), {"KHO302"}),
    "stray key of order 40": (lambda it: it.preserve(0, 40), {"KHO201", "KHO212"}),
    "stray key of order 20": (lambda it: it.preserve(0, 20), {"KHO212"}),
    # An FDT of two pages of which one is preserved, as the kernel would have it.
    "oversized FDT": (lambda it: it.props.update({b"pad": bytes(PAGE)}), {"KHO103"}),
    # The length of a folio is that of its block: unknown, the file has a gap.
    "map property missing, large folio": (lambda it: (large(it), it.props.pop(MAP)), {"KHO106"}),
    "leaf of a large folio lost": (lambda it: lose_leaf(it, large(it), 2), {"KHO202"}),
    "large folio unpreserved": (lambda it: it.clear(large(it), 2), {"KHO522"}),
    "large folio off by a page": (lambda it: (large(it), BROKEN["KHO523"].damage(it)), {"KHO523"}),
    # What an overwritten entry used to point to has lost its owner by that.
    "folio table entry overwritten": (
        lambda it: folio(it, 519, it.memfds[519].folios[1] >> 12 ^ 0x8000),
        {"KHO522"},
    ),
    "folio table entry zeroed": (lambda it: folio(it, 519, 0), {"KHO524"}),
    "folio table entry copied from another file": (
        lambda it: folio(it, 519, it.memfds[520].folios[1] >> 12),
        {"KHO514"},
    ),
    "folio table zeroed": (
        lambda it: it.image.write(it.memfds[519].table[0], bytes(PAGE)),
        {"KHO531"},
    ),
    "folio table recycled with text": (
        lambda it: it.image.write(it.memfds[519].table[0], TEXT[:PAGE]),
        {"KHO531"},
    ),
    "folio index zeroed": (
        lambda it: it.image.write_u64(it.memfds[519].table[0] + 24, 0),
        {"KHO525"},
    ),
    "folio index gone wild": (
        lambda it: it.image.write_u64(it.memfds[519].table[0] + 24, 1 << 63),
        {"KHO526"},
    ),
    "nr_folios too low": (
        lambda it: it.image.write_u64(it.memfds[519].descriptor + 24, 1),
        {"KHO532"},
    ),
    "nr_folios beyond the table": (
        lambda it: it.image.write_u64(it.memfds[519].descriptor + 24, 257),
        {"KHO521"},
    ),
    "first vmalloc entry misaligned": (
        lambda it: it.image.write_u64(it.memfds[519].chunk + 8, it.memfds[519].table[0] + 8),
        {"KHO414"},
    ),
    "vmalloc entry outside RAM": (
        lambda it: it.image.write_u64(it.memfds[519].chunk + 8, BEYOND),
        {"KHO415"},
    ),
    "vmalloc order off by one, two pages": (
        lambda it: it.image.write(it.memfds[414].descriptor + 46, b"\1"),
        {"KHO413", "KHO414"},
    ),
    "session zeroed": (lambda it: it.image.write(it.sessions[505].entry, bytes(80)), {"KHO508"}),
    "session overwritten": (
        lambda it: it.image.write(it.sessions[505].entry, b"\xa5" * 80),
        {"KHO505", "KHO509"},
    ),
    "files of a session zeroed": (
        lambda it: it.image.write_u64(it.sessions[505].entry + 64, 0),
        {"KHO511"},
    ),
    "files of a session copied from another": (
        lambda it: it.image.write_u64(it.sessions[505].entry + 64, it.sessions[506].block),
        {"KHO310", "KHO514"},
    ),
    "file entry copied from another": (
        lambda it: it.image.write(it.memfds[5050].entry, it.image.read(it.memfds[5051].entry, 64)),
        {"KHO512"},
    ),
    "file data copied from another": (
        lambda it: it.image.write_u64(it.memfds[5050].entry + 48, it.memfds[5060].descriptor),
        {"KHO514"},
    ),
    "FLB pgcnt gone wild": (lambda it: it.image.write_u64(it.flbs, 1 << 40), {"KHO515"}),
    # One wrong extent is told for every structure that it covers, or twice for one.
    "blob-size gone wild": (
        lambda it: it.node("kexec-metadata").update({b"blob-size": u64(1 << 40)}),
        {"KHO411"},
    ),
    "blob-size of a megabyte": (
        lambda it: it.node("kexec-metadata").update({b"blob-size": u64(MIB)}),
        {"KHO407", "KHO409"},
    ),
    "sub-node address copied from another": (
        lambda it: it.node("kho_test").update({b"preserved-data": u64(it.blobs["memblock"])}),
        {"KHO111"},
    ),
    "two sub-nodes with one blob": (
        lambda it: it.subnode("x111", it.blobs["kexec-metadata"], 73),
        {"KHO111"},
    ),
    "region over another": (lambda it: region(it, "r604", "start", it.start("r601")), {"KHO604"}),
    "region size gone wild": (lambda it: region(it, "r604", "size", 1 << 40), {"KHO603", "KHO604"}),
    "region start outside RAM": (lambda it: region(it, "r604", "start", BEYOND), {"KHO603"}),
    "region of another kind": (
        lambda it: dict(it.regions)[b"r604"].update({b"compatible": b"x\0"}),
        {"KHO602"},
    ),
    "kho_test folio outside RAM": (
        lambda it: it.image.write_u64(it.test_table + 8, BEYOND),
        {"KHO611"},
    ),
    "kho_test folio not stored": (
        lambda it: it.image.write_u64(it.test_table + 8, FREE | 1),
        {"KHO612", "KHO613"},
    ),
    "kho_test counts a folio less": (
        lambda it: it.test_data.update({b"nr_folios": struct.pack("<I", 2)}),
        {"KHO610"},
    ),
    "kho_test counts folios without end": (
        lambda it: it.test_data.update({b"nr_folios": b"\xff" * 4}),
        {"KHO611"},
    ),
    # The scratch table.
    "scratch size gone wild": (
        lambda it: late_write(it, it.setup_data + 40, u64(1 << 40)),
        {"KHO304"},
    ),
    "scratch table recycled": (
        lambda it: late_write(it, it.scratch_table, bytes(range(32))),
        {"KHO304", "KHO307"},
    ),
}
"""The same, where more than one finding comes of it today."""


def found_after(damage: Damage) -> list[str]:
    it = Reference()
    damage(it)
    return codes(above_info(verdict_of(it).findings))


@pytest.mark.parametrize("name", NAMED_ONCE)
def test_named_once(name: str) -> None:
    damage, wanted = NAMED_ONCE[name]
    found = found_after(damage)
    assert len(found) == 1
    assert set(found) <= wanted


@pytest.mark.parametrize("name", CASCADES)
def test_named_once_without_a_cascade(name: str) -> None:
    damage, wanted = CASCADES[name]
    found = found_after(damage)
    assert len(found) == 1
    assert set(found) <= wanted


def test_a_dump_before_reboot_is_sound() -> None:
    """ABI.md §1: LUO serializes only at reboot, earlier dumps are normal, not at fault."""

    def not_serialized(it: Reference) -> None:
        it.image.write_u64(it.blobs["LUO"] + 16, 0)
        it.image.write(it.flbs + 8, bytes(PAGE - 8))

    assert found_after(not_serialized) == []


@pytest.mark.parametrize("name", ["memblock", "kho_test"])
@pytest.mark.parametrize("data", [bytes(PAGE), TEXT[:PAGE]], ids=["zeroed", "text"])
def test_a_known_blob_overwritten_is_not_sound(name: str, data: bytes) -> None:
    assert found_after(lambda it: late_write(it, it.blobs[name], data)) != []


def test_pages_of_two_sessions_are_one_finding_however_many_files_share_them(
    tmp_path: Path,
) -> None:
    image = Image()
    made = [memfd(image, pattern(PAGE, number)) for number in range(4)]
    for theirs, mine in zip(made[:2], made[2:], strict=True):
        image.write_u64(mine.area.pieces[0], image.read_u64(theirs.area.pieces[0]))
    first, *rest = ([File(at, made[n]) for at, n in ((1, k), (2, k + 1))] for k in (0, 2))
    luo_v5(image, [Session(b"a", first), Session(b"b", *rest)])
    files = save(image, tmp_path, image.finish())
    found = document("check", *files)["findings"]
    shared = [one for one in found if "belongs to two files" in one["message"]]
    assert [(one["code"], one["count"]) for one in shared] == [("KHO514", 1)]


def test_a_page_of_three_files_is_told_with_two_of_them(tmp_path: Path) -> None:
    image = Image()
    made = [memfd(image, pattern(PAGE, number)) for number in range(3)]
    for mine in made[1:]:
        image.write_u64(mine.area.pieces[0], image.read_u64(made[0].area.pieces[0]))
    luo_v5(image, [Session(b"vm", [File(at, one) for at, one in enumerate(made, 1)])])
    found = document("check", *save(image, tmp_path, image.finish()))["findings"]
    shared = [one["message"] for one in found if one["code"] == "KHO514"]
    page = hex(made[0].folios[0].paddr)
    assert len(shared) == 1
    assert re.fullmatch(
        rf"4 KiB at {page}-\w+ belongs to two files: LUO/vm/0x1 .*; LUO/vm/0x2 .*", shared[0]
    )


def test_a_list_of_files_under_two_sessions_is_not_called_two_files() -> None:
    it = Reference()
    it.image.write_u64(it.sessions[505].entry + 64, it.sessions[506].block)
    block = it.sessions[506].block
    (finding,) = [one for one in verdict_of(it).findings if one.paddr == block]
    assert "belongs to two files" not in message_text(finding.message)


def test_the_plural_of_entry() -> None:
    it = Reference()
    it.image.write_u64(it.memfds[519].descriptor + 24, 257)
    messages = [
        message_text(one.message) for one in verdict_of(it).findings if one.code == "KHO521"
    ]
    assert ["its table gives 256 entries" in message for message in messages] == [True]


def test_what_the_cascades_are_made_of_is_sound() -> None:
    assert found_after(large) == []
    assert DIRTY | UPTODATE == 3 << 52


def test_a_scratch_area_over_the_whole_map_is_one_finding_with_its_places() -> None:
    it = Reference()
    it.scratch.append((MIB, 2 * MIB))
    found = {one.code: one for one in above_info(verdict_of(it).findings)}
    assert sorted(found) == ["KHO210", "KHO303"]
    nodes = found["KHO210"]
    assert nodes.count == len(nodes.places) == len(it.image.nodes)
    assert {place.paddr for place in nodes.places} == set(it.image.nodes)
    blocks = found["KHO303"]
    assert blocks.count == len(blocks.places) > 1


def test_one_unknown_handler_of_many_files_is_one_finding() -> None:
    it = Reference()
    entries = [it.memfds[number].entry for number in (5050, 5051, 519)]
    for entry in entries:
        it.image.write(entry, b"vfio-pci-v9".ljust(48, b"\0"))
    (finding,) = [one for one in verdict_of(it).findings if one.code == "KHO513"]
    assert (finding.count, len(finding.places)) == (3, 3)


@pytest.mark.parametrize(("index", "found"), [(4, set()), (3, {"KHO525"}), (5, {"KHO526"})])
def test_a_folio_of_four_pages_reaches_to_the_fifth(
    index: int, found: set[str], tmp_path: Path
) -> None:
    image = Image()
    made = memfd(image, bytes(5 * PAGE), layout=[(0, 2), (4, 0)])
    image.write_u64(made.area.pieces[0] + 16 + 8, index)
    luo_v5(image, [Session(b"vm", [File(1, made)])])
    dump, dtb = save(image, tmp_path, image.finish())
    findings = document("check", dump, dtb, "--select", "KHO52")["findings"]
    assert {finding["code"] for finding in findings} == found


def test_of_many_orphans_the_rest_is_one_place_with_their_size(tmp_path: Path) -> None:
    image = Image()
    metadata(image, b"7.3.4", 1)
    orders = [0] * 8 + [0, 1, 2]
    for number, order in enumerate(orders):
        image.preserve(0x40_0000 + 0x10_0000 * number, order)
    found = document("check", *save(image, tmp_path, image.finish()))["findings"]
    orphans = [one for one in found if one["code"] == "KHO308"]
    assert sum(one["count"] for one in orphans) == len(orders)
    last = next(one for one in orphans if "more ranges" in one["message"])
    assert last["message"].startswith("28 KiB in 3 more ranges ")
    assert (last["count"], int(last["paddr"], 16)) == (3, 0xC0_0000)


def test_each_of_three_overlaps_is_found(tmp_path: Path) -> None:
    image = Image()
    metadata(image, b"7.3.4", 1)
    for number in range(3):
        image.preserve(0x40_0000 + 0x10_0000 * number, 4)
        image.preserve(0x40_1000 + 0x10_0000 * number, 0)
    found = document("check", *save(image, tmp_path, image.finish()))["findings"]
    overlaps = [one for one in found if "preserved by several blocks" in one["message"]]
    assert sum(one["count"] for one in overlaps) == 3


def test_a_sub_node_that_is_there_twice_is_not_called_two_sub_nodes_of_one_blob(
    tmp_path: Path,
) -> None:
    image = Image()
    blob = image.blob(u64(1) * 8)
    for _ in range(2):
        image.subnode("other", blob, 64)
    found = document("check", *save(image, tmp_path, image.finish()))["findings"]
    assert "KHO111" not in {one["code"] for one in found}
