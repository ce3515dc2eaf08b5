"""``--live`` on synthetic kcore and debugfs trees."""

from __future__ import annotations

import errno
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kho_inspect import inspection
from kho_inspect.cli.main import COMMANDS
from kho_inspect.errors import NotAHandoverError
from kho_inspect.inspection import Options, inspect
from kho_inspect.memory.kcore import open_kcore
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.cli import DTB, DUMP, OUT_DTB, REPO, Result
from tests.support.luo_builder import File, Session, kho_test, luo_v5, memfd, metadata, pattern, u64
from tests.support.running import document, in_process

NOT_SERIALIZED = "LUO is not serialized yet: its sessions cannot be judged"
COMMAND_LINE = "BOOT_IMAGE=/boot/vmlinuz root=/dev/vda1 kho=on"
SCRATCH = (48 << 20, 16 << 20)
"""Address and size of an area that the images below leave free."""


def write_kcore(elf: Path, kcore: Path) -> None:
    """An ELF core as /proc/kcore lays memory out: with segments that are virtual only."""
    data = elf.read_bytes()
    phnum = struct.unpack_from("<H", data, 56)[0]
    table = data[64 : 64 + 56 * phnum]
    shift = 56 * 2
    loads = b""
    for at in range(0, len(table), 56):
        kind, flags, offset, *rest = struct.unpack_from("<IIQQQQQQ", table, at)
        loads += struct.pack("<IIQQQQQQ", kind, flags, offset + shift, *rest)
    vmalloc = struct.pack("<IIQ2Q3Q", 1, 7, 64, 0xFFFFC90000000000, 2**64 - 1, 1 << 20, 1 << 20, 0)
    head = bytearray(data[:64])
    head[56:58] = struct.pack("<H", phnum + 2)
    kcore.write_bytes(bytes(head) + vmalloc + loads + vmalloc + data[64 + 56 * phnum :])


@dataclass(frozen=True)
class Machine:
    """The files of a running kernel."""

    folder: Path

    @property
    def kcore(self) -> Path:
        return self.folder / "proc" / "kcore"

    @property
    def debugfs(self) -> Path:
        return self.folder / "debug"

    @property
    def out(self) -> Path:
        return self.debugfs / "kho" / "out"

    @property
    def options(self) -> tuple[str | Path, ...]:
        return "--kcore", self.kcore, "--debugfs", self.debugfs

    def write(self, name: str, content: str | bytes) -> None:
        """A file below the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def remember(self, image: Image) -> None:
        """Make the image the memory."""
        elf = self.folder / "memory.elf"
        image.write_elf(elf, declare_ram=True)
        write_kcore(elf, self.kcore)
        elf.unlink()

    def areas(self, *areas: tuple[int, int], name: str = "scratch") -> None:
        """``out/scratch_phys`` and ``out/scratch_len``."""
        for which, numbers in zip(("phys", "len"), zip(*areas, strict=True), strict=True):
            lines = "".join(f"0x{number:x}\n" for number in numbers)
            self.write(f"debug/kho/out/{name}_{which}", lines)

    def check(self, *args: str | Path) -> Result:
        """The pre-flight."""
        return in_process("check", *self.options, *args)

    def document(self, *args: str | Path) -> dict[str, Any]:
        """Of the pre-flight."""
        return document("check", *self.options, *args)

    def refusal(self, *args: str | Path) -> str:
        """What is said where nothing can be judged: on stderr, and in the JSON document."""
        result = self.check(*args)
        assert (result.status, result.stdout) == (3, "")
        found = json.loads(self.check(*args, "--json").stdout)
        assert found["decision"]["state"] == "unknown"
        assert found["error"]["message"] == found["capture"]["reasons"][0]
        assert found["error"]["message"] in result.stderr
        return " ".join(result.stderr.split())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A kernel that was handed the sample's handover: no KHO but that."""
    made = Machine(tmp_path)
    made.write("proc/cmdline", COMMAND_LINE + "\n")
    made.write("debug/kho/in/fdt", (REPO / DTB).read_bytes())
    made.write("debug/kho/out/fdt", (REPO / OUT_DTB).read_bytes())
    write_kcore(REPO / DUMP, made.kcore)
    return made


def outgoing(serialized: bool, image: Image | None = None) -> tuple[Image, bytes, bytes]:
    """What 7.3 has ready: memory, root FDT, and the root FDT as it was at boot."""
    image = image or Image()
    metadata(image, b"7.3.4", 1)
    at_boot = image.root_fdt()
    kho_test(image, [(0, pattern(4096, 1)), (1, pattern(8192, 2))])
    file = File(7, memfd(image, pattern(6 * 4096, 3)))
    luo_v5(image, [Session(b"vm", [file])] if serialized else [], serialized=serialized)
    whole = image.finish()
    # debugfs has the first bytes, up to the size at boot, of the FDT as it is now.
    return image, whole, whole[: len(at_boot)]


@pytest.fixture
def ready(tmp_path: Path) -> Machine:
    """7.3 before the jump: it holds a memfd in a session, which LUO has not serialized."""
    return ready_machine(tmp_path, serialized=False)


def ready_machine(folder: Path, *, serialized: bool) -> Machine:
    """7.3, before the jump or at it."""
    made = Machine(folder)
    image, _, cut = outgoing(serialized)
    made.write("proc/cmdline", f"{COMMAND_LINE} kho_scratch=16M,0,0\n")
    made.write("debug/kho/out/fdt", cut)
    made.areas(SCRATCH)
    made.remember(image)
    return made


# -- pre-flight: each outcome, its words and status


def test_the_target_accepts_what_stands_ready(tmp_path: Path) -> None:
    machine = ready_machine(tmp_path, serialized=True)
    result = machine.check("--target", "linux-7.3", "--require", "all")
    assert (result.status, result.stderr) == (0, "")
    assert "✔ decision   linux-7.3 accepts it\n" in result.stdout
    assert "blocked" not in result.stdout
    found = machine.document("--target", "linux-7.3")["decision"]
    assert found == {"state": "accepts", "target": "linux-7.3", "reasons": []}


def test_the_target_refuses_what_stands_ready(ready: Machine) -> None:
    result = ready.check("--target", "kho-v3")
    assert result.status == 1
    assert "✘ decision   kho-v3 refuses it: KHO105\n    KHO105: " in result.stdout
    found = ready.document("--target", "kho-v3")["decision"]
    assert (found["state"], len(found["reasons"])) == ("refuses", 1)
    assert found["reasons"][0].startswith("KHO105: ")


def test_what_is_not_serialized_yet_is_said_and_the_rest_is_judged(ready: Machine) -> None:
    result = ready.check("--target", "linux-7.3")
    assert (result.status, result.stderr) == (0, "")
    assert f"✔ decision   linux-7.3 accepts it\n    {NOT_SERIALIZED}\n" in result.stdout
    found = ready.document("--target", "linux-7.3")
    assert found["decision"]["reasons"] == [NOT_SERIALIZED]
    blocked = {code for group in found["integrity"]["blocked"] for code in group["codes"]}
    # Sessions and files, and which of the preserved memory is nobody's.
    assert {"KHO308", "KHO508", "KHO513", "KHO514", "KHO521", "KHO528"} <= blocked
    assert not {"KHO105", "KHO303", "KHO502", "KHO517"} & blocked


def test_what_stands_is_damaged_whatever_is_not_serialized(ready: Machine) -> None:
    image, _, _ = outgoing(serialized=False)
    image.write_u64(image.nodes[0], 1 << 50)
    ready.remember(image)
    assert ready.check("--target", "linux-7.3", "--fail-on", "fatal").status == 1


@pytest.mark.parametrize("required", ["all", "KHO513"])
def test_what_is_required_cannot_be_judged_before_it_is_serialized(
    ready: Machine, required: str
) -> None:
    assert ready.check("--target", "linux-7.3", "--require", required).status == 4
    assert ready.check("--target", "linux-7.3", "--require", "KHO105").status == 0


@pytest.mark.parametrize(
    ("command_line", "words"),
    [
        ("root=/dev/vda1", "no Kexec HandOver, or kho=on is not on the command line try: boot"),
        ("kho=on kho=off", "kho=off on the command line switches it off try: boot with kho=on"),
        ("kho=0", "kho=0 on the command line switches it off"),
        ("kho=off kho=Y", "kho=Y is on the command line, so this kernel has no Kexec HandOver"),
        ("quiet -- kho=on", "or kho=on is not on the command line"),
        (None, "this kernel has no Kexec HandOver, or it is off"),
    ],
)
def test_a_kernel_without_kho_is_said(
    machine: Machine, command_line: str | None, words: str
) -> None:
    (machine.debugfs / "kho").rename(machine.debugfs / "bdi")
    if command_line is None:
        (machine.folder / "proc" / "cmdline").unlink()
    else:
        machine.write("proc/cmdline", command_line + "\n")
    said = machine.refusal("--target", "linux-7.3")
    assert f"{machine.debugfs} has no kho: " in said
    assert words in said
    assert "CONFIG_KEXEC_HANDOVER_DEBUGFS" in said


def test_debugfs_that_is_not_mounted_is_said(machine: Machine) -> None:
    (machine.folder / "empty").mkdir()
    for name in ("empty", "nowhere"):
        result = in_process("check", "--kcore", machine.kcore, "--debugfs", machine.folder / name)
        assert result.status == 3
        assert "debugfs is not mounted at" in result.stderr
        assert "try: mount -t debugfs" in result.stderr


def test_no_permission_to_look_into_debugfs_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "iterdir", _not_permitted)
    said = machine.refusal("--target", "linux-7.3")
    assert f"cannot look into {machine.debugfs}: Permission denied" in said
    assert "run it as root: sudo kho-inspect" in said


@pytest.mark.parametrize("file", ["proc/kcore", "debug/kho/out/fdt", "debug/kho/out/scratch_phys"])
@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.EACCES, "run it as root: sudo"), (errno.EPERM, "kernel lockdown forbids it")],
)
def test_no_permission_to_read_is_told_from_lockdown(
    ready: Machine, monkeypatch: pytest.MonkeyPatch, file: str, number: int, hint: str
) -> None:
    path, real = str(ready.folder / file), os.open

    def refuse(at: str, *args: Any, **named: Any) -> int:
        if at == path:
            raise OSError(number, os.strerror(number), at)
        return real(at, *args, **named)

    monkeypatch.setattr(os, "open", refuse)
    said = ready.refusal("--target", "linux-7.3")
    assert f"cannot read {path}: {os.strerror(number)}" in said
    assert hint in said


def test_lockdown_that_shows_at_the_first_read_is_said(
    ready: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "pread", refuse)
    assert "kernel lockdown forbids it" in ready.refusal("--target", "linux-7.3")


@pytest.mark.parametrize("evidence", ["cmdline", "vmcore"])
@pytest.mark.parametrize("debugfs", ["mounted", "not mounted", "not permitted"])
def test_a_kdump_kernel_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, evidence: str, debugfs: str
) -> None:
    kho = machine.debugfs / "kho"
    if debugfs == "not permitted":
        monkeypatch.setattr(Path, "iterdir", _not_permitted)
    else:
        kho.rename(machine.debugfs / "bdi" if debugfs == "mounted" else machine.folder / "gone")
    if evidence == "cmdline":
        machine.write("proc/cmdline", f"{COMMAND_LINE} elfcorehdr=0x7f000000\n")
    else:
        machine.write("proc/vmcore", b"\x7fELF")
    said = machine.refusal("--target", "linux-7.3")
    assert "this is a kdump kernel (" in said
    assert "KHO is disabled in it" in said
    assert f"handover is in {machine.folder / 'proc/vmcore'}: copy it" in said


def _not_permitted(path: Path) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_a_handover_that_stands_ready_is_judged_in_spite_of_vmcore(ready: Machine) -> None:
    ready.write("proc/vmcore", b"")
    assert ready.check("--target", "linux-7.3").status == 0


def test_nothing_at_all_is_said(machine: Machine) -> None:
    for name in ("in", "out"):
        (machine.debugfs / "kho" / name / "fdt").unlink()
    assert "neither in/fdt nor out/fdt" in machine.refusal()


def test_no_kcore_is_said(machine: Machine) -> None:
    machine.kcore.unlink()
    assert "CONFIG_PROC_KCORE" in machine.refusal()


# -- what is read


def test_live_reads_like_the_dump(machine: Machine) -> None:
    for command in ("show", "check", "owners", "ranges"):
        live = document(command, *machine.options, "--incoming")
        dump = document(command, str(REPO / DUMP), str(REPO / DTB))
        assert {**live, "source": None} == {**dump, "source": None}


@pytest.mark.parametrize("name", ["scratch", "bootmem"])
def test_scratch_areas_are_those_of_debugfs(ready: Machine, name: str) -> None:
    image, _, _ = outgoing(serialized=False)
    (ready.out / "scratch_phys").unlink()
    (ready.out / "scratch_len").unlink()
    ready.areas((image.fdt_paddr, image.page_size), SCRATCH, name=name)
    ready.write("proc/cmdline", f"kho=on kho_{name}=1M kho_{name}=4M,16M,0\n")
    found = ready.document("--target", "linux-7.3")
    overlaps = [one for one in found["findings"] if one["code"] == "KHO303"]
    assert [one["paddr"] for one in overlaps] == [hex(image.fdt_paddr)]
    scratch = inspect(str(ready.kcore), str(ready.debugfs), Options(live=True)).scratch
    assert scratch is not None
    assert scratch.source == f"debugfs {name}_phys kho_{name}=4M,16M,0"
    assert scratch.entries == ((image.fdt_paddr, image.page_size), SCRATCH)


def test_given_scratch_areas_come_before_those_of_debugfs(ready: Machine) -> None:
    ready.areas((1 << 20, 64 << 20))
    assert ready.check("--target", "linux-7.3").status == 1
    assert ready.check("--target", "linux-7.3", "--scratch", "0x3000000+16M").status == 0


@pytest.mark.parametrize(
    ("addresses", "lengths"),
    [
        ("0x3000000\n", "all of it\n"),
        ("-0x1000\n", "0x1000\n"),
        ("0x1ffffffffffffffff\n", "0x1000\n"),
        ("0x3000000\n0x4000000\n", "0x1000\n"),
        ("0x3000000\n", None),
    ],
)
def test_scratch_files_that_are_none_are_said(
    ready: Machine, addresses: str, lengths: str | None
) -> None:
    ready.write("debug/kho/out/scratch_phys", addresses)
    if lengths is None:
        (ready.out / "scratch_len").unlink()
    else:
        ready.write("debug/kho/out/scratch_len", lengths)
    assert "debug/kho/out/scratch_" in ready.refusal("--target", "linux-7.3")


def second_jump(machine: Machine, *, with_outgoing: bool = True) -> int:
    """A kernel that was itself handed something: it shows ``in/fdt`` and no ``out/fdt``.

    Returns the address of the root FDT that stands ready.
    """
    image = Image()
    handed = image.blob(b"")
    _, whole, _ = outgoing(serialized=False, image=image)
    before = whole.replace(b"kho-v4", b"kho-v3")
    if not with_outgoing:
        image.write(image.fdt_paddr, bytes(len(whole)))
    # As credible as the other, and at a lower address; of the one before it, the page was freed.
    image.write(handed, before)
    image.write(image.alloc(), whole.replace(b"kho-v4", b"kho-v2"))
    machine.remember(image)
    (machine.out / "fdt").unlink()
    machine.write("debug/kho/in/fdt", before)
    return image.fdt_paddr


def test_after_a_jump_what_stands_ready_is_found_in_memory(ready: Machine) -> None:
    fdt = second_jump(ready)
    found = inspect(str(ready.kcore), str(ready.debugfs), Options(live=True)).fdt
    assert (found.compatible, found.paddr) == ("kho-v4", fdt)
    assert ready.check("--target", "linux-7.3").status == 0
    assert ready.check("--target", "kho-v3").status == 1
    assert document("show", *ready.options, "--incoming")["fdt"]["compatible"] == "kho-v3"


def test_what_was_handed_over_is_not_taken_for_what_stands_ready(ready: Machine) -> None:
    second_jump(ready, with_outgoing=False)
    said = ready.refusal("--target", "kho-v3")
    assert "kho/out/fdt is not there" in said
    assert "try: what this kernel was handed: --incoming" in said


def test_nothing_was_handed_over_to_this_kernel(ready: Machine) -> None:
    said = ready.refusal("--incoming")
    assert "has no in/fdt: nothing was handed to this kernel" in said


def test_a_map_that_is_written_at_the_jump_is_not_missing(ready: Machine) -> None:
    """Up to 7.0, whose root FDT has a zero for it until ``kho_finalize()``."""
    image = Image(abi="kho-v1")
    blob = image.alloc()
    data = fdt_blob(Tree(b"", [(b"compatible", b"memblock-v1\0")]))
    image.write(blob, data)
    props = [(b"compatible", b"kho-v1\0"), (b"preserved-memory-map", u64(0))]
    dtb = fdt_blob(Tree(b"", props, [Tree(b"memblock", [(b"fdt", u64(blob))])]))
    image.write(image.alloc(), dtb)
    ready.remember(image)
    ready.write("debug/kho/out/fdt", dtb)
    found = ready.document("--target", "kho-v1")
    words = "the preserved-memory map is not written yet: the kernel does so at the jump"
    assert found["decision"] == {"state": "accepts", "target": "kho-v1", "reasons": [words]}
    blocked = {g["reason"]: g["codes"] for g in found["integrity"]["blocked"]}
    assert {"KHO108", "KHO109"} <= set(blocked[words])
    assert ready.check("--target", "kho-v1").status == 0
    assert ready.check("--target", "kho-v4").status == 1
    # Of what was handed over, it is the damage that ends the handover.
    ready.write("debug/kho/in/fdt", dtb)
    assert ready.document("--incoming")["decision"]["state"] == "refuses"


def test_virtual_segments_are_passed_over(machine: Machine) -> None:
    assert open_kcore(str(machine.kcore)).declared[-1].end == 128 << 20


def test_provenance_is_kept_wherever_its_note_stands(machine: Machine) -> None:
    packed = machine.folder / "packed.elf"
    result = in_process("pack", *machine.options, "-o", packed)
    assert result.status == 0, result.stderr
    assert b'"source": "x86_64-kho-v2' in packed.read_bytes()


def test_nothing_is_written(machine: Machine) -> None:
    for path in (machine.kcore, machine.out / "fdt"):
        path.chmod(0o444)
    before = {path: path.stat().st_mtime_ns for path in machine.folder.rglob("*")}
    assert in_process(*machine.options).status == 0
    assert {path: path.stat().st_mtime_ns for path in machine.folder.rglob("*")} == before


# -- the command line


NEEDED = {"extract": ["-o", "out"], "pack": ["-o", "out"]}


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (command, option)
        for command in COMMANDS
        for option in ("--live", "--kcore", "--debugfs", "--incoming")
        if command not in ("explain", "targets")
        and (command not in ("locate", "log", "carve") or option in ("--live", "--kcore"))
    ],
)
def test_dump_and_dtb_beside_live_are_refused(command: str, option: str, ready: Machine) -> None:
    files = [str(ready.kcore), str(ready.debugfs)]
    live = [option, *{"--kcore": files[:1], "--debugfs": files[1:]}.get(option, [])]
    one = [] if command in ("blobs", "find", "read") else [files[:1]]  # theirs may be anything
    for given in (files, ["auto", "auto"], *one):
        result = in_process(command, *live, *given, *NEEDED.get(command, []))
        assert (result.status, result.stdout) == (2, "")
        said = " ".join(result.stderr.split())
        assert "--live takes no DUMP and no DTB: --kcore FILE and --debugfs DIR name" in said


def test_arguments_of_the_command_itself_follow_live(ready: Machine, tmp_path: Path) -> None:
    image, _, _ = outgoing(serialized=False)
    addresses = document("addr", *ready.options, hex(image.fdt_paddr), "0x0")["addresses"]
    assert [one["paddr"] for one in addresses] == [hex(image.fdt_paddr), "0x0"]
    blobs = document("blobs", "kho_test", *ready.options)["blobs"]
    assert [blob["name"] for blob in blobs] == ["kho_test"]
    assert len(document("blobs", *ready.options)["blobs"]) == 3
    out = tmp_path / "out"
    assert in_process("extract", *ready.options, "kho_test", "-o", out).status == 0
    assert sorted(path.name for path in (out / "kho_test").iterdir()) == ["0", "1"]
    assert in_process("extract", *ready.options, "-o", tmp_path / "all").status == 0


def test_addresses_are_still_needed(ready: Machine) -> None:
    result = in_process("addr", *ready.options)
    assert result.status == 2
    assert "Missing argument 'PLACE...'" in result.stderr


def test_a_text_that_looks_like_a_path_is_looked_for(ready: Machine) -> None:
    assert in_process("find", *ready.options, "/usr/bin/sh").status == 1


def test_too_many_names_of_a_blob_are_refused(ready: Machine) -> None:
    result = in_process("blobs", *ready.options, "LUO", "kho_test")
    assert result.status == 2
    assert "--live takes no DUMP" in result.stderr


def test_the_running_kernels_own_files_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, str | None, Options]] = []

    def refuse(dump: str, dtb: str | None, options: Options, *_: object) -> None:
        opened.append((dump, dtb, options))
        raise NotAHandoverError("no")

    monkeypatch.setattr(inspection, "open_inputs", refuse)
    assert in_process("owners", "--live").status == 3
    assert opened == [("/proc/kcore", "/sys/kernel/debug", Options(live=True))]
