"""What a kernel accepts, out of every kind of file that a kernel comes in."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.errors import UnreadableInputError
from kho_inspect.kernels.accepts import kernel_of, read_kernel, read_kernels
from kho_inspect.kernels.image import read_image
from kho_inspect.kernels.unpacking import find_method, unpack
from kho_inspect.model.kernel_image import Feature, KernelImage, Passing, can_hand_over
from tests.support.kernel_images import (
    COMPRESSIONS,
    arm64_image,
    bzimage,
    deb,
    features,
    kernel,
    packed,
    vmlinux,
    zboot,
)


def read(data: bytes) -> KernelImage:
    return kernel_of(read_image(memoryview(data), "vmlinuz"), "vmlinuz")


def facts(found: KernelImage) -> tuple[object, ...]:
    return found.release, found.roots, found.luo, found.files, found.others


V4_FACTS = (
    "7.3.4-test",
    ("kho-v4",),
    ("luo-v5",),
    ("memfd-v2",),
    ("memblock-v1", "reserve-mem-v1"),
)


# -- containers


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_bzimage_of_every_compression(name: str) -> None:
    found = read(bzimage(packed(vmlinux(kernel()), name)))
    assert facts(found) == V4_FACTS
    assert (found.name, found.machine, found.page_shift) == (
        "Linux 7.3.4-test (vmlinuz)",
        "x86_64",
        12,
    )


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_an_efi_zboot_image_of_every_compression(name: str) -> None:
    found = read(zboot(packed(arm64_image(kernel(), 3), name), name.encode()))
    assert (facts(found), found.machine, found.page_shift) == (V4_FACTS, "arm64", 16)


@pytest.mark.parametrize(("pages", "shift"), [(0, None), (1, 12), (2, 14), (3, 16)])
@pytest.mark.parametrize("name", ["", "gzip"])
def test_an_arm64_image_says_its_page_size(pages: int, shift: int | None, name: str) -> None:
    data = arm64_image(kernel(), pages)
    found = read(COMPRESSIONS[name](data) if name else data)
    assert (facts(found), found.machine, found.page_shift) == (V4_FACTS, "arm64", shift)


@pytest.mark.parametrize(
    ("machine", "arch", "shift"), [(62, "x86_64", 12), (183, "arm64", None), (243, None, None)]
)
def test_a_vmlinux(machine: int, arch: str | None, shift: int | None) -> None:
    found = read(vmlinux(kernel(), machine))
    assert (facts(found), found.machine, found.page_shift) == (V4_FACTS, arch, shift)


# -- strings


def test_composite_strings_are_one_string_each() -> None:
    root, luo = b"kho-v4;radix-v1;vmalloc-v1", b"luo-v5;block-v1"
    found = read(vmlinux(kernel(strings=[root, luo, b"memfd-v2"])))
    assert (found.roots, found.luo) == ((root.decode(),), (luo.decode(),))


def test_an_abi_that_is_newer_than_the_program_is_listed() -> None:
    found = read(vmlinux(kernel(strings=[b"kho-v17", b"luo-v9", b"kvm_vm_luo_v1", b"memfd-v3"])))
    assert (found.roots, found.luo) == (("kho-v17",), ("luo-v9",))
    assert found.files == ("kvm_vm_luo_v1", "memfd-v3")


@pytest.mark.parametrize(
    "text",
    [
        b"xkho-v4\0",
        b"\0see kho-v4\0",
        b"\0kho-v4 is meant\0",
        b"\0kho-v\0",
        b"\0kho-v4;\0",
        b"\0kho-v4;;radix-v1\0",
        b"\0kho-v4\n\0",
        b"\0" + b"a" * 200 + b"kho-v4\0",
        b"\0kho-v4;" + b"radix-v1;" * 40 + b"\0",
    ],
)
def test_part_of_another_text_is_no_compatible_string(text: bytes) -> None:
    assert read(vmlinux(kernel(strings=[], more=text))).roots == ()


@pytest.mark.parametrize(
    ("release", "why"),
    [
        (b"6.1.0-50-amd64", "older than 6.16"),
        (b"6.15.9", "older than 6.16"),
        (b"6.16.0", "built without CONFIG_KEXEC_HANDOVER"),
        (b"7.3.4+deb13-amd64", "built without CONFIG_KEXEC_HANDOVER"),
    ],
)
def test_a_kernel_without_kho_is_said_to_have_none(release: bytes, why: str) -> None:
    found = read(vmlinux(kernel(release, [])))
    assert (found.roots, found.luo, found.files, found.why_no_kho) == ((), (), (), why)


# -- the table of features

TABLE = features((b"luo", 7, 3, 3), (b"memfd", 3, 2, 3))
ROWS = (Feature("luo", 7, 3, 3), Feature("memfd", 3, 2, 3))


def test_the_table_of_features_is_read_from_its_section() -> None:
    found = read(bzimage(packed(vmlinux(kernel(strings=[b"kho-v4"]), table=TABLE), "gzip")))
    assert (found.table, found.luo, found.files) == (ROWS, ("luo",), ("memfd",))
    assert (found.missing("luo", 0xF), found.missing("memfd", 2)) == (8, 0)


def test_the_table_of_features_is_found_in_an_image_without_sections() -> None:
    found = read(arm64_image(kernel(strings=[b"kho-v4"], more=TABLE)))
    assert (found.table, found.luo, found.files) == (ROWS, ("luo",), ("memfd",))


@pytest.mark.parametrize(
    "table",
    [
        b"",
        TABLE[:7],
        struct.pack("<II", 0x4C565550, 2) + TABLE[8:],
        struct.pack("<II", 0x4C565551, 1) + TABLE[8:],
        TABLE[:8] + bytes(160),
        TABLE[:8] + b"\x1b[31m" + TABLE[13:],
        TABLE[:87],
    ],
)
def test_a_table_of_features_that_is_none_gives_nothing(table: bytes) -> None:
    assert read(vmlinux(kernel(), table=table)).table == ()


# -- packages and directories


@pytest.mark.parametrize("compression", ["", "gzip", "xz", "zstd"])
@pytest.mark.parametrize("place", ["./boot/vmlinuz-7.3", "./usr/lib/modules/7.3/vmlinuz"])
def test_a_debian_package(compression: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "linux-image.deb"
    files = {"./boot/System.map-7.3": b"ffff T kho", place: vmlinux(kernel())}
    path.write_bytes(deb(files, compression))
    found = read_kernel(str(path))
    assert (facts(found), found.name) == (V4_FACTS, f"Linux 7.3.4-test ({Path(place).name})")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-kernel", "is a package without a kernel"),
        ("cut", "is a damaged package"),
        ("no-data", "is an archive, but no Debian package with data"),
        ("no-size", "is a damaged archive"),
    ],
)
def test_a_package_that_gives_no_kernel(name: str, words: str, tmp_path: Path) -> None:
    path, whole = tmp_path / "linux.deb", deb({"./boot/vmlinuz-7.3": vmlinux(kernel())}, "xz")
    path.write_bytes(
        {
            "no-kernel": deb({"./boot/config-7.3": b"y", "./usr/src/vmlinuz": b""}),
            "cut": whole[:-100],
            "no-data": whole[:80],
            "no-size": whole[:56] + b"-1        " + whole[66:],
        }[name]
    )
    with pytest.raises(UnreadableInputError, match=words):
        read_kernel(str(path))


@pytest.mark.parametrize("place", ["", "boot", "arch/x86/boot", "usr/lib/modules/7.3"])
def test_a_directory_that_holds_a_kernel(place: str, tmp_path: Path) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vmlinuz-7.3").write_bytes(vmlinux(kernel()))
    (folder / "vmlinux.lds").write_text("SECTIONS")
    (folder / "vmlinuz").symlink_to("vmlinuz-7.3")
    (folder / "vmlinuz.old").symlink_to("gone")
    assert facts(read_kernel(str(tmp_path))) == V4_FACTS


def test_a_directory_of_several_kernels_is_listed_and_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz-1").write_bytes(vmlinux(kernel()))
    (tmp_path / "vmlinuz-2").write_bytes(b"none")
    (tmp_path / "vmlinuz-3").write_bytes(vmlinux(kernel(b"7.0", [b"kho-v1"])))
    with pytest.raises(UnreadableInputError, match="holds 3 kernels: vmlinuz-1, vmlinuz-2"):
        read_kernel(str(tmp_path))
    first, second, third = read_kernels(str(tmp_path))
    assert isinstance(second, UnreadableInputError)
    assert [getattr(one, "release", None) for one in (first, third)] == ["7.3.4-test", "7.0"]


# -- what is no kernel, and what is made to harm


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0" * 2000, "is no kernel image"),
        (vmlinux(kernel(), kind=4), "is an ELF file, but no 64-bit"),
        (vmlinux(b"nothing"), "holds no kernel: there is no 'Linux version'"),
        (vmlinux(kernel())[:40], "is an ELF file that is cut short"),
        (bzimage(b""), "is a bzImage, but its payload is not all there"),
        (bzimage(packed(vmlinux(kernel()), "xz"))[:2300], "payload is not all there"),
        (bzimage(packed(vmlinux(kernel()), "xz"), version=0x207), "payload is not all there"),
        (bzimage(b"\x99" * 99), "is a bzImage, but what it holds is no kernel"),
        (bzimage(COMPRESSIONS["xz"](b"text")), "compressed with xz, but what it holds is no"),
        (zboot(b"\x99" * 99, b"odd"), "is an EFI zboot image, but what it holds is no kernel"),
    ],
)
def test_what_is_no_kernel_is_said(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableInputError, match=words):
        read(data)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_payload_that_is_cut_short_is_said(name: str) -> None:
    whole = COMPRESSIONS[name](vmlinux(kernel()))
    with pytest.raises(UnreadableInputError, match=f"the {name} payload is (cut short|damaged)"):
        read(bzimage(whole[: len(whole) * 2 // 3]))


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_bomb_ends_at_the_limit(name: str) -> None:
    data = memoryview(COMPRESSIONS[name](bytes(200 << 10)))
    method = find_method(bytes(data[:16]))
    assert method is not None
    assert len(unpack(data, method, "bomb", 200 << 10)) == 200 << 10
    with pytest.raises(UnreadableInputError, match="unpacks to more than 100 KiB"):
        unpack(data, method, "bomb", 100 << 10)


def test_compression_around_compression_ends() -> None:
    data = vmlinux(kernel())
    for _ in range(5):
        data = COMPRESSIONS["gzip"](data)
    with pytest.raises(UnreadableInputError, match="is packed again and again"):
        read(data)


WHOLE: tuple[Callable[[], bytes], ...] = (
    lambda: vmlinux(kernel(), table=TABLE),
    lambda: bzimage(packed(vmlinux(kernel()), "xz")),
    lambda: bzimage(packed(vmlinux(kernel()), "lzo")),
    lambda: bzimage(packed(vmlinux(kernel()), "lz4")),
    lambda: zboot(packed(arm64_image(kernel(), 1), "bzip2"), b"bzip2"),
    lambda: arm64_image(kernel(more=TABLE)),
    lambda: deb({"./boot/vmlinuz-7.3": vmlinux(kernel())}),
    lambda: deb({"./boot/vmlinuz-7.3": vmlinux(kernel())}, "gzip"),
)


@given(
    which=st.integers(0, len(WHOLE) - 1),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
    size=st.integers(0, 6000),
)
@settings(max_examples=300, deadline=None)
def test_a_damaged_file_gives_a_kernel_or_words(
    which: int, changes: list[tuple[int, int]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(WHOLE[which]())
    for at, value in changes:
        data[at % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(data[: size + 1]))
    (found,) = read_kernels(str(path))
    assert isinstance(found, KernelImage | UnreadableInputError)


# -- who can hand over to whom


def kernel_with(*strings: bytes, machine: int = 62, table: bytes | None = None) -> KernelImage:
    return read(vmlinux(kernel(strings=strings), machine, table))


LUO_7_0 = (b"kho-v1", b"luo-v1", b"luo-session-v2", b"memfd-v1")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (kernel_with(*LUO_7_0), kernel_with(*LUO_7_0), (Passing.YES, "")),
        (kernel_with(), kernel_with(*LUO_7_0), (Passing.NO, "the old one has no KHO")),
        (kernel_with(*LUO_7_0), kernel_with(), (Passing.NO, "the new one has no KHO")),
        (kernel_with(b"kho-v3"), kernel_with(b"kho-v4"), (Passing.NO, "refuses kho-v3")),
        (
            kernel_with(b"kho-v4;radix-v1"),
            kernel_with(b"kho-v4"),
            (Passing.NO, "refuses kho-v4;radix-v1"),
        ),
        (
            kernel_with(b"kho-v4"),
            kernel_with(b"kho-v4", machine=183),
            (Passing.NO, "x86_64 is not arm64"),
        ),
        (
            kernel_with(b"kho-v4", b"luo-v4"),
            kernel_with(b"kho-v4", b"luo-v5"),
            (Passing.NO, "panics on luo-v4"),
        ),
        (
            kernel_with(b"kho-v1", b"luo-v1", b"luo-session-v1"),
            kernel_with(*LUO_7_0),
            (Passing.NO, "panics on luo-session-v1"),
        ),
        (kernel_with(*LUO_7_0), kernel_with(b"kho-v1"), (Passing.PARTLY, "no LUO in the new one")),
        (
            kernel_with(*LUO_7_0),
            kernel_with(*LUO_7_0[:3], b"memfd-v2"),
            (Passing.PARTLY, "no memfd-v1 in the image"),
        ),
        (
            read(arm64_image(kernel(), 1)),
            read(arm64_image(kernel(), 2)),
            (Passing.NO, "page sizes differ"),
        ),
        (
            kernel_with(b"kho-v4", table=features((b"luo", 7, 7, 7))),
            kernel_with(b"kho-v4", table=features((b"luo", 3, 3, 3))),
            (Passing.NO, "lacks luo features 0x4"),
        ),
        (
            kernel_with(b"kho-v4", table=features((b"luo", 3, 3, 3), (b"memfd", 3, 1, 1))),
            kernel_with(b"kho-v4", table=features((b"luo", 7, 3, 3), (b"memfd", 2, 0, 0))),
            (Passing.PARTLY, "lacks memfd features 0x1"),
        ),
    ],
)
def test_who_can_hand_over_to_whom(
    old: KernelImage, new: KernelImage, expected: tuple[Passing, str]
) -> None:
    assert can_hand_over(old, new) == expected


# -- real kernels, where there are any

REAL = os.environ.get("KHO_KERNELS", "")
NONE: tuple[tuple[str, ...], ...] = ((), (), ())
V1 = (("kho-v1",), ("luo-v1",), ("memfd-v1",))
REAL_FACTS: dict[str, tuple[str, int, tuple[tuple[str, ...], ...]]] = {
    "linux-image-6.1.0-50-cloud-amd64-unsigned_*_amd64": ("x86_64", 12, NONE),
    "linux-binary-7.0.13+deb13-arm64_*_arm64": ("arm64", 12, NONE),
    "linux-binary-7.2.12+deb13-cloud-amd64_*_amd64": ("x86_64", 12, NONE),
    "linux-binary-7.3.4+deb13-arm64-16k_*_arm64": ("arm64", 14, NONE),
    "linux-binary-unsigned-7.3.4+deb13-amd64_*_amd64": ("x86_64", 12, NONE),
    "linux-image-unsigned-7.0.0-14-generic_*_amd64": ("x86_64", 12, V1),
    "linux-image-unsigned-7.0.0-14-generic_*_arm64": ("arm64", 12, V1),
    "linux-image-unsigned-7.0.0-14-generic-64k_*_arm64": ("arm64", 16, V1),
}
"""Packages of Debian, whose kernels are built without KHO, and of Ubuntu 26.04, with it."""


@pytest.mark.skipif(not REAL, reason="KHO_KERNELS names no directory with kernel packages")
@pytest.mark.parametrize("package", REAL_FACTS)
def test_a_real_package(package: str) -> None:
    paths = [*Path(REAL).glob(f"{package}.deb")]
    if not paths:
        pytest.skip(f"{package} is not there")
    found = read_kernel(str(paths[0]))
    strings = (found.roots, found.luo, found.files)
    assert (found.machine, found.page_shift, strings) == REAL_FACTS[package]
    assert found.release in package
