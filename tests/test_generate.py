"""The image generator of the benchmarks: what it writes is read back, and the C walker agrees."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kho_inspect.inspection import Options, inspect
from tests.bench import generate as generator
from tests.bench.generate import ABIS, PAGE_SHIFTS, PATTERNS, generate
from tests.bench.luo_image import luo_image
from tests.bench.maker import Maker
from tests.support.running import document, in_process

BENCH = Path(generator.__file__).parent
NODE_FAULTS = ("outside", "misaligned", "aliased", "cycle")


@pytest.fixture
def bits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the number of bits of each bitmap that is written."""
    counted: list[int] = []
    write = Maker.bitmap

    def bitmap(self: Maker, order: int, number: int, data: bytes) -> None:
        counted.append(int.from_bytes(data, "little").bit_count())
        write(self, order, number, data)

    monkeypatch.setattr(Maker, "bitmap", bitmap)
    return counted


@pytest.mark.parametrize("page_size", PAGE_SHIFTS)
@pytest.mark.parametrize("abi", ABIS)
def test_any_abi_and_page_size(abi: str, page_size: str, bits: list[int], tmp_path: Path) -> None:
    # kho-v2 with 16K pages cannot record order 0.
    order = 1 if (abi, page_size) == ("kho-v2", "16K") else 0
    shift = PAGE_SHIFTS[page_size]
    dump, dtb = generate(tmp_path, 5, order=order, shift=shift, compatible=abi)
    handover = inspect(str(dump), str(dtb), Options(page_size=page_size))
    assert handover.preserved.blocks == sum(bits)
    assert not [fault for fault in handover.faults if fault.kind.value != "order0-lost"]


@pytest.mark.parametrize("order", [0, 9, 18])
@pytest.mark.parametrize("pattern", [*PATTERNS, "mixed"])
def test_any_pattern_and_order(pattern: str, order: int, bits: list[int], tmp_path: Path) -> None:
    dump, dtb = generate(tmp_path, 3, pattern, order=order)
    handover = inspect(str(dump), str(dtb))
    assert handover.preserved.orders == ({order: sum(bits)} if sum(bits) else {})
    assert not handover.faults
    assert handover.source.declared[-1].end >= max(end for _, end in handover.preserved.extents())


def test_damage_is_reported_not_fatal_to_the_report(tmp_path: Path) -> None:
    dump, dtb = generate(tmp_path, 600, "runs", damage=3)
    assert in_process("show", dump, dtb).status == 1
    shown = document("show", dump, dtb)
    kinds = {fault["kind"] for fault in shown["faults"]}
    assert {"node-outside", "node-misaligned"} < kinds <= {f"node-{what}" for what in NODE_FAULTS}
    assert shown["preserved"]["blocks"] > 0


def test_a_luo_of_any_size_is_sound(tmp_path: Path) -> None:
    dump, dtb = luo_image(tmp_path, 41, 7)
    result = in_process("check", dump, dtb)
    assert result.status == 0
    assert result.stdout.startswith("✔ capture    complete\n✔ decision ")
    (blob,) = document("show", dump, dtb)["blobs"]
    files = blob["decoded"]["sessions"][0]["files"]
    assert [file["token"] for file in files] == list(range(41))


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_c_walker_counts_the_same(tmp_path: Path) -> None:
    program = str(tmp_path / "walker")
    subprocess.run(["cc", "-O2", "-Wall", "-o", program, str(BENCH / "walker.c")], check=True)
    dump, dtb = generate(tmp_path, 12, "random")
    tree = document("tree", dump, dtb)["tree"]
    done = subprocess.run(
        [program, str(dump), tree["root"], str(tree["levels"]), "52"],
        capture_output=True,
        text=True,
        check=True,
    )
    preserved = inspect(str(dump), str(dtb)).preserved
    ranges, size = len(preserved.merged[0]), preserved.bytes
    assert done.stdout == f"{preserved.blocks} blocks, {ranges} ranges, {size} bytes\n"
