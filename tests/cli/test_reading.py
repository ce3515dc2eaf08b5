"""``files``, ``addr`` of selectors, ``read``, ``find`` and ``extract -o -``, in a pipe."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.captures import Capture
from tests.support.cli import DTB, DUMP, REPO
from tests.support.extracting import Case, luo_case
from tests.support.luo_builder import File, Session
from tests.support.running import document, in_process

LOG = "samples/x86_64-refused.elf"
PAGE = 4096


def streamed(*args: str | Path, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Status, bytes on stdout, and stderr of a run in a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "kho_inspect", *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONIOENCODING": "utf-8"},
        cwd=REPO,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def truth_files(capture: Capture) -> Iterator[tuple[str, dict[str, int | str]]]:
    """Selector and memfd of every file in truth.json."""
    for node in capture.truth["subnodes"]:
        for session in node.get("luo", {"sessions": []})["sessions"]:
            name = session["name"].replace("%", "%25").replace("/", "%2F")
            for file in session["files"]:
                yield f"LUO/{name}/{file['token']:#x}", file["memfd"]


# -- real captures


def test_files_lists_every_file_of_a_capture_with_its_hash(capture: Capture) -> None:
    args = capture.dump, capture.dtb, "--base", hex(capture.base)
    wanted = list(truth_files(capture))
    result = in_process("files", *args, "--sha256")
    assert (result.status, result.stderr) == (0, "")
    assert [line.split("\t") for line in result.stdout.splitlines()] == [
        [selector, str(one["size"]), str(one["nr_folios"]), "memfd-v2", one["sha256"]]
        for selector, one in wanted
    ]
    found = document("files", *args)["files"]
    assert [(one["selector"], one["pos"], one["sha256"], one["carved"]) for one in found] == [
        (selector, one["pos"], None, False) for selector, one in wanted
    ]


def test_read_raw_gives_the_bytes_of_every_file_and_blob(capture: Capture) -> None:
    base = "--base", hex(capture.base)
    wanted = [(selector, one["sha256"]) for selector, one in truth_files(capture)]
    wanted += [(f"blob/{node['name']}", node["sha256"]) for node in capture.truth["subnodes"]]
    for selector, digest in wanted:
        for args in (("read", selector, "--raw"), ("extract", selector, "-o", "-")):
            command, *more = args
            status, out, err = streamed(command, capture.dump, capture.dtb, *more, *base)
            assert (status, err) == (0, "")
            assert hashlib.sha256(out).hexdigest() == digest, selector


def test_addr_of_a_selector_and_back(capture: Capture) -> None:
    base = "--base", hex(capture.base)
    files = [(name, int(one["size"])) for name, one in truth_files(capture) if one["size"]]
    asked = [f"{name}+{at:#x}" for name, size in files for at in range(1, size, 4999)]
    there = document("addr", capture.dump, capture.dtb, *asked, *base, *(["0x0"] * (not asked)))
    if not asked:
        pytest.skip("no files in this capture")
    assert [one["asked"] for one in there["addresses"]] == asked
    paddrs = [one["paddr"] for one in there["addresses"]]
    back = document("addr", capture.dump, capture.dtb, *paddrs, *base)["addresses"]
    for text, one in zip(asked, back, strict=True):
        (owner,) = one["owners"]
        selector, _, offset = text.rpartition("+")
        assert owner["owner"].startswith(f"{selector} → folio ")
        assert owner["file_offset"] == offset


def test_find_gives_each_place_of_a_text_with_its_file(capture: Capture) -> None:
    base = "--base", hex(capture.base)
    data = capture.dump.read_bytes()
    text = b"memfd seed="
    wanted, at = [], data.find(text)
    while at >= 0:
        wanted.append(hex(at + capture.base))
        at = data.find(text, at + 1)
    found = in_process("find", capture.dump, capture.dtb, text.decode(), *base)
    assert found.status == (not wanted)
    lines = [line.split("\t") for line in found.stdout.splitlines()]
    assert [paddr for paddr, _ in lines] == wanted
    for name, one in truth_files(capture):
        pages = -(-int(one["size"]) // capture.truth["page_size"])
        assert sum(owner.startswith(f"{name} → ") for _, owner in lines) >= pages


# -- files


def sparse(folder: Path, *drop: int) -> Case:
    """One file of nine pages: two, a hole of four, two, a hole of one."""
    image = Image()
    made = write.memfd(image, write.pattern(9 * PAGE, 2), layout=[(0, 1), (6, 1)])
    small = write.memfd(image, b"x")
    other = File(2, compatible=b"vfio\x1b\t\n", data=0x5000)
    files = [File(7, made), other]
    write.luo_v5(image, [Session(b"a*b", files), Session(b"a+1", [File(1, small)])])
    dropped = [made.folios[1].paddr + PAGE * at for at in drop]
    return Case(image, folder, *dropped)


def test_a_file_without_a_decoder_is_listed_and_escaped(tmp_path: Path) -> None:
    case = sparse(tmp_path)
    result = in_process("files", *case.files, "--long")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    handler = "vfio\\x1b\\x09\\x0a"
    assert rows[1] == ["LUO/a%2Ab/0x2", "-", "-", handler, "-", "-", "0x5000", "-", "-"]
    assert [row[:4] for row in rows[::2]] == [
        ["LUO/a%2Ab/0x7", str(9 * PAGE), "2", "memfd-v2"],
        ["LUO/a%2B1/0x1", "1", "1", "memfd-v2"],
    ]


def test_a_listed_selector_names_that_file_alone_whatever_is_in_its_name(tmp_path: Path) -> None:
    case = sparse(tmp_path)
    for line in in_process("files", *case.files).stdout.splitlines():
        selector = line.split("\t")[0]
        assert in_process("files", *case.files, selector).stdout == f"{line}\n"


def test_a_file_that_is_not_whole_has_no_hash_and_is_exit_1(tmp_path: Path) -> None:
    case = sparse(tmp_path, 1)
    result = in_process("files", *case.files, "LUO/a*b/7", "--sha256")
    assert (result.status, result.stdout.split("\t")[4]) == (1, "-\n")


def test_files_are_aligned_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    from kho_inspect.cli.main import run

    assert run(["files", str(REPO / DUMP), str(REPO / DTB), "LUO/vm-*"]) == 0
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["selector", "size", "folios", "handler"]
    assert "\t" not in out.getvalue()
    assert len({line.index("memfd-v2") for line in lines[1:]}) == 1


# -- addr


def test_addresses_come_one_a_line_from_stdin() -> None:
    lines = b"0x719004\n\n  pfn:0x719  \nLUO/vm-beta/0xfeedfacecafebeef+0x2004\nLUO/vm-alpha/*\n"
    status, out, err = streamed("addr", DUMP, DTB, "-", "--json", stdin=lines)
    assert (status, err) == (0, "")
    found = json.loads(out)["addresses"]
    assert [(one["asked"], one["paddr"]) for one in found[:3]] == [
        ("0x719004", "0x719004"),
        ("pfn:0x719", "0x719000"),
        ("LUO/vm-beta/0xfeedfacecafebeef+0x2004", "0x719004"),
    ]
    assert [one["asked"] for one in found[3:]] == ["LUO/vm-alpha/0x1001", "LUO/vm-alpha/0x1002"]


def test_what_has_no_physical_address_is_said_and_the_rest_answered(tmp_path: Path) -> None:
    case = sparse(tmp_path)
    asked = ["LUO/a%2Ab/7+0x2000", "LUO/a%2Ab/7+0x9000", "0xffff888000100000", "0x1000"]
    result = in_process("addr", *case.files, *asked)
    assert result.status == 1
    assert result.stdout.startswith("0x1000  ")
    assert result.stderr.splitlines() == [
        "kho-inspect: LUO/a%2Ab/0x7+0x2000: a hole of the file",
        "kho-inspect: LUO/a%2Ab/0x7+0x9000: it has 36,864 bytes",
        "kho-inspect: 0xffff888000100000: a virtual address; the dump has no kernel's page tables",
    ]
    found = document_of_lacking(case, asked)
    assert [one["asked"] for one in found["unresolved"]] == [
        "LUO/a%2Ab/0x7+0x2000",
        "LUO/a%2Ab/0x7+0x9000",
        "0xffff888000100000",
    ]


def document_of_lacking(case: Case, asked: list[str]) -> dict[str, list[dict[str, str]]]:
    result = in_process("addr", *case.files, *asked, "--json")
    assert result.status == 1
    found: dict[str, list[dict[str, str]]] = json.loads(result.stdout)
    return found


# -- read


def test_a_hole_is_zeros_and_a_line_and_no_lack(tmp_path: Path) -> None:
    case = sparse(tmp_path)
    content = write.pattern(9 * PAGE, 2)
    whole = content[: 2 * PAGE] + bytes(4 * PAGE) + content[6 * PAGE : 8 * PAGE] + bytes(PAGE)
    assert streamed("read", *case.files, "LUO/a*b/7", "--raw") == (0, whole, "")
    part = "LUO/a*b/7+0x1ff8", "--length", "0x5010"
    assert streamed("read", *case.files, *part, "--raw") == (0, whole[0x1FF8:0x7008], "")
    result = in_process("read", *case.files, *part)
    assert (result.status, result.stderr) == (0, "")
    assert "0x2000  -  hole, 16,384 bytes\n" in result.stdout


def test_what_is_not_stored_is_zeros_and_words_and_exit_1(tmp_path: Path) -> None:
    case = sparse(tmp_path, 0)
    status, out, err = streamed("read", *case.files, "LUO/a*b/7", "--raw")
    content = write.pattern(9 * PAGE, 2)
    assert (status, err) == (1, "kho-inspect: LUO/a%2Ab/0x7, bytes 0x6000-0x7000: not stored\n")
    assert out[6 * PAGE :] == bytes(PAGE) + content[7 * PAGE : 8 * PAGE] + bytes(PAGE)
    assert streamed("extract", *case.files, "LUO/a*b/7", "-o", "-") == (status, out, err)
    paddr = int(document_of_missing(case)["parts"][2]["paddr"], 16)
    result = in_process("read", *case.files, f"{paddr - 16:#x}+32")
    assert result.status == 1
    assert result.stdout.splitlines()[-1] == f"{paddr:#x}  not stored, 16 bytes"
    assert result.stderr == f"kho-inspect: {paddr:#x}-{paddr + 16:#x}: not stored\n"


def document_of_missing(case: Case) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]]
    found = json.loads(in_process("read", *case.files, "LUO/a*b/7", "--json").stdout)
    return found


def test_an_address_is_read_without_any_handover(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(bytes(0x1000) + b"0123456789abcdefX" + bytes(0xFEF))
    for where in ("0x1000+17", "4K-0x1011", "0x1000"):
        more = () if "+" in where or "-" in where else ("--length", "17")
        args = ("read", dump, "auto", where, *more, "--dump-format", "raw")
        assert streamed(*args, "--raw") == (0, b"0123456789abcdefX", "")
        assert in_process(*args, "--u64").stdout.splitlines() == [
            "0x1000  0x3736353433323130",
            "0x1008  0x6665646362613938",
            "0x1010  58",
        ]
        assert in_process(*args, "--strings").stdout == "0x1000  0123456789abcdefX\n"
        assert in_process(*args).stdout.splitlines()[0] == (
            "0x1000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|"
        )


def test_text_that_goes_on_in_the_next_page_of_a_file_is_one_string(tmp_path: Path) -> None:
    image = Image()
    content = bytes(PAGE - 3) + b"first and second" + bytes(PAGE - 13) + b"end"
    pages = [(1, 0), (0, 0), (2, 0)]  # neighbours in the file, not in memory
    made = write.memfd(image, content, layout=pages)
    case = luo_case(tmp_path, Session(b"vm", [File(1, made)]), image=image)
    result = in_process("read", *case.files, "LUO", "--strings")
    (line,) = result.stdout.splitlines()
    assert line.split("  ")[::2] == ["0xffd", "first and second"]


def test_a_virtual_address_is_said_to_be_one() -> None:
    status, out, err = streamed("read", DUMP, DTB, "0xffff888000719000", "--raw")
    assert (status, out) == (1, b"")
    assert "0xffff888000719000 is a virtual address" in err


@pytest.mark.parametrize(
    "args", [["read", "blob/LUO", "--raw"], ["extract", "blob/LUO", "-o", "-"]]
)
def test_bytes_reach_a_terminal_only_with_force(args: list[str]) -> None:
    command, *more = args
    for force in ([], ["--force"]):
        ours, theirs = pty.openpty()
        done = subprocess.run(
            [sys.executable, "-m", "kho_inspect", command, DUMP, DTB, *more, *force],
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        os.close(theirs)
        assert done.returncode == (0 if force else 2)
        assert (b"stdout is a terminal" in done.stderr) == (not force)
        if force:
            assert b"luo-session" in os.read(ours, 4096)
        os.close(ours)


def test_a_file_of_holes_beyond_all_bounds_is_not_streamed(tmp_path: Path) -> None:
    image = Image()
    made = write.memfd(image, write.pattern(PAGE, 1), size=1 << 60)
    case = luo_case(tmp_path, Session(b"vm", [File(1, made)]), image=image)
    for args in (("read", "LUO", "--raw"), ("extract", "LUO", "-o", "-")):
        status, out, err = streamed(args[0], *case.files, *args[1:])
        assert (status, out) == (2, b"")
        assert "too many for a stream" in err
    start = streamed("read", *case.files, "LUO", "--raw", "--length", "5K")
    assert start == (0, write.pattern(PAGE, 1) + bytes(1024), "")


# -- find


def test_places_are_found_without_any_handover(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(bytes(0x1234) + b"\xde\xad\xbe\xef" + bytes(0x1000))
    for wanted in (["--hex", "DEADBEEF"], ["--hex", "0xdeadbeef"], ["--u64", "0xefbeadde"]):
        result = in_process("find", dump, "auto", *wanted, "--dump-format", "raw")
        assert (result.status, result.stdout) == (0, "0x1234\towner not known\n")
        assert result.stderr.startswith("kho-inspect: caution: ")
    result = in_process("find", dump, "auto", "--hex", "00de", "--json", "--dump-format", "raw")
    found = json.loads(result.stdout)
    assert found["places"] == [{"paddr": "0x1233", "owners": None}]


def test_what_is_found_is_named_or_not_claimed_and_limited(tmp_path: Path) -> None:
    image = Image()
    stray = image.alloc()
    image.write(stray + 5, b"needle needle")
    case = luo_case(
        tmp_path, Session(b"vm", [File(1, write.memfd(image, b"x" * 9 + b"needle"))]), image=image
    )
    result = in_process("find", *case.files, "needle")
    owners = [line.split("\t")[1] for line in result.stdout.splitlines()]
    assert sorted(owners) == ["LUO/vm/0x1 → folio 0, file offset 0x9", "not claimed", "not claimed"]
    limited = in_process("find", *case.files, "needle", "--limit", "1").stdout
    assert limited == result.stdout.splitlines(keepends=True)[0]
    none = in_process("find", *case.files, "nothing of the kind")
    assert (none.status, none.stdout) == (1, "")
    assert none.stderr.startswith("kho-inspect: not found in ")


# -- of all of them


@pytest.mark.parametrize("command", [["locate"], ["log"], ["carve"], ["find", "auto", "luo"]])
def test_a_dump_that_is_cut_is_said_to_be(command: list[str], tmp_path: Path) -> None:
    whole = (REPO / LOG).read_bytes()
    cut = tmp_path / "cut.elf"
    cut.write_bytes(whole[: -len(whole) // 8])
    result = in_process(command[0], cut, *command[1:])
    assert f"caution: {cut}: the file is cut short" in result.stderr
    packed = tmp_path / "whole.elf.gz"
    packed.write_bytes(gzip.compress(whole))
    less = f"--max-unpacked={len(whole) // 8 * 7}"
    result = in_process(command[0], packed, *command[1:], less)
    assert f"caution: {packed}: " in result.stderr
    assert "--max-unpacked" in result.stderr


def test_blobs_takes_a_glob() -> None:
    found = document("blobs", REPO / DUMP, REPO / DTB, "k*")["blobs"]
    assert [blob["name"] for blob in found] == ["kho_test"]
    assert in_process("blobs", REPO / DUMP, REPO / DTB, "?").status == 2


def test_addr_of_a_range_is_of_its_first_byte() -> None:
    for text in ("0x6f0000-0x6f2000", "0x6f0000+8K"):
        (found,) = document("addr", REPO / DUMP, REPO / DTB, text)["addresses"]
        assert (found["asked"], found["paddr"]) == ("range@0x6f0000-0x6f2000", "0x6f0000")
