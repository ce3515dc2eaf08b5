"""Dumps that hold two handovers: which is spoken of, what is left of it, and what kernels said."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from kho_inspect import fdt
from kho_inspect.abi import ROOT_FDT_NAMES
from kho_inspect.errors import FdtError
from tests.kernel_log.test_printk import PHYS, RAM
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.captures import HOME, Capture, unpack
from tests.support.kernel_builder import PAGINGS, Kernel
from tests.support.running import document, in_process

WENT_WRONG = HOME.parent / "went-wrong"
RELEASES = {"kho-v1": "7.0.1", "kho-v3": "7.1.13", "kho-v4": "7.3.4"}
BLOBS = {"memblock": (0x300000, 214), "LUO": (0x301000, 32), "kho_test": (0x302000, 240)}
CUT = 200
"""Bytes that are left of the old root FDT."""


class Refused(NamedTuple):
    """A dump of a kernel that refused what the one before handed to it."""

    dump: Path
    dtb: Path
    """The old root FDT, cut short."""
    stood: int
    entries: list[int]
    copy: int
    outgoing: int
    line: str


def old_root(abi: str, map_root: int) -> bytes:
    """The root FDT of the kernel before."""
    address = b"fdt" if abi == "kho-v1" else b"preserved-data"
    nodes = []
    for name, (paddr, size) in BLOBS.items():
        props = [(address, struct.pack("<Q", paddr))]
        if abi != "kho-v1":
            props.append((b"blob-size", struct.pack("<Q", size)))
        nodes.append(Tree(name.encode(), props))
    props = [(b"compatible", abi.encode() + b"\0")]
    props.append((b"preserved-memory-map", struct.pack("<Q", map_root)))
    return fdt_blob(Tree(b"", props, nodes))


def refused(
    folder: Path, old: str = "kho-v4", new: str = "kho-v3", left: str = "part", log: bool = True
) -> Refused:
    """``left`` of the old root FDT: ``part`` (unaligned), ``nothing``, or the ``whole`` page."""
    image = Image(12, new, RAM)
    stood, copy, map_root = image.alloc(), image.alloc(), image.alloc()
    data = old_root(old, map_root)
    image.write(stood, data if left == "whole" else b"\xa5" * 4096)
    image.write(map_root, b"\xc3" * 4096)
    if left == "part":
        image.write(copy + 0x2E0, data[:CUT])
    entries = []
    for _ in range(2):
        page = image.alloc()
        entries.append(page + 0xC0)
        entry = struct.pack("<QIIQQQQ", 0, 10, 32, stood, 4096, map_root, 48)
        image.write(entries[-1], entry)
    image.subnode("other", image.blob(b"x" * 16), 16)
    image.finish()
    line = f"KHO: setup: handover FDT ({stood:#x}) is incompatible with '{new}': 1"
    x86 = PAGINGS["x86-64"]
    before = Kernel(image, x86, PHYS, RELEASES[old], "#1 SMP of old", "01" * 20, static=True)
    before.boot("kexec_core: Starting new kernel")
    for page in before.texts_at:
        image.pages.pop(page)
    after = Kernel(image, x86, PHYS + (64 << 20), RELEASES[new], "#2 SMP of today")
    after.boot(*([line, "KHO: disabling KHO revival"] if log else ["nothing of it"]))
    dump, dtb = folder / "dump.elf", folder / "cut.dtb"
    image.write_elf(dump, declare_ram=True)
    dtb.write_bytes(data[:CUT])
    return Refused(dump, dtb, stood, entries, copy + 0x2E0, image.fdt_paddr, line)


PAIRS = [("kho-v4", "kho-v3"), ("kho-v3", "kho-v4"), ("kho-v1", "kho-v3")]


@pytest.mark.parametrize(("old", "new"), PAIRS)
@pytest.mark.parametrize("left", ["part", "nothing", "whole"])
def test_a_refused_handover_was_taken_for_the_outgoing_one(
    old: str, new: str, left: str, tmp_path: Path
) -> None:
    it = refused(tmp_path, old, new, left)
    found = document("check", it.dump)
    assert found["decision"]["state"] == "refuses"
    assert found["decision"]["target"] == f"Linux {RELEASES[new]}"
    (reason,) = found["decision"]["reasons"]
    assert reason == (
        f"KHO118: Linux {RELEASES[new]} (takes {new}) refused the handover at {it.stood:#x} "
        f'(of {RELEASES[old]}, {old}): "{it.line}"'
    )
    assert in_process("check", it.dump).status == 1
    told = " ".join(found["capture"]["reasons"])
    if left == "part":
        assert f"{old}, map root " in told
        assert "sub-node 'memblock' at 0x300000" in told
    if left != "whole":
        named = ", ".join(f"setup_data at {entry:#x}" for entry in it.entries)
        assert f"incoming root FDT at {it.stood:#x}, named by {named}, is no longer there" in told
    if left != "nothing":
        assert f"an outgoing root FDT is in the dump too, {new} at {it.outgoing:#x}" in told


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_a_dtb_cut_short_ended_the_run(old: str, new: str, tmp_path: Path) -> None:
    it = refused(tmp_path, old, new, "nothing")
    found = document("check", it.dump, it.dtb)
    assert found["decision"]["state"] == "refuses"
    assert f"({old}" in found["decision"]["reasons"][0].replace(f"of {RELEASES[old]}, ", "")
    shown = document("show", it.dump, it.dtb)
    blobs = {blob["name"]: (blob["paddr"], blob["size"]) for blob in shown["blobs"]}
    assert blobs["memblock"][0] == "0x300000"
    if old != "kho-v1":
        assert blobs["memblock"][1] == 214
    assert shown["fdt"]["compatible"] == old
    assert "fdt-blob-property" not in str(shown["faults"])


def test_without_a_line_of_a_kernel_nothing_is_decided(tmp_path: Path) -> None:
    it = refused(tmp_path, log=False)
    found = document("check", it.dump)
    assert (found["capture"]["state"], found["decision"]["state"]) == ("recycled", "unknown")
    assert in_process("check", it.dump).status == 4


def test_root_chooses(tmp_path: Path) -> None:
    it = refused(tmp_path)
    for root in ("outgoing", hex(it.outgoing)):
        found = document("check", it.dump, "--root", root)
        assert found["capture"]["state"] == "complete"
        assert found["decision"]["state"] == "accepts"
        assert f"incoming root FDT at {it.stood:#x}" in found["capture"]["reasons"][1]
    assert document("check", it.dump, "--root", "incoming") == document("check", it.dump)
    missing = in_process("check", it.dump, "--root", "0x1000")
    assert (missing.status, "holds no KHO root FDT at 0x1000" in missing.stderr) == (3, True)
    assert in_process("check", it.dump, "--root", "sideways").status == 2


def test_locate_drops_nothing(tmp_path: Path) -> None:
    it = refused(tmp_path)
    found = document("locate", it.dump)
    assert [(one["paddr"], one["role"], one["kernel"]) for one in found["candidates"]] == [
        (hex(it.outgoing), "outgoing", "7.1.13"),
        (hex(it.copy), "partial", "7.3.4"),
        (hex(it.stood), "stale", None),
    ]
    assert [one["start"] for one in found["pointers"]] == [hex(entry) for entry in it.entries]
    assert {one["fdt"] for one in found["pointers"]} == {hex(it.stood)}
    assert [one["release"] for one in found["kernels"]] == ["7.3.4", "7.1.13"]
    text = in_process("locate", it.dump).stdout
    assert f"{it.stood:#x}  stale: no root FDT stands there any more" in text


def test_of_two_whole_ones_the_incoming_comes_first(tmp_path: Path) -> None:
    it = refused(tmp_path, left="whole")
    found = document("locate", it.dump)["candidates"]
    assert [(one["paddr"], one["role"]) for one in found] == [
        (hex(it.stood), "incoming"),
        (hex(it.outgoing), "outgoing"),
    ]


@pytest.mark.parametrize("left", ["part", "whole"])
def test_a_packed_dump_tells_the_same(left: str, tmp_path: Path) -> None:
    it = refused(tmp_path, left=left)
    packed = tmp_path / "packed.elf"
    assert in_process("pack", it.dump, "-o", packed).status == 4
    for args in (["check"], ["show"], ["locate"], ["log"], ["check", "--root", "outgoing"]):
        whole, less = document(args[0], it.dump, *args[1:]), document(args[0], packed, *args[1:])
        for found in (whole, less):
            found.pop("source")
        text = json.dumps(less).replace(str(packed), str(it.dump))
        assert text == json.dumps(whole), args
    assert packed.stat().st_size < it.dump.stat().st_size


def test_a_line_on_another_address_is_not_about_this_handover(tmp_path: Path) -> None:
    image = Image(12, "kho-v4", RAM)
    image.subnode("other", image.blob(b"x" * 16), 16)
    image.finish()
    entry = struct.pack("<QIIQQQQ", 0, 10, 32, image.fdt_paddr, 4096, 0, 0)
    image.write(image.alloc() + 0xC0, entry)
    kernel = Kernel(image, PAGINGS["x86-64"], PHYS)
    kernel.boot("KHO: setup: handover FDT (0x1234000) is incompatible with 'kho-v4': 1")
    image.write_elf(tmp_path / "dump.elf", declare_ram=True)
    found = document("check", tmp_path / "dump.elf")
    assert "KHO118" not in [finding["code"] for finding in found["findings"]]


# -- a root FDT that is cut short


def test_every_start_of_a_real_root_fdt_says_nothing_wrong(capture: Capture) -> None:
    data = capture.dtb.read_bytes()
    data = data[: fdt.total_size(data)]
    whole = fdt.parse(data)
    read = 0
    for have in range(len(data)):
        try:
            start = fdt.parse_start(data[:have], ROOT_FDT_NAMES)
        except FdtError:
            assert have < 70
            continue
        read += 1
        assert start.root.props == whole.props[: len(start.root.props)]
        for mine, theirs in zip(start.root.children, whole.children, strict=False):
            assert mine.name == theirs.name
            assert mine.props == theirs.props[: len(mine.props)]
    assert start.root == whole
    assert read > 150


def test_a_value_that_ends_in_overwritten_bytes_is_not_believed() -> None:
    data = old_root("kho-v4", 0x2000)
    at = data.index(struct.pack("<Q", BLOBS["LUO"][0]))
    for have in range(at - 8, at + 8):
        found = fdt.parse_start(data[:have].ljust(len(data), b"\0"), ROOT_FDT_NAMES)
        memblock, luo = found.root.children
        assert memblock.u64("preserved-data") == BLOBS["memblock"][0]
        assert luo.props == ()


def test_names_that_fit_no_strings_block_are_not_guessed() -> None:
    data = fdt_blob(Tree(b"", [(b"compatible", b"kho-v4\0"), (b"novelty", bytes(8))]))
    start = fdt.parse_start(data[:-30], ROOT_FDT_NAMES)
    assert {prop.name.strip("?") for prop in start.root.props} == {""}


# -- the real dumps


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packed = WENT_WRONG / "refused-v4-by-7.1" / "dump.raw.xz"
    if not packed.is_file():
        pytest.skip(f"no dump at {packed}")
    dump = tmp_path_factory.mktemp("refused") / "dump.raw"
    unpack(packed, dump)
    return dump


@pytest.mark.parametrize("with_dtb", [False, True])
def test_the_real_refused_dump_says_so(real: Path, with_dtb: bool) -> None:
    dtb = [WENT_WRONG / "refused-v4-by-7.1" / "old-kernel-out.dtb"] if with_dtb else []
    found = document("check", real, *dtb)
    (reason,) = found["decision"]["reasons"]
    assert (found["decision"]["state"], found["decision"]["target"]) == ("refuses", "Linux 7.1.13")
    assert "KHO: setup: handover FDT (0x4d1000) is incompatible with 'kho-v3': 1" in reason
    assert "at 0x4d1000 (of 7.3.4, kho-v4)" in reason
    told = found["capture"]["reasons"][0]
    assert "kho-v4, map root 0x4d0000, sub-node 'memblock' at 0x704000 (214 bytes)" in told
    assert "'LUO' at 0x6fe000 (32 bytes), sub-node 'kho_test' address missing" in told
    assert in_process("check", real, *dtb).status == 1


def test_the_real_refused_dump_is_located_whole(real: Path) -> None:
    found = document("locate", real)
    assert [(one["paddr"], one["role"]) for one in found["candidates"]] == [
        ("0x4ba000", "outgoing"),
        ("0x15fe2e0", "partial"),
        ("0x4d1000", "stale"),
    ]
    assert len(found["pointers"]) == 3
    assert [one["release"] for one in found["kernels"]] == ["7.3.4", "7.1.13"]


def test_the_real_refused_dump_packed_tells_the_same(real: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.elf"
    assert in_process("pack", real, "-o", packed).status == 4
    assert packed.stat().st_size < 2 << 20
    for args in (["check"], ["locate"], ["log"], ["log", "--kernel", "1"]):
        whole, less = in_process(args[0], real, *args[1:]), in_process(args[0], packed, *args[1:])
        assert (less.status, less.stdout) == (whole.status, whole.stdout), args
