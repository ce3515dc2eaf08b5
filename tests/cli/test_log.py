"""``log`` on the command line: which kernel, which lines, what of a hostile text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel_log.test_kernels import two
from tests.kernel_log.test_printk import made
from tests.support.builder import Image
from tests.support.cli import DTB, DUMP, REPO
from tests.support.kernel_builder import Kernel
from tests.support.running import document, in_process

LEFT = "kexec_core: Starting new kernel"


def write(image: Image, folder: Path) -> Path:
    path = folder / "dump.elf"
    image.write_elf(path, declare_ram=True)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Kernel, Kernel]:
    image, old, new = two(["old", LEFT], ["new", "KHO: disabling KHO revival"], same=False)
    return write(image, tmp_path), old, new


def test_lines_look_as_those_of_dmesg(tmp_path: Path) -> None:
    kernel = made()
    kernel.printk("first\n\ttwo lines", 1_234_567_890, 3)
    kernel.printk("later", 123_456_789_000_999, 7)
    path = write(kernel.image, tmp_path)
    plain = in_process("log", path)
    assert plain.stdout.splitlines() == [
        "[    1.234567] first",
        "[    1.234567] \ttwo lines",
        "[123456.789000] later",
    ]
    assert (plain.status, plain.stderr) == (0, "")
    assert in_process("log", path, "-x").stdout.splitlines()[::2] == [
        "kern  :err   : [    1.234567] first",
        "kern  :debug : [123456.789000] later",
    ]


def test_the_last_kernel_is_printed_and_the_others_are_named(
    pair: tuple[Path, Kernel, Kernel],
) -> None:
    result = in_process("log", pair[0])
    assert result.stdout.splitlines()[-1].endswith("KHO: disabling KHO revival")
    assert [line[:9] for line in result.stderr.splitlines()] == ["  1 7.1.1", "▶ 2 7.3.4"]


@pytest.mark.parametrize("wanted", ["1", "7.1.13"])
def test_another_kernel_is_printed_when_it_is_named(
    pair: tuple[Path, Kernel, Kernel], wanted: str
) -> None:
    assert in_process("log", pair[0], "--kernel", wanted).stdout.splitlines()[-1].endswith(LEFT)


def test_a_kernel_is_named_by_its_build_id(pair: tuple[Path, Kernel, Kernel]) -> None:
    result = in_process("log", pair[0], "--kernel", pair[2].build_id[:12])
    assert "KHO: disabling KHO revival" in result.stdout


def test_a_kernel_that_is_not_there_is_a_wrong_argument(pair: tuple[Path, Kernel, Kernel]) -> None:
    result = in_process("log", pair[0], "--kernel", "6.18")
    assert (result.status, result.stdout) == (2, "")
    assert "1: 7.1.13, 2: 7.3.4" in " ".join(result.stderr.split())


def test_kho_keeps_its_lines_and_says_what_they_mean(pair: tuple[Path, Kernel, Kernel]) -> None:
    lines = in_process("log", pair[0], "--kho").stdout.splitlines()
    assert [line.strip() for line in lines] == [
        "[    0.001000] KHO: disabling KHO revival",
        "→ refused: the kernel boots without the handover",
    ]


def test_json_has_every_record(pair: tuple[Path, Kernel, Kernel]) -> None:
    found = document("log", pair[0])
    assert [
        (one["seq"], round(one["seconds"] * 1e9), one["level"], one["text"].encode())
        for one in found["entries"]
    ] == pair[2].live
    assert found["entries"][-1]["outcome"] == "refused"
    assert found["kernel"] == 1
    assert [(one["release"], one["order"]) for one in found["kernels"]] == [
        ("7.1.13", 1),
        ("7.3.4", 2),
    ]


def test_locate_names_the_kernels(pair: tuple[Path, Kernel, Kernel]) -> None:
    kernels = document("locate", pair[0])["kernels"]
    assert [(one["release"], one["build_id"], one["order"]) for one in kernels] == [
        ("7.1.13", pair[1].build_id, 1),
        ("7.3.4", pair[2].build_id, 2),
    ]
    assert kernels[1]["version"] == pair[2].banner
    assert kernels[1]["command_line"] == "console=ttyS0 kho=on"
    assert kernels[1]["architecture"] == "x86_64"
    text = in_process("locate", pair[0]).stdout
    assert "kernel 1 7.1.13" in text and "boot 2" in text


def test_without_a_root_fdt_the_kernels_come_first_then_what_else_there_is(
    pair: tuple[Path, Kernel, Kernel],
) -> None:
    result = in_process("locate", pair[0])
    lines = result.stdout.splitlines()
    assert (result.status, lines[0].startswith("kernel 1 7.1.13")) == (3, True)
    text = " ".join(result.stdout.split())
    assert text.index("kernel 2 7.3.4") < text.index("no KHO root FDT in")
    assert text.endswith(
        "try log prints what its kernels said; carve looks for files by their contents"
    )
    assert "without it log prints what kernels said" in in_process("check", pair[0]).stderr


def test_no_text_of_a_log_reaches_the_terminal_unescaped(tmp_path: Path) -> None:
    kernel = made()
    kernel.boot("\x1b[2J\u202e evil", "KHO: \x07bell")
    path = write(kernel.image, tmp_path)
    for options in ([], ["-x"], ["--kho"]):
        shown = in_process("log", path, *options).stdout
        assert not any(char in shown for char in "\x1b\u202e\x07")
    assert "\\x1b[2J\\u202e evil" in in_process("log", path).stdout
    assert in_process("locate", path).stdout.isprintable() is False  # lines, and nothing else
    assert "\x1b" not in in_process("locate", path).stdout


def test_carved_records_are_marked(tmp_path: Path) -> None:
    kernel = made(count_bits=8)
    kernel.boot(*(f"line {number}" for number in range(40)))
    kernel.place(kernel.descs + 20 * kernel.desc_size, b"\xa5" * kernel.desc_size)
    path = write(kernel.image, tmp_path)
    result = in_process("log", path)
    assert [line for line in result.stdout.splitlines() if "(carved)" in line] == [
        "[    0.017000] (carved) line 17"
    ]
    assert "43 records, 1 of them carved" in result.stderr


def test_a_dump_without_a_kernel_has_no_log() -> None:
    result = in_process("log", REPO / DUMP)
    assert (result.status, result.stdout) == (3, "")
    assert "no kernel log" in result.stderr


@pytest.mark.parametrize("command", ["check", "show", "owners"])
def test_a_dump_without_a_kernel_costs_no_import_of_the_log(command: str) -> None:
    code = (
        "import sys; from kho_inspect.cli.main import run\n"
        f"run(['{command}', '{DUMP}', '{DTB}'])\n"
        "print(sorted(name for name in sys.modules if name.startswith('kho_inspect.kernel_log.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "['kho_inspect.kernel_log.traces']"
