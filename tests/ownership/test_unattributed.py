"""What memory is called that nothing claims, and what else lies at an address."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import luo_builder as write
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.looking import look
from tests.support.luo_builder import File, Session
from tests.support.running import document, in_process, save

# -- what unclaimed memory is called: a leak only where everything was followed


def add_leak(image: Image) -> int:
    """One preserved page, apart from others, that nothing points to."""
    leak = image.alloc(3) + image.page_size
    image.preserve(leak, 0)
    return leak


def unknown_blob(image: Image) -> str:
    image.subnode("pci", image.blob(b"\1\2\3\4"), 4)
    return "sub-node 'pci' is not decoded"


def unknown_handler(image: Image) -> str:
    write.luo_v5(image, [Session(b"vm", [File(1, compatible=b"vfio-pci-v1", data=4096)])])
    return "file handler 'vfio-pci-v1' is not decoded"


def not_serialized_v5(image: Image) -> str:
    write.luo_v5(image, [], serialized=False)
    return "the sessions of LUO are not serialized"


def not_serialized_v1(image: Image) -> str:
    write.luo_v1(image, [], serialized=False)
    return "the sessions of LUO are not serialized"


def flb_with_memory(image: Image) -> str:
    data = image.blob(b"devices")
    write.luo_v5(image, [Session(b"vm")], [(b"pci", data, 1)])
    return f"FLB 'pci' has opaque data {data:#x} in preserved memory"


def unknown_region(image: Image) -> str:
    _, props = write.reserve_mem(image, 1)
    write.memblock(image, [(b"new", [(b"compatible", b"reserve-mem-v2\0"), *props[1:]])])
    return "region 'new' is of unknown type 'reserve-mem-v2'"


def damaged_chain(image: Image) -> str:
    luo = write.luo_v5(image, [Session(b"vm", [File(1, write.memfd(image, b"x"))])])
    image.write_u64(luo.files[0].first, 12345)
    return "kho_block 0x3039 is not aligned to a page"


def blob_not_stored(image: Image) -> str:
    image.subnode("gone", image.ram_end - image.page_size, 8)
    return "not stored"


def anything_but_the_leak(image: Image) -> None:
    """Every kind of content that is decoded, and an FLB whose data is no address."""
    memfd = write.memfd(image, write.pattern(4096, 1))
    write.luo_v5(image, [Session(b"vm", [File(1, memfd)])], [(b"flb", 0xFEEDF00DCAFEBEE0, 1)])
    _, props = write.reserve_mem(image, 1)
    write.memblock(image, [(b"trace", props)])
    write.kho_test(image, [(0, b"a")])


@pytest.mark.parametrize(
    "hide",
    [
        unknown_blob,
        unknown_handler,
        not_serialized_v5,
        not_serialized_v1,
        flb_with_memory,
        unknown_region,
        damaged_chain,
        blob_not_stored,
    ],
)
def test_memory_that_something_not_followed_may_own_was_called_an_orphan(
    hide: Callable[[Image], str], tmp_path: Path
) -> None:
    image = Image()
    because = hide(image)
    leak = hex(add_leak(image))
    files = save(image, tmp_path, image.finish())
    found = document("owners", *files)["ownership"]
    assert (found["orphan_bytes"], found["orphans"]) == (0, [])
    assert leak in [one["start"] for one in found["unattributed"]]
    assert found["unattributed_bytes"] == sum(one["bytes"] for one in found["unattributed"])
    assert any(because in reason["message"] for reason in found["unattributed_because"])
    (info,) = document("addr", *files, leak)["addresses"]
    assert (info["unclaimed"], info["owners"]) == ("unattributed", [])
    owners, addr, ranges, check = (
        in_process(command, *files, *more).stdout
        for command, more in (
            ("owners", ()),
            ("addr", (leak,)),
            ("ranges", ("--owners",)),
            ("check", ("--json",)),
        )
    )
    assert "orphan" not in f"{owners}{addr}{ranges}".lower()
    assert "Unattributed: preserved, may be owned by what was not followed" in owners
    assert because in " ".join(owners.split())
    assert "unattributed" in addr
    verdict = json.loads(check)
    assert "KHO308" not in {finding["code"] for finding in verdict["findings"]}
    assert any("KHO308" in group["codes"] for group in verdict["integrity"]["blocked"])
    in_process("extract", *files, "-o", tmp_path / "out")
    taken = tmp_path / "out" / f"range@{leak}-{int(leak, 16) + 4096:#x}"
    assert taken.stat().st_size == 4096


def test_an_unclaimed_page_is_an_orphan_where_everything_was_decoded(tmp_path: Path) -> None:
    image = Image()
    anything_but_the_leak(image)
    leak = add_leak(image)
    files = save(image, tmp_path, image.finish())
    found = document("owners", *files)["ownership"]
    assert [one["start"] for one in found["orphans"]] == [hex(leak)]
    assert (found["orphan_bytes"], found["unattributed_bytes"]) == (4096, 0)
    assert found["unattributed"] == found["unattributed_because"] == []
    (info,) = document("addr", *files, hex(leak))["addresses"]
    assert info["unclaimed"] == "orphan"
    listed = document("ranges", *files, "--owners")["ranges"]
    assert [one["unclaimed"] for one in listed if not one["owners"]] == ["orphan"]
    assert in_process("ranges", *files, "--owners").stdout.count("ORPHAN\n") == 1
    assert "Orphan: preserved, but nothing points to it" in in_process("owners", *files).stdout
    wishes = in_process("expect", *files).stdout
    assert "max_orphan_bytes = 4096  # at most; 4 KiB orphan now\n" in wishes


def test_ranges_call_unattributed_memory_so(tmp_path: Path) -> None:
    image = Image()
    unknown_blob(image)
    leak = add_leak(image)
    files = save(image, tmp_path, image.finish())
    listed = document("ranges", *files, "--owners")["ranges"]
    assert [(one["start"], one["unclaimed"]) for one in listed if not one["owners"]] == [
        (hex(leak), "unattributed")
    ]
    assert in_process("ranges", *files, "--owners").stdout.count("UNATTRIBUTED\n") == 1
    wishes = tmp_path / "wishes.toml"
    wishes.write_text("max_orphan_bytes = 0\n")
    told = in_process("check", *files, "--expect", wishes).stdout
    assert "unattributed memory is 4 KiB, should be at most 0" in " ".join(told.split())


def test_blobs_left_unread_for_a_limit_do_not_make_orphans_of_their_memory(tmp_path: Path) -> None:
    image = Image()
    _, props = write.reserve_mem(image, 1)
    image.subnode("first", image.blob(bytes(4000)), 4000)
    write.memblock(image, [(b"trace", props)])
    files = save(image, tmp_path, image.finish())
    found = document("owners", *files, "--max-blob", "4000")["ownership"]
    assert (found["orphan_bytes"], found["unattributed_bytes"]) == (0, 4096)


def test_many_files_of_one_unknown_handler_are_one_reason() -> None:
    image = Image()
    files = [File(token, compatible=b"vfio-pci-v1", data=0) for token in range(500)]
    write.luo_v5(image, [Session(b"vm", files)])
    assert len(look(image, image.finish()).hidden) == 1


def test_reasons_are_bounded_whatever_the_handlers_are_called() -> None:
    image = Image()
    files = [File(token, compatible=b"h%d" % token, data=0) for token in range(500)]
    write.luo_v5(image, [Session(b"vm", files)])
    assert len(look(image, image.finish()).hidden) == 256


# -- what lies at an address besides preserved memory


def setup_data(image: Image, fdt: int, table: tuple[int, int]) -> int:
    """An x86 setup_data entry of type 10 in a page of its own."""
    paddr = image.alloc() + 64
    entry = struct.pack("<QII", 0, 10, 32)
    image.write(paddr, entry + struct.pack("<QQQQ", fdt, image.page_size, *table))
    return paddr


def test_addr_said_nothing_of_scratch_its_table_and_setup_data(tmp_path: Path) -> None:
    image = Image()
    dtb = image.finish()
    areas = [(32 << 20, 4 << 20), (40 << 20, 8 << 20)]
    table = image.alloc()
    image.write(table, b"".join(struct.pack("<QQ", *area) for area in areas))
    entry = setup_data(image, image.fdt_paddr, (table, 32))
    stray = setup_data(image, 0x3000, (0, 0))
    files = save(image, tmp_path, dtb)
    at = [areas[1][0] + 8, table + 16, entry + 4, stray, image.fdt_paddr + 9, areas[1][0] - 1]
    found = document("addr", *files, *map(hex, at))["addresses"]
    second = {"area": 1, "start": hex(40 << 20), "end": hex(48 << 20), "bytes": 8 << 20}
    assert [one["scratch"] for one in found] == [[second], [], [], [], [], []]
    assert [one["scratch_table"] for one in found] == [
        None,
        {"start": hex(table), "end": hex(table + 32)},
        *[None] * 4,
    ]
    assert [[(one["source"], one["stray"]) for one in info["pointers"]] for info in found] == [
        [],
        [],
        [(f"setup_data at {entry:#x}", False)],
        [(f"setup_data at {stray:#x}", True)],
        [],
        [],
    ]
    assert [one["root_fdt_offset"] for one in found] == [None, None, None, None, 9, None]
    text = " ".join(in_process("addr", *files, *map(hex, at)).stdout.split())
    assert "scratch area 1, 0x2800000-0x3000000, 8 MiB" in text
    assert f"byte 16 of the scratch table, {table:#x}-{table + 32:#x}" in text
    assert f"byte 4 of setup_data at {entry:#x}, which points to the root FDT" in text
    assert f"byte 0 of setup_data at {stray:#x}, which points to 0x3000, where no root" in text
    assert "root FDT byte 9" in text


def test_addr_takes_the_scratch_areas_that_are_named(tmp_path: Path) -> None:
    image = Image()
    files = save(image, tmp_path, image.finish())
    args = (*files, hex(32 << 20), "--scratch", "16M+1M", "--scratch", "32M+1M")
    (info,) = document("addr", *args)["addresses"]
    assert [one["area"] for one in info["scratch"]] == [1]
    table = image.alloc()
    image.write_u64(table, 32 << 20, 1 << 20)
    image.write_elf(files[0], declare_ram=True)
    fdt, scratch = struct.pack(">QQ", image.fdt_paddr, 4096), struct.pack(">QQ", table, 16)
    node = Tree(b"chosen", [(b"linux,kho-fdt", fdt), (b"linux,kho-scratch", scratch)])
    boot = tmp_path / "boot.dtb"
    boot.write_bytes(fdt_blob(Tree(b"", [], [node])))
    found = document("addr", *files, hex(32 << 20), hex(table), "--boot-dtb", boot)["addresses"]
    assert [one["area"] for one in found[0]["scratch"]] == [0]
    assert found[1]["scratch_table"] == {"start": hex(table), "end": hex(table + 16)}
