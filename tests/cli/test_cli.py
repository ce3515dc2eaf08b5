"""Bad input, option parsing, exit codes, pipes: what a shell sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from kho_inspect.cli.main import COMMANDS
from tests.support.cli import DTB, DUMP, OUT_DTB, REPO, SAMPLES, kho_inspect
from tests.support.running import in_process


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder of inputs gone wrong."""
    dump, dtb = REPO / DUMP, (REPO / DTB).read_bytes()
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "small.raw").write_bytes(bytes(4096))
    shutil.copy(dump, tmp_path / "dump.elf")
    (tmp_path / "kho.dtb").write_bytes(dtb)
    (tmp_path / "v9.dtb").write_bytes(dtb.replace(b"kho-v2", b"kho-v9"))
    (tmp_path / "v9.elf").write_bytes(dump.read_bytes().replace(b"kho-v2", b"kho-v9"))
    (tmp_path / "other.dtb").write_bytes(
        dtb.replace(b"kho-v2", b"qemu-x").replace(b"preserved-memory-map", b"x" * 20)
    )
    (tmp_path / "stranger.dtb").write_bytes(dtb[:56] + b"\xff" * 20)
    (tmp_path / "locked").write_bytes(dtb)
    (tmp_path / "locked").chmod(0)
    return tmp_path


BAD_INPUT: dict[str, tuple[list[str], str, str]] = {
    "missing dump": (["nowhere", "kho.dtb"], "cannot open nowhere: No such file", ""),
    "missing dtb": (["dump.elf", "nowhere"], "cannot open nowhere: No such file", ""),
    "empty dump": (["empty", "kho.dtb"], "empty is empty", "disk full"),
    "empty dtb": (["dump.elf", "empty"], "empty is empty", "kho/in/fdt"),
    "directory": (["folder", "kho.dtb"], "folder is a directory", ""),
    "fifo": (["fifo", "kho.dtb"], "fifo is not a regular file", "copy it"),
    "device": (["/dev/zero", "kho.dtb"], "/dev/zero is not a regular file", "copy it"),
    "swapped": (["kho.dtb", "dump.elf"], "kho.dtb is a device tree", "kho-inspect DUMP DTB"),
    "dump twice": (["dump.elf", "dump.elf"], "magic is 7f454c46", "kho-inspect DUMP DTB"),
    "boot dtb": (["dump.elf", "other.dtb"], "is a device tree but no KHO root", "kho/in/fdt"),
    "cut short, not in dump": (
        ["tree", "dump.elf", "stranger.dtb"],
        "root FDTs in the dump: 0x4a4000 (kho-v2)",
        "kho/in/fdt",
    ),
    "base for an elf": (
        ["dump.elf", "kho.dtb", "--base", "4K"],
        "--base and --map",
        "--dump-format",
    ),
    "raw as elf": (
        ["small.raw", "kho.dtb", "--dump-format", "elf"],
        "is not an ELF file",
        "--dump-format",
    ),
    "overlapping maps": (
        ["small.raw", "kho.dtb", "--map", "0:0:4K", "--map", "0:0:4K"],
        "two --map blocks overlap at 0x0",
        "--map",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_or_two_lines_and_exit_3(
    case: str, bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bad)
    args, what, hint = BAD_INPUT[case]
    result = in_process(*args)
    lines = result.stderr.splitlines()
    assert (result.status, result.stdout) == (3, "")
    assert lines[0].startswith("kho-inspect: ")
    assert what in lines[0]
    assert len(lines) == (2 if hint else 1)
    assert hint in lines[-1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_file_without_permission(bad: Path) -> None:
    result = kho_inspect("dump.elf", "locked", cwd=bad)
    assert (result.status, "Permission denied" in result.stderr) == (3, True)


@pytest.mark.parametrize(
    "args",
    [
        ["addr", DUMP],
        [],
        ["--json"],
        [DUMP, DTB, "extra"],
        ["addr", DUMP, DTB],
        ["blobs", DUMP, DTB, "nobody"],
        [DUMP, DTB, "--map", "1:2"],
        [DUMP, DTB, "--page-size", "8K"],
        [DUMP, DTB, "--assume-abi", "kho-v99"],
    ],
)
def test_usage_errors_exit_2(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    result = in_process(*args)
    assert (result.status, result.stdout) == (2, "")
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["addr", DUMP, DTB, "twelve"], "no 'twelve' in this handover"),
        (["addr", DUMP, DTB, "0x1ffffffffffffffff"], "beyond 64 bits"),
        (["addr", DUMP, DTB, "pfn:0x10000000000000"], "beyond 64 bits"),
        (["addr", DUMP, DTB, "pfn:x"], "'x' is not a number"),
        (["addr", DUMP, DTB, "0x12zz"], "'0x12zz' is not a number"),
        (["addr", DUMP, DTB, "9Q"], "'9Q' is not a number"),
        (["addr", DUMP, DTB, "9-Q"], "'9-Q' is not START-END or START+LEN"),
        (["addr", DUMP, DTB, "0x1000", "LUO/nobody"], "no 'LUO/nobody' in this handover"),
        (["owners", DUMP, DTB, "LUO/nobody"], "no 'LUO/nobody' in this handover"),
        (["owners", DUMP, DTB, "LUO", "x*"], "no 'x*' in this handover"),
        (["check", DUMP, DTB, "--ignore-owner", "LUO/nobody"], "no 'LUO/nobody' in this"),
        (["extract", DUMP, DTB, "LUO/n?body", "-o", "out"], "no 'LUO/n?body' in this handover"),
        (["files", DUMP, DTB, "LUO/nobody"], "no 'LUO/nobody' in this handover"),
        (["read", DUMP, DTB, "LUO/nobody"], "no 'LUO/nobody' in this handover"),
        (["read", DUMP, DTB, "LUO/vm-alpha"], "names 2 items"),
        (["read", DUMP, DTB, "LUO/vm-alpha/0x1001+0x18001"], "has 98,304 bytes"),
        (["read", DUMP, DTB, "0x2000-0x1000"], "a range of no size"),
        (["read", DUMP, DTB, "0x1000-"], "is not START-END or START+LEN"),
        (["extract", DUMP, DTB, "LUO/vm-alpha", "-o", "-"], "names 2 items"),
        (["extract", DUMP, DTB, "LUO/nobody", "-o", "-"], "no 'LUO/nobody' in this handover"),
        (["find", DUMP, DTB, "--hex", "123"], "'123' is not hex"),
        (["find", DUMP, DTB, "--u64", "abc"], "'abc' is not a number"),
        (["find", DUMP, DTB, "--hex", "0000"], "zeros alone"),
        (["find", DUMP, DTB, ""], "nothing to find"),
    ],
)
def test_a_name_or_number_that_says_nothing_is_exit_2(
    args: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    # A stream of bytes needs a stdout of its own.
    result = (kho_inspect if "-" in args else in_process)(*args)
    assert (result.status, result.stdout) == (2, "")
    assert words in result.stderr


def test_assumed_abi_works_fully(bad: Path) -> None:
    plain = json.loads(kho_inspect("dump.elf", "kho.dtb", "--json", cwd=bad).stdout)
    plain["source"]["path"] = "v9.elf"
    assumed = kho_inspect("v9.elf", "v9.dtb", "--assume-abi", "kho-v2", "--json", cwd=bad)
    document = json.loads(assumed.stdout)
    assert assumed.status == 4  # read as asked, but no kernel that is known would
    assert document["check"].pop("decision")["state"] == "unknown"
    assert document["check"].pop("integrity")["state"] == "undecided"
    assert [one["code"] for one in document["check"].pop("findings")] == ["KHO104"]
    for name in ("decision", "integrity", "findings"):
        plain["check"].pop(name)
    assert document["fdt"] == {**plain["fdt"], "compatible": "kho-v9"}
    assert {**document, "fdt": None} == {**plain, "fdt": None}


def test_a_misspelled_command_is_answered_with_the_right_one() -> None:
    result = kho_inspect("chekc", DUMP, DTB)
    assert (result.status, result.stdout) == (2, "")
    assert "'chekc': did you mean check?" in result.stderr


def test_default_command_is_show() -> None:
    assert kho_inspect(DUMP, DTB) == kho_inspect("show", DUMP, DTB)
    assert kho_inspect("--json", DUMP, DTB) == kho_inspect("show", DUMP, DTB, "--json")


def test_colour_is_asked_for_not_guessed() -> None:
    assert "\x1b[" in kho_inspect(DUMP, DTB, "--color", "always", env={"NO_COLOR": "1"}).stdout
    for env in ({"FORCE_COLOR": "1"}, {"NO_COLOR": ""}, {"CLICOLOR_FORCE": "1"}):
        assert "\x1b[" not in kho_inspect(DUMP, DTB, env=env).stdout


def test_terminal_without_unicode_gets_escapes_not_a_traceback() -> None:
    result = kho_inspect(DUMP, DTB, env={"PYTHONIOENCODING": "ascii"})
    assert (result.status, result.stderr) == (0, "")


def _hostile_names(tmp_path: Path) -> list[str]:
    names = [b"\x1b[2", b"[b]", b"\xe2\x80\xae", b"a\nb", b"\xff\xfe", b"\x9b\x00"[:1]]
    dtb = (REPO / DTB).read_bytes()
    paths = []
    for number, name in enumerate(names):
        path = tmp_path / f"{number}.dtb"
        path.write_bytes(dtb.replace(b"LUO\0", name.ljust(3, b"\0") + b"\0"))
        paths.append(str(path))
    return paths


def test_hostile_names_reach_the_terminal_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for path in _hostile_names(tmp_path):
        for command in ("show", "blobs", "tree"):
            result = in_process(command, REPO / DUMP, path)
            # LUO's state under another name is lost to LUO: a finding.
            assert result.status == (command == "show"), result.stderr
            bad = [c for c in result.stdout if c != "\n" and not c.isprintable()]
            assert bad == [], (path, command)
        json.loads(in_process("show", REPO / DUMP, path, "--json").stdout)


def test_markup_in_a_name_is_shown_not_obeyed(tmp_path: Path) -> None:
    path = _hostile_names(tmp_path)[1]
    assert "[b]" in kho_inspect(DUMP, path).stdout


@pytest.mark.parametrize("command", ["show", "tree", "ranges", "blobs"])
def test_closed_pipe_is_quiet(command: str) -> None:
    shell = f"{sys.executable} -m kho_inspect {command} {DUMP} {DTB} | head -c 10 >/dev/null"
    script = f"{shell}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=REPO, capture_output=True, check=False)
    assert done.stderr == b""
    assert done.returncode in (0, 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("args", [[], ["--json"]])
def test_full_disk_is_said(args: list[str]) -> None:
    shell = f"{sys.executable} -m kho_inspect {DUMP} {DTB} {' '.join(args)} >/dev/full"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.stderr == "kho-inspect: cannot write the output: No space left on device\n"
    assert done.returncode == 3


def test_console_script_and_module_are_the_same() -> None:
    script = Path(sys.executable).with_name("kho-inspect")
    if not script.exists():
        pytest.skip("not installed with its console script")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == kho_inspect("--version").stdout


def loaded(*arguments: str) -> set[str]:
    """The modules in memory once a command is done."""
    code = (
        "import sys; from kho_inspect.cli.main import run; run(sys.argv[1:]);"
        "print('\\n', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    assert not loaded("show", "--help") & {"numpy", "rich", "construct", "pyfdt"}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_list_of_commands_imports_none_of_them(option: str) -> None:
    assert not loaded(option) & {f"kho_inspect.cli.{name}" for name in (*COMMANDS, "options")}


def test_json_is_written_without_rich_and_masked_arrays() -> None:
    assert not loaded(str(DUMP), str(DTB), "--json") & {"rich", "numpy.ma"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    command = import_module(f"kho_inspect.cli.{name}").command
    assert command.get_short_help_str(1000) == COMMANDS[name]


def test_help_cuts_no_summary_of_a_command() -> None:
    result = kho_inspect("--help", columns=80)
    said = " ".join(result.stdout.split())
    assert [text for text in COMMANDS.values() if text not in said] == []
    assert "..." not in said


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("explain", "targets")])
def test_options_of_all_commands_stand_below_a_command_s_own(name: str) -> None:
    own, _, common = kho_inspect(name, "--help").stdout.partition("\nCommon options:\n")
    assert "--help" in own
    for option in ("--base", "--json", "--dump-format", "--live"):
        assert f"{option} " in common
        assert f"\n  {option} " not in own


def test_the_first_screen_of_check_help_has_all_its_own_options() -> None:
    lines = kho_inspect("check", "--help", columns=80).stdout.splitlines()
    screen = "\n".join(lines[:24])
    for option in ("--target", "--fail-on", "--expect", "--ignore-owner", "--format", "--help"):
        assert option in screen


def test_an_unknown_format_is_answered_with_the_known_ones() -> None:
    done = kho_inspect(DUMP, DTB, "--dump-format", "vmss")
    assert done.status == 2
    assert "'vmss' is not one of auto, raw, elf, lime, kdump" in done.stderr


def test_recovered_dtb_reads_like_the_whole_one() -> None:
    whole = json.loads(kho_inspect(DUMP, DTB, "--json").stdout)
    recovered = json.loads(kho_inspect(DUMP, OUT_DTB, "--json").stdout)
    assert recovered["fdt"].pop("recovered") is True
    assert whole["fdt"].pop("recovered") is False
    (how,) = recovered["check"]["capture"].pop("reasons")
    assert "the whole FDT was found in the dump at 0x4a4000" in how
    assert whole["check"]["capture"].pop("reasons") == []
    assert recovered == whole


def test_sample_agrees_with_truth() -> None:
    truth = json.loads((SAMPLES / "x86_64-kho-v2.json").read_text())
    seen = json.loads(kho_inspect(DUMP, DTB, "--json").stdout)
    assert seen["fdt"]["compatible"] == truth["compatible"]
    assert int(seen["fdt"]["memory_map"], 16) == truth["memory_map"]
    assert seen["source"]["page_size"] == truth["page_size"]
    assert seen["tree"] == {"levels": 6, "nodes": truth["nodes"], "leaves": truth["leaves"]}
    assert seen["preserved"]["blocks"] == truth["pages"]
    assert seen["preserved"]["bytes"] == truth["bytes"]
    assert seen["preserved"]["orders"] == truth["orders"]
    ranges = [[r["start"], r["end"]] for r in seen["preserved"]["ranges"]]
    assert ranges == truth["preserved_ranges"]
    for blob, expected in zip(seen["blobs"], truth["subnodes"], strict=True):
        assert blob["name"] == expected["name"]
        assert int(blob["paddr"], 16) == expected["phys"]
        assert blob["size"] == expected["size"]
        assert blob["sha256"] == expected["sha256"]
        assert blob["preserved"] is expected["preserved"]
    assert seen["faults"] == []


def test_an_address_without_a_length_reads_256_bytes() -> None:
    short, long = (
        kho_inspect("read", DUMP, DTB, where, "--json").stdout
        for where in ("0x4b0000", "0x4b0000+256")
    )
    assert json.loads(short)["parts"] == json.loads(long)["parts"]
