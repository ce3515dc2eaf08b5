"""Which kernels a dump has, who booted whom, and what their lines mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from kho_inspect.kernel_log.kernels import find_kernels, scan_traces
from kho_inspect.kernel_log.messages import MESSAGES, Outcome, known_message, of_handover
from kho_inspect.memory import open_memory
from tests.kernel_log.test_printk import PHYS, RAM, kernels_of, made
from tests.support.builder import Image
from tests.support.captures import HOME, unpack
from tests.support.dump_files import Segment, write_elf
from tests.support.kdump_writer import write_kdump
from tests.support.kernel_builder import PAGINGS, Kernel

WENT_WRONG = HOME.parent / "went-wrong"
NEW_ID = "65ef4ec9b8ffd6c8e535f1f0e069c2447ebc859f"
X86 = PAGINGS["x86-64"]


def two(
    first: list[str], second: list[str], *, same: bool = True, keep: bool = False
) -> tuple[Image, Kernel, Kernel]:
    """Two boots in one memory, the first without VMCOREINFO unless it is to ``keep`` it."""
    image = Image(12, ram=RAM)
    release, built = ("7.3.4", "#1 SMP of today") if same else ("7.1.13", "#7 SMP of old")
    build_id = NEW_ID if same else "0123456789" * 4
    old = Kernel(image, X86, PHYS, release, built, build_id, static=True)
    old.boot(*first)
    if not keep:
        for page in old.texts_at:
            image.pages.pop(page)
    new = Kernel(image, X86, PHYS + (64 << 20), built="#1 SMP of today", build_id=NEW_ID)
    new.boot(*second)
    return image, old, new


@pytest.mark.parametrize("same", [True, False], ids=["of one build", "of two builds"])
def test_the_kernel_before_is_found_without_its_vmcoreinfo(same: bool) -> None:
    image, old, new = two(
        ["kexec_core: Starting new kernel"], ["KHO: disabling KHO revival"], same=same
    )
    first, second = kernels_of(image)
    for found, made_by, order in ((first, old, 1), (second, new, 2)):
        assert [one.text.encode() for one in found.entries] == [one.text for one in made_by.live]
        assert (found.order, found.version) == (order, made_by.banner)
    assert (first.info, first.build_id) == (None, old.build_id)
    assert second.command_line == "console=ttyS0 kho=on"


def test_a_build_id_is_not_guessed_where_two_images_may_be_meant() -> None:
    image, old, _ = two(["kexec_core: Starting new kernel"], ["new"], same=False)
    note = image.read(old.image_phys + 0x3A004, 64)
    image.write(old.image_phys - (1 << 20), note[:40] + bytes(range(20)))
    assert kernels_of(image)[0].build_id is None


def test_a_wrapped_ring_of_another_boot_of_the_build_is_found() -> None:
    image, old, _ = two(
        [f"line {number}" for number in range(200)] + ["kexec_core: Starting new kernel"], ["new"]
    )
    first, second = kernels_of(image)
    assert old.live[0].seq > 100
    assert [one.seq for one in first.entries] == [one.seq for one in old.live]
    assert (first.version, first.order, second.order) == (old.banner, 1, 2)


def test_the_count_of_kexec_metadata_gives_the_order() -> None:
    image, *_ = two(
        ["KHO: exec from: 7.0.1 (count 4)"], ["KHO: exec from: 7.1.13 (count 5)"], same=False
    )
    assert [(one.order, one.release) for one in kernels_of(image)] == [(1, "7.1.13"), (2, "7.3.4")]


@pytest.mark.parametrize("line", ["kexec_core: Starting new kernel", "nothing that tells"])
def test_two_that_the_logs_do_not_tell_apart_have_no_order(line: str) -> None:
    image, *_ = two([line], [line], same=False)
    assert [one.order for one in kernels_of(image)] == [None, None]


def test_both_vmcoreinfos_make_two_kernels_and_copies_make_none() -> None:
    image, old, _ = two(["kexec_core: Starting new kernel"], ["on"], same=False, keep=True)
    image.write(image.alloc(2), old.note())
    found = kernels_of(image)
    assert [(one.release, one.order, one.info is None) for one in found] == [
        ("7.1.13", 1, False),
        ("7.3.4", 2, False),
    ]


def test_the_static_ring_that_was_left_behind_is_no_kernel() -> None:
    image = Image(12, ram=RAM)
    early = Kernel(image, X86, PHYS, static=True)
    early.boot("early")
    for page in early.texts_at:
        image.pages.pop(page)
    late = Kernel(image, X86, PHYS + (64 << 20))
    late.boot("early", "late")
    (found,) = kernels_of(image)
    assert found.entries[-1].text == "late"


def test_an_image_that_never_ran_is_named_without_a_log() -> None:
    kernel = made()
    kernel.boot("line")
    image = kernel.image
    image.write(image.alloc(), b"Linux version 7.9.9 (a@b) (gcc) #3 SMP never\n\0")
    ran, waiting = kernels_of(image)
    assert (ran.release, ran.order) == ("7.3.4", None)
    assert (waiting.release, waiting.entries, waiting.order) == ("7.9.9", (), None)


@pytest.mark.parametrize("form", ["elf", "kdump"])
def test_vmcoreinfo_is_taken_from_the_notes_of_the_file(form: str, tmp_path: Path) -> None:
    kernel = made()
    kernel.boot("line")
    for page in kernel.texts_at:
        kernel.image.pages.pop(page)
    path = tmp_path / "dump"
    if form == "elf":
        segments = [Segment(paddr, data) for paddr, data in kernel.image.runs()]
        write_elf(path, segments, note=kernel.note())
    else:
        pages = {paddr >> 12: bytes(data) for paddr, data in kernel.image.pages.items()}
        write_kdump(path, pages, vmcoreinfo=kernel.vmcoreinfo().encode())
    memory = open_memory(str(path))
    (found,) = find_kernels(memory, scan_traces(memory))
    assert [one.text.encode() for one in found.entries] == [one.text for one in kernel.live]
    assert found.info is not None and found.info.paddr is None


# -- what lines mean

ABI_9 = {
    "KHO: setup: handover FDT (0x4d1000) is incompatible with 'kho-v4': 1": Outcome.REFUSED,
    "KHO: disabling KHO revival": Outcome.REFUSED,
    "KHO: failed to get preserved memory map": Outcome.REFUSED,
    "KHO: broken KHO subnode 'LUO': missing or invalid blob-size property": Outcome.LOST,
    "luo: failed to retrieve LUO state 'LUO' from KHO: -EINVAL": Outcome.PANICKED,
    "luo: LUO state is incompatible with 'luo-v5'": Outcome.PANICKED,
    "luo: LUO state is too small (8 < 32)": Outcome.PANICKED,
    "KHO: Failed to reserve lowmem scratch buffer": Outcome.OFF,
    "KHO: Failed to reserve global scratch buffer": Outcome.OFF,
    "KHO: Failed to reserve nid 3 scratch buffer": Outcome.OFF,
    "KHO: Failed to reserve scratch area, disabling kexec handover": Outcome.OFF,
    "Kernel panic - not syncing: The incoming tree failed to initialize properly [-22], disabling "
    "live update": Outcome.PANICKED,
    "test_kho: KHO restore succeeded": Outcome.ACCEPTED,
    "test_kho: KHO restore failed": Outcome.LOST,
    "KHO: exec from: 7.1.13 (count 1)": Outcome.INFO,
    "KHO: Failed to extend scratch: -ENOMEM": Outcome.WARNING,
    "KHO: disabled in the kdump kernel": Outcome.OFF,
    "KHO: scratch areas: lowmem: 16MiB global: 16MiB pernode: 16MiB": Outcome.INFO,
    "KHO: scratch scale is 200%": Outcome.INFO,
}


@pytest.mark.parametrize("line", ABI_9)
def test_every_message_worth_finding_is_known(line: str) -> None:
    known = known_message(line)
    assert known is not None
    assert known.outcome is ABI_9[line]
    assert of_handover(line)


def test_no_known_message_hides_another() -> None:
    assert len({one.pattern.pattern for one in MESSAGES}) == len(MESSAGES)
    assert all(one.meaning and not one.pattern.match("") for one in MESSAGES)


@pytest.mark.parametrize("line", ["Command line: kho=on", "systemd[1]: KHO: hi", "luopan: x", ""])
def test_lines_of_others_are_none_of_the_handover(line: str) -> None:
    assert not of_handover(line)


# -- real dumps: what the kernels printed on their console


@pytest.mark.parametrize(
    ("name", "releases"), [("late-v3", ["7.1.13"] * 2), ("refused-v4-by-7.1", ["7.3.4", "7.1.13"])]
)
def test_the_logs_are_what_both_kernels_printed(
    name: str, releases: list[str], tmp_path: Path
) -> None:
    folder = WENT_WRONG / name
    if not folder.is_dir():
        pytest.skip(f"no dump at {folder}: set KHO_CAPTURES to the folder of captures beside it")
    unpack(folder / "dump.raw.xz", tmp_path / "dump.raw")
    memory = open_memory(str(tmp_path / "dump.raw"))
    found = find_kernels(memory, scan_traces(memory))
    assert [(one.release, one.order, one.lost) for one in found] == [
        (release, order, 0) for order, release in enumerate(releases, 1)
    ]
    known = {
        "7.1.13": "65ef4ec9b8ffd6c8e535f1f0e069c2447ebc859f",
        "7.3.4": "96962a22dc63d1c9b4e08bc3ad9136d7f04314ff",
    }
    assert [one.build_id for one in found] == [known[release] for release in releases]
    serial = (folder / "serial.txt").read_text().replace("\r", "")
    boots = [f"Linux version{part}".splitlines() for part in serial.split("\nLinux version")]
    boots[0][0] = boots[0][0].removeprefix("Linux version")
    for kernel, printed in zip(found, boots, strict=True):
        # The console shows no debug messages; programs write to it too.
        shown = [one for one in kernel.entries if (one.level or 0) < 7]
        lines = [line for one in shown for line in one.text.split("\n")]
        assert not any(one.carved for one in kernel.entries)
        assert [line for line in printed if line in set(lines)] == lines
        others = [line for line in printed if line not in set(lines)]
        programs = (
            "CMDLINE ",
            "TXT ",
            "STAGE ",
            "LUO fd",
            "SESSION ",
            "PRESERVE ",
            "KEXEC_LOAD ",
            "FW ",
        )
        assert [
            one for one in others if one not in ("g", "") and not one.startswith(programs)
        ] == []
