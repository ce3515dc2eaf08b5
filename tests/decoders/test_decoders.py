"""Every decoder on images of the builder: versions, page sizes, and what is not as it should be."""

from __future__ import annotations

import struct
from typing import TypeVar

import pytest

from kho_inspect.decoders import memfd
from kho_inspect.decoders.kexec_metadata import KexecMetadata
from kho_inspect.decoders.kho_test import KhoTest
from kho_inspect.decoders.memblock import Memblock
from kho_inspect.decoders.memfd import Memfd
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import Blob, Handover
from kho_inspect.model.identity import Owner, Step, StepKind, Subsystem
from kho_inspect.model.luo import Luo, LuoFile
from kho_inspect.render.names import message_text, path_name
from kho_inspect.walk import vmalloc
from tests.support import luo_builder as write
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.cli import SAMPLES
from tests.support.looking import look, only_fault
from tests.support.luo_builder import File, Session, u64
from tests.support.running import in_process

T = TypeVar("T", Luo, Memblock, KexecMetadata, KhoTest)

LUO_ABIS = [
    (shift, abi)
    for shift in (12, 14, 16)
    for abi in ("kho-v2", "kho-v3", "kho-v4")
    if (shift, abi) != (14, "kho-v2")
]
"""kho-v2 with 16K pages loses its order-0 pages."""

any_page = pytest.mark.parametrize("shift", [12, 14, 16])


def seen(image: Image) -> Handover:
    """The handover of an image, which is finished here."""
    return look(image, image.finish())


def only_blob(handover: Handover) -> Blob:
    (blob,) = handover.blobs
    return blob


def content(handover: Handover, kind: type[T]) -> T:
    """What the only blob decodes to."""
    found = only_blob(handover).content
    assert isinstance(found, kind)
    return found


def sound(image: Image, kind: type[T]) -> T:
    """The same of an image without any fault, all of whose pages are owned."""
    handover = seen(image)
    assert handover.faults == ()
    ownership = handover.ownership
    troubles = (ownership.unclaimed, ownership.dangling, ownership.shared)
    assert [ownership.size(pages) for pages in troubles] == [0, 0, 0]
    return content(handover, kind)


def luo(image: Image, sessions: list[Session], **more: bool) -> write.Luo:
    """LUO as the image's ABI has it."""
    flbs = [(b"flb-a", 0xFFFF_FFFF_FFFF_F123, 3)]
    return (write.luo_v5 if image.abi == "kho-v4" else write.luo_v1)(image, sessions, flbs, **more)


# -- LUO and memfds


def memfd_of(file: LuoFile) -> Memfd:
    assert isinstance(file.content, Memfd)
    return file.content


@pytest.mark.parametrize(("shift", "abi"), LUO_ABIS)
def test_sessions_files_and_flbs_read_back(shift: int, abi: str) -> None:
    image = Image(shift, abi)
    page = image.page_size
    small = write.memfd(image, write.pattern(page + 100, 1), pos=7, seals=0xF, flags=0)
    large = write.memfd(
        image, write.pattern(7 * page, 2), layout=[(0, 2), (6, 0)], folio_flags=write.UPTODATE
    )
    empty = write.memfd(image, b"")
    sessions = [
        Session(b"vm", [File(0x1001, small), File((1 << 64) - 1, large)]),
        Session(b"n" * 63, [File(0, empty)]),
        Session(b"nothing"),
    ]
    written = luo(image, sessions)
    found = sound(image, Luo)
    assert found.compatible == ("luo-v5" if abi == "kho-v4" else "luo-v1")
    assert (found.liveupdate_num, found.complete()) == (1, True)
    assert (found.sessions_pa, found.flbs_pa) == (written.sessions.first, written.flbs)
    assert [(one.name, one.data, one.count) for one in found.flbs] == [
        ("flb-a", 0xFFFF_FFFF_FFFF_F123, 3)
    ]
    assert [(one.name, one.count, one.files_pa) for one in found.sessions] == [
        (session.name.decode(), len(session.files), files.first)
        for session, files in zip(sessions, written.files, strict=True)
    ]
    assert [(one.token, one.compatible) for one in found.files] == [
        (0x1001, "memfd-v2"),
        ((1 << 64) - 1, "memfd-v2"),
        (0, "memfd-v2"),
    ]
    for file, made in zip(found.files, (small, large, empty), strict=True):
        memfd = memfd_of(file)
        assert (file.data, memfd.paddr, memfd.size) == (made.paddr, made.paddr, len(made.content))
        assert memfd.nr_folios == len(memfd.table) == len(made.folios)
        assert memfd.table.pfn.tolist() == [one.paddr >> shift for one in made.folios]
        assert memfd.table.order.tolist() == [one.order for one in made.folios]
        assert memfd.table.index.tolist() == [one.index for one in made.folios]
        assert list(memfd.folios.chunks) == made.area.chunks
    memfds = [memfd_of(file) for file in found.files]
    assert [(one.pos, one.seals, one.flags) for one in memfds] == [(7, 15, 0), (0, 0, 0), (0, 0, 0)]
    assert [set(one.table.flags.tolist()) for one in memfds] == [{3}, {2}, set()]


@any_page
def test_memfd_v1_has_neither_seals_nor_flags(shift: int) -> None:
    image = Image(shift, "kho-v3")
    made = write.memfd(image, write.pattern(3 * image.page_size, 5), version=1, pos=9)
    luo(image, [Session(b"old", [File(5, made)])])
    (file,) = sound(image, Luo).files
    memfd = memfd_of(file)
    assert (file.compatible, memfd.compatible) == ("memfd-v1", "memfd-v1")
    assert (memfd.pos, memfd.size) == (9, 3 * image.page_size)
    assert (memfd.seals, memfd.flags) == (None, None)
    assert memfd.table.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("shift", "count", "per_block"), [(12, 51, 51), (12, 52, 51), (12, 103, 51), (14, 205, 204)]
)
def test_sessions_over_several_blocks(shift: int, count: int, per_block: int) -> None:
    image = Image(shift)
    names = [b"s%d" % number for number in range(count)]
    written = write.luo_v5(image, [Session(name) for name in names])
    assert len(written.sessions.pages) == -(-count // per_block)
    found = sound(image, Luo)
    assert [session.raw_name.rstrip(b"\0") for session in found.sessions] == names


@pytest.mark.parametrize(
    ("abi", "count", "pages"),
    [("kho-v4", 63, 1), ("kho-v4", 64, 2), ("kho-v4", 200, 4), ("kho-v3", 128, 1)],
)
def test_files_over_several_blocks(abi: str, count: int, pages: int) -> None:
    image = Image(12, abi)
    tokens = list(range(1000, 1000 + count))
    files = [File(token, compatible=b"opaque", data=token) for token in tokens]
    written = luo(image, [Session(b"many", files), Session(b"few", files[:1])])
    assert len(written.files[0].pages) == pages
    found = sound(image, Luo)
    assert [[one.token for one in session.files] for session in found.sessions] == [
        tokens,
        tokens[:1],
    ]


@pytest.mark.parametrize("count", [64, 255, 1 << 63])
def test_a_block_that_counts_more_than_its_page_has_room_for_says_how_many_it_has(
    count: int,
) -> None:
    image = Image()
    written = luo(image, [Session(b"vm", [File(1, compatible=b"opaque", data=1)])])
    (block,) = written.files[0].pages
    image.write_u64(block + 8, count)
    fault = only_fault(seen(image), FaultKind.BLOCK_COUNT)
    assert message_text(fault.message).endswith(
        f"counts {count:,} entries, its page has room for 63"
    )


def test_what_stands_behind_a_full_block_is_no_entry() -> None:
    """63 entries leave 48 bytes of a page."""
    image = Image()
    files = [File(token, compatible=b"opaque", data=token) for token in range(63)]
    written = luo(image, [Session(b"vm", files)])
    image.write(written.files[0].pages[0] + 16 + 63 * 64, b"text")
    assert len(sound(image, Luo).files) == 63


def test_a_chain_without_a_session_is_a_fault() -> None:
    """7.2 and 7.3 panic on it: a writer without sessions leaves the pointer at 0."""
    image = Image()
    luo(image, [])
    handover = seen(image)
    assert [fault.kind for fault in handover.faults] == [FaultKind.BLOCK_EMPTY]


@pytest.mark.parametrize("abi", ["kho-v3", "kho-v4"])
def test_not_serialized_yet_is_no_fault(abi: str) -> None:
    image = Image(12, abi)
    luo(image, [], serialized=False)
    found = sound(image, Luo)
    assert (found.complete(), found.sessions) == (False, ())


def test_luo_v1_without_its_nodes_is_a_fault() -> None:
    image = Image(12, "kho-v3")
    props = [(b"compatible", b"luo-v1\0"), (b"liveupdate-number", u64(4))]
    data = fdt_blob(Tree(b"", props))
    image.subnode("LUO", image.blob(data), len(data))
    words = [str(fault.message) for fault in seen(image).faults]
    assert words == ["LUO node 'luo-session' is missing", "LUO node 'luo-flb' is missing"]


def test_a_handler_that_nobody_knows_is_shown_and_claims_nothing() -> None:
    image = Image()
    page = image.alloc()
    files = [File(1, compatible=b"vfio-pci-v1", data=page), File(2, compatible=b"", data=0)]
    luo(image, [Session(b"vm", files)])
    found = sound(image, Luo)
    assert [(file.compatible, file.data, file.content) for file in found.files] == [
        ("vfio-pci-v1", page, None),
        ("", 0, None),
    ]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (struct.pack("<8sQQQ", b"luo-v6", 1, 1 << 60, 1 << 60), "data"),
        (struct.pack("<8sQQQ", b"luo-v55\0", 1, 1 << 60, 1 << 60), "data"),
        (fdt_blob(Tree(b"", [(b"compatible", b"luo-v2\0")])), "fdt"),
        (fdt_blob(Tree(b"", [])), "fdt"),
        (b"", "data"),
    ],
)
def test_an_unknown_luo_is_shown_as_it_is(data: bytes, kind: str) -> None:
    image = Image()
    image.subnode("LUO", image.blob(data), len(data))
    handover = seen(image)
    assert handover.faults == ()
    blob = only_blob(handover)
    assert (blob.kind, blob.content, bytes(blob.data)) == (kind, None, data)


@pytest.mark.parametrize(
    ("name", "data", "kind", "owner"),
    [
        ("hugetlb", b"\x01\x02\x03", "data", Owner(Subsystem.SUBNODE, ("hugetlb",))),
        (
            "pci",
            fdt_blob(Tree(b"", [(b"compatible", b"pci-v1\0")])),
            "fdt",
            Owner(Subsystem.SUBNODE, ("pci",)),
        ),
        (
            "other",
            fdt_blob(Tree(b"", [(b"compatible", b"luo-v1\0")])),
            "fdt",
            Owner(Subsystem.SUBNODE, ("other",)),
        ),
        (
            "memblock",
            fdt_blob(Tree(b"", [(b"compatible", b"memblock-v9\0")])),
            "fdt",
            Owner(Subsystem.MEMBLOCK),
        ),
        ("kho_test", b"not an fdt", "data", Owner(Subsystem.KHO_TEST)),
    ],
)
def test_an_unknown_blob_is_no_fault_and_owns_its_page(
    name: str, data: bytes, kind: str, owner: Owner
) -> None:
    image = Image()
    image.subnode(name, image.blob(data), len(data))
    handover = seen(image)
    assert handover.faults == ()
    assert (only_blob(handover).kind, only_blob(handover).content) == (kind, None)
    assert only_blob(handover).owner == owner
    assert [(share.owner, share.bytes) for share in handover.ownership.shares] == [
        (owner, 4096),
        (Owner(Subsystem.KHO), 4096),
    ]


def test_a_luo_blob_too_short_for_its_struct() -> None:
    image = Image()
    image.subnode("LUO", image.blob(b"luo-v5\0\0" + bytes(23)), 31)
    handover = seen(image)
    assert path_name(only_fault(handover, FaultKind.LUO_SHORT).path) == "sub-node LUO"
    assert only_blob(handover).content is None


@pytest.mark.parametrize("lie", [257, 512, 1 << 60, (1 << 64) - 1])
def test_more_folios_than_the_table_has(lie: int) -> None:
    image = Image()
    made = write.memfd(image, write.pattern(8192, 1), nr_folios=lie)
    luo(image, [Session(b"vm", [File(1, made)])])
    handover = seen(image)
    fault = only_fault(handover, FaultKind.MEMFD_FOLIOS)
    assert f"{lie:,}" in message_text(fault.message)
    (file,) = content(handover, Luo).files
    memfd = memfd_of(file)
    # The table's one page has room for 256 entries, of which two are real.
    assert (memfd.nr_folios, len(memfd.table)) == (lie, 256)
    assert memfd.table.pfn.tolist()[2:] == [0] * 254


def test_page_frame_0_is_a_hole_that_claims_nothing() -> None:
    image = Image()
    made = write.memfd(
        image, write.pattern(3 * 4096, 1), layout=[(0, 0), (2, 0)], extra=[(3 << 52, 1)]
    )
    luo(image, [Session(b"vm", [File(1, made)])])
    found = sound(image, Luo)
    (file,) = found.files
    memfd = memfd_of(file)
    assert memfd.table.pfn.tolist()[2] == 0
    assert memfd.table.order.tolist() == [0, 0, -1]


def test_unknown_folio_flags_and_seals_survive() -> None:
    image = Image()
    made = write.memfd(
        image, write.pattern(4096, 1), seals=0x8000_0001, flags=0xFFFF_FFFF, folio_flags=0xFFF
    )
    luo(image, [Session(b"vm", [File(1, made)])])
    (file,) = sound(image, Luo).files
    memfd = memfd_of(file)
    assert (memfd.seals, memfd.flags) == (0x8000_0001, 0xFFFF_FFFF)
    assert memfd.table.flags.tolist() == [0xFFF]


# -- kho_test


FOLIOS = [(0, b"\xff" * 4096), (2, b"\x01\x80\xfe" * 1000), (0, b"")]


@any_page
@pytest.mark.parametrize("inline", [False, True])
def test_kho_test_folios_and_checksum(shift: int, inline: bool) -> None:
    image = Image(shift)
    made = write.kho_test(image, FOLIOS, inline=inline)
    found = sound(image, KhoTest)
    assert found.phys.tolist() == [folio.paddr for folio in made.folios]
    assert found.order.tolist() == [0, 2, 0]
    assert (found.nr_folios, found.csum, found.magic) == (3, made.csum, 0x4B484F21)
    assert found.bytes == 6 * image.page_size
    assert found.checksum_ok is True
    assert (found.folios_info is None) == inline


def test_an_array_of_two_folios_is_not_taken_for_a_descriptor() -> None:
    """Two entries are 16 bytes, like a kho_vmalloc; but that one would have total_pages 1."""
    image = Image()
    write.kho_test(image, FOLIOS[:2], inline=True)
    found = sound(image, KhoTest)
    assert (len(found.phys), found.folios_info, found.checksum_ok) == (2, None, True)


def test_a_descriptor_of_two_folios_is_not_taken_for_an_array() -> None:
    image = Image()
    made = write.kho_test(image, FOLIOS[:2])
    found = sound(image, KhoTest)
    assert found.phys.tolist() == [folio.paddr for folio in made.folios]
    assert found.folios_info is not None


def test_an_array_of_two_folios_in_high_memory() -> None:
    image = Image(12, "kho-v4", (1 << 40, 16 << 20))
    write.kho_test(image, FOLIOS[:2], inline=True)
    found = sound(image, KhoTest)
    assert (len(found.phys), found.folios_info, found.checksum_ok) == (2, None, True)


@pytest.mark.parametrize("change", [1, 0xFFFE, 1 << 16, 0x8000_0000])
def test_a_wrong_checksum_is_told(change: int) -> None:
    image = Image()
    right = write.checksum(b"".join(data for _, data in FOLIOS))
    write.kho_test(image, FOLIOS, csum=right ^ change)
    found = sound(image, KhoTest)
    assert (found.checksum_ok, found.summary()) == (False, "checksum WRONG")


@pytest.mark.parametrize("stored", [0, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_0000])
@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_the_two_zeros_of_ones_complement_are_equal(stored: int, byte: bytes) -> None:
    image = Image()
    write.kho_test(image, [(0, byte * 4096)], csum=stored)
    found = sound(image, KhoTest)
    assert (found.checksum_ok, found.summary()) == (True, "checksum ok")


@pytest.mark.parametrize("missing", [b"nr_folios", b"csum", b"folios_info"])
def test_kho_test_without_a_property(missing: bytes) -> None:
    image = Image()
    write.kho_test(image, FOLIOS, leave_out=[missing])
    handover = seen(image)
    assert FaultKind.KHO_TEST_PROPERTY in {fault.kind for fault in handover.faults}
    data = (Step(StepKind.SUBNODE, "kho_test"), Step(StepKind.NODE, "data"))
    assert all(fault.path[:2] == data for fault in handover.faults)
    found = content(handover, KhoTest)
    if missing == b"csum":
        assert (found.csum, found.checksum_ok, len(found.phys)) == (None, None, 3)
    elif missing == b"folios_info":
        assert (len(found.phys), found.folios_info) == (0, None)


def test_kho_test_with_more_folios_than_it_lists() -> None:
    image = Image()
    write.kho_test(image, FOLIOS, nr_folios=1 << 31)
    handover = seen(image)
    only_fault(handover, FaultKind.KHO_TEST_FOLIOS)
    # Zeros behind the three entries: as far as the page goes they are folios at 0.
    assert content(handover, KhoTest).phys.tolist()[3:] == [0] * 509


def test_a_folio_that_is_not_stored_leaves_the_checksum_open() -> None:
    image = Image()
    made = write.kho_test(image, FOLIOS)
    dtb = image.finish()
    image.drop(made.folios[1].paddr + 4096)
    handover = look(image, dtb, elf=True)
    only_fault(handover, FaultKind.KHO_TEST_NOT_STORED)
    assert content(handover, KhoTest).checksum_ok is None


# -- kexec-metadata and memblock


@any_page
@pytest.mark.parametrize(("version", "size"), [(1, 73), (2, 73), (2, 100), (0xFFFF_FFFF, 73)])
def test_metadata_of_any_version_is_shown(shift: int, version: int, size: int) -> None:
    image = Image(shift)
    write.metadata(image, b"7.3.4-\xff", 12, version=version, size=size)
    found = sound(image, KexecMetadata)
    assert (found.version, found.kexec_count) == (version, 12)
    assert found.previous_release == "7.3.4-\\xff"


@pytest.mark.parametrize("size", [0, 4, 72])
def test_metadata_too_short(size: int) -> None:
    image = Image()
    write.metadata(image, b"7.3.4", 1, size=size)
    handover = seen(image)
    fault = only_fault(handover, FaultKind.METADATA_SHORT)
    assert path_name(fault.path) == "sub-node kexec-metadata"
    assert only_blob(handover).content is None


def test_a_release_of_65_bytes_without_a_nul() -> None:
    image = Image()
    write.metadata(image, b"r" * 65, 1)
    assert sound(image, KexecMetadata).previous_release == "r" * 65


@any_page
def test_reserve_mem_regions(shift: int) -> None:
    image = Image(shift)
    regions = [(b"one", write.reserve_mem(image, 3)), (b"two", write.reserve_mem(image, 1))]
    write.memblock(image, [(name, props) for name, (_, props) in regions])
    found = sound(image, Memblock)
    assert [(one.name, one.compatible, one.start, one.size) for one in found.regions] == [
        ("one", "reserve-mem-v1", regions[0][1][0], 3 * image.page_size),
        ("two", "reserve-mem-v1", regions[1][1][0], image.page_size),
    ]


def test_memblock_without_regions() -> None:
    image = Image()
    write.memblock(image, [])
    assert sound(image, Memblock).regions == ()


@pytest.mark.parametrize("name", [b"start", b"size"])
@pytest.mark.parametrize("value", [None, b"", bytes(4), bytes(9)])
def test_a_region_with_a_bad_property(name: bytes, value: bytes | None) -> None:
    image = Image()
    good, props = write.reserve_mem(image, 1)
    bad = [prop for prop in props if prop[0] != name]
    if value is not None:
        bad.append((name, value))
    write.memblock(image, [(b"bad", bad), (b"good", props)])
    handover = seen(image)
    fault = only_fault(handover, FaultKind.MEMBLOCK_PROPERTY)
    assert path_name(fault.path) == "sub-node memblock → region bad"
    assert name.decode() in message_text(fault.message)
    found = content(handover, Memblock)
    first, second = found.regions
    assert getattr(first, name.decode()) is None
    assert (second.start, second.size) == (good, 4096)
    starts = [entry["start"] for entry in found.document()["reserve_mem"]]
    assert starts == [None if name == b"start" else hex(good), hex(good)]
    assert [item.name for item in found.items(handover.geometry)] == [second.owner]


def test_a_region_of_another_kind_claims_nothing() -> None:
    image = Image()
    props = [(b"compatible", b"reserve-mem-v2\0"), (b"start", u64(1 << 40)), (b"size", u64(4096))]
    write.memblock(image, [(b"later", props), (b"bare", [])])
    handover = seen(image)
    assert {path_name(fault.path) for fault in handover.faults} == {
        "sub-node memblock → region bare"
    }
    assert handover.ownership.size(handover.ownership.dangling) == 0
    assert [one.compatible for one in content(handover, Memblock).regions] == ["reserve-mem-v2", ""]


@pytest.mark.parametrize("abi", ["kho-v1", "kho-v2", "kho-v3"])
def test_blobs_of_an_abi_that_is_not_known_are_read_by_the_properties_of_their_sub_nodes(
    abi: str,
) -> None:
    image = Image(12, abi)
    data = fdt_blob(Tree(b"", [(b"compatible", b"x\0")]))
    paddr = image.blob(data)
    image.subnode("x", paddr, len(data))
    image.abi = "kho-v9"
    (blob,) = look(image, image.finish()).blobs
    assert (blob.paddr, blob.size, bytes(blob.data)) == (paddr, len(data), data)


@pytest.mark.parametrize("command", ["check", "owners", "files"])
def test_files_that_are_read_a_few_at_a_time_are_the_same(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [command, *(str(SAMPLES / f"x86_64-kho-v2.{suffix}") for suffix in ("elf", "dtb"))]
    together = in_process(*asked, "--json")
    monkeypatch.setattr(memfd, "TOGETHER", 2)
    monkeypatch.setattr(vmalloc, "TOGETHER", 1)
    assert in_process(*asked, "--json") == together


def test_a_short_table_behind_the_first_few_files_is_told_of_its_own_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memfd, "TOGETHER", 8)
    monkeypatch.setattr(vmalloc, "TOGETHER", 1)
    image = Image()
    made = [write.memfd(image, write.pattern(4096, at)) for at in range(7)]
    short = write.memfd(image, write.pattern(4096, 7), nr_folios=300)
    luo(image, [Session(b"vm", [File(at, one) for at, one in enumerate([*made, short])])])
    fault = only_fault(seen(image), FaultKind.MEMFD_FOLIOS)
    assert fault.paddr == short.area.chunks[0]
    assert path_name(fault.path) == "sub-node LUO → session 0 → file 7"
