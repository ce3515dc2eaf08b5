"""``check --target`` with kernel images, and ``targets``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.test_golden import GOLDEN
from tests.decoders.test_pairings import PAIRINGS, rich
from tests.support.builder import Image
from tests.support.cli import DTB, DUMP, kho_inspect
from tests.support.kernel_images import (
    V4,
    arm64_image,
    bzimage,
    deb,
    features,
    kernel,
    packed,
    vmlinux,
)
from tests.support.luo_builder import File, Session, luo_v5
from tests.support.running import document, in_process, save

COMPOSITE = (b"kho-v4;radix-v1;vmalloc-v1", b"luo-v5;block-v1", b"memfd-v2")
BZIMAGES = {
    "v4": V4,
    "composite": COMPOSITE,
    "other-luo": (b"kho-v4", b"luo-v6", b"memfd-v2"),
    "no-luo": (b"kho-v4", b"memblock-v1"),
    "no-memfd": (b"kho-v4", b"luo-v5"),
    "v3": (b"kho-v3", b"luo-v1", b"memfd-v2"),
    "none": (),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    for name, strings in BZIMAGES.items():
        text = kernel(b"7.3.4-" + name.encode(), strings)
        (folder / f"vmlinuz-{name}").write_bytes(bzimage(packed(vmlinux(text), "xz")))
    for pages in (1, 2, 3):
        (folder / f"Image-{pages}").write_bytes(arm64_image(kernel(), pages))
    table = features((b"luo", 7, 3, 3), (b"memfd", 3, 2, 2))
    (folder / "vmlinux-features").write_bytes(vmlinux(kernel(strings=COMPOSITE[:1]), table=table))
    return folder


@pytest.fixture(scope="module")
def handovers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    made: dict[str, tuple[Path, Path]] = {}
    for name in PAIRINGS:
        image: Image = rich(PAIRINGS[name])[0]
        folder = tmp_path_factory.mktemp("handover")
        made[name] = save(image, folder, image.finish())
    return made


PLAIN = "7.2 and 7.3"


@pytest.mark.parametrize(
    ("target", "state", "codes"),
    [
        ("vmlinuz-v4", "accepts", []),
        ("vmlinuz-composite", "refuses", ["KHO105"]),
        ("vmlinuz-other-luo", "panics", ["KHO502"]),
        ("vmlinuz-no-luo", "accepts", ["KHO116"]),
        ("vmlinuz-no-memfd", "accepts", ["KHO513"]),
        ("vmlinuz-v3", "refuses", ["KHO105"]),
        ("vmlinuz-none", "refuses", ["KHO105"]),
        ("Image-1", "accepts", []),
        ("Image-2", "unknown", ["KHO117"]),
        ("Image-3", "unknown", ["KHO117"]),
    ],
)
def test_the_decision_of_a_kernel_image(
    target: str,
    state: str,
    codes: list[str],
    kernels: Path,
    handovers: dict[str, tuple[Path, Path]],
) -> None:
    found = document("check", *handovers[PLAIN], "--target", kernels / target)
    assert found["decision"]["state"] == state
    assert f"({target})" in found["decision"]["target"]
    seen = {one["code"] for one in found["findings"] if one["severity"] in ("error", "fatal")}
    assert seen == set(codes)
    status = in_process("check", *handovers[PLAIN], "--target", kernels / target).status
    assert status == (1 if codes else 0)


@pytest.mark.parametrize(
    ("handover", "target", "state"),
    [
        ("composite", "vmlinuz-composite", "accepts"),
        ("composite", "vmlinuz-v4", "refuses"),
        ("composite LUO alone", "vmlinuz-v4", "panics"),
        ("features, composite root", "vmlinux-features", "accepts"),
        ("features, composite root", "vmlinuz-composite", "panics"),
        ("composite", "vmlinux-features", "panics"),
        ("7.1", "vmlinuz-v3", "accepts"),
    ],
)
def test_the_decision_on_composite_strings_and_features(
    handover: str, target: str, state: str, kernels: Path, handovers: dict[str, tuple[Path, Path]]
) -> None:
    found = document("check", *handovers[handover], "--target", kernels / target)
    assert found["decision"]["state"] == state


def test_a_kernel_that_lacks_a_required_feature_panics(
    tmp_path: Path, handovers: dict[str, tuple[Path, Path]]
) -> None:
    path = tmp_path / "vmlinux"
    table = features((b"luo", 5, 1, 1), (b"memfd", 3, 2, 2))
    path.write_bytes(vmlinux(kernel(strings=COMPOSITE[:1]), table=table))
    found = document("check", *handovers["features, composite root"], "--target", path)
    assert found["decision"]["state"] == "panics"
    assert [reason[:6] for reason in found["decision"]["reasons"]] == ["KHO502"]


def test_a_handler_that_a_module_may_bring_is_a_warning(tmp_path: Path) -> None:
    image = Image()
    luo_v5(image, [Session(b"vm", [File(1, compatible=b"vfio-pci-v1", data=0)])])
    files = save(image, tmp_path, image.finish())
    (tmp_path / "vmlinux").write_bytes(vmlinux(kernel()))
    found = document("check", *files, "--target", tmp_path / "vmlinux")["findings"]
    assert ("KHO513", "warning") in [(one["code"], one["severity"]) for one in found]


def test_a_kernel_without_kho_boots_without_the_data(kernels: Path) -> None:
    result = kho_inspect("check", DUMP, DTB, "--target", kernels / "vmlinuz-none", columns=200)
    assert result.status == 1
    assert "Linux 7.3.4-none (vmlinuz-none) refuses it: KHO105" in result.stdout
    assert "has no KHO (built without CONFIG_KEXEC_HANDOVER): it boots without" in result.stdout


def test_a_package_and_a_directory_are_targets(
    tmp_path: Path, handovers: dict[str, tuple[Path, Path]]
) -> None:
    (tmp_path / "linux.deb").write_bytes(deb({"./boot/vmlinuz-7.3": vmlinux(kernel())}, "xz"))
    (tmp_path / "root" / "boot").mkdir(parents=True)
    (tmp_path / "root" / "boot" / "vmlinuz-7.3").write_bytes(vmlinux(kernel()))
    for target in ("linux.deb", "root"):
        found = document("check", *handovers[PLAIN], "--target", tmp_path / target)
        assert found["decision"] == {
            "state": "accepts",
            "target": "Linux 7.3.4-test (vmlinuz-7.3)",
            "reasons": [],
        }


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        (DTB, 3, "is no kernel image"),
        (DUMP, 3, "is an ELF file, but no 64-bit little-endian vmlinux"),
        ("samples", 3, "is a directory without a kernel"),
        ("no/such/file", 2, "is no kernel image and no kernel or ABI that is known"),
        ("a" * 5000, 2, "is no kernel image and no kernel or ABI that is known"),
    ],
)
def test_a_target_that_is_no_kernel(target: str, status: int, words: str) -> None:
    result = kho_inspect("check", DUMP, DTB, "--target", target)
    assert (result.status, result.stdout) == (status, "")
    assert words in result.stderr


# -- targets


def test_what_kernels_accept_and_who_can_hand_over(kernels: Path) -> None:
    names = ["vmlinuz-v3", "vmlinuz-v4", "vmlinuz-no-memfd", "vmlinuz-none", "Image-2"]
    args = ["targets", *names, "vmlinux-features", "linux-7.1"]
    result = kho_inspect(*args, cwd=kernels)
    assert (result.status, result.stderr) == (0, "")
    check_golden("targets", args, result.stdout)


def test_targets_as_json(kernels: Path) -> None:
    args = ["targets", "vmlinuz-no-memfd", "vmlinuz-v4", "vmlinux-features", "--json"]
    result = kho_inspect(*args, cwd=kernels)
    assert (result.status, result.stderr) == (0, "")
    check_golden("targets-json", args, result.stdout)


def check_golden(name: str, args: list[str], stdout: str) -> None:
    seen = f"$ kho-inspect {' '.join(args)}\n{stdout}$ echo $?\n0\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("KHO_UPDATE_GOLDEN"):
        path.write_text(seen)
    assert seen == path.read_text()


def test_one_that_cannot_be_read_does_not_hide_the_others(kernels: Path, tmp_path: Path) -> None:
    bad = tmp_path / "vmlinuz\x1b[31m"
    bad.write_bytes(b"none")
    result = kho_inspect("targets", bad, kernels / "vmlinuz-v4", tmp_path / "gone")
    assert result.status == 3
    assert "7.3.4-v4" in result.stdout
    assert "vmlinuz\\x1b[31m is no kernel image" in result.stderr
    assert "cannot open" in result.stderr
    found = in_process("targets", bad, "linux-7.1", "--json")
    assert found.status == 3
    assert [one["name"] for one in json.loads(found.stdout)["kernels"]] == ["linux-7.1"]


def test_targets_of_nothing_is_a_usage_error() -> None:
    assert in_process("targets").status == 2
