"""The whole command line as one entry: any command, on any damaged files, as text and as JSON."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

from kho_inspect.recover import content
from tests.fuzz import images
from tests.fuzz.entries import blocks_of
from tests.fuzz.images import MemorySeed
from tests.fuzz.patches import SPECIALS, TEXTS, Cursor, Patched, patch
from tests.support.cli import Result
from tests.support.dump_files import Segment, write_elf
from tests.support.kdump_writer import flatten, write_kdump, write_lime
from tests.support.running import in_process

TABBED = ("files", "find", "log")
"""Commands whose fields are separated by tabs."""
SPEAKING = ("addr", "read", "find")
"""Commands that say on stderr what is not there."""
MEMORY_ONLY = ("locate", "log", "carve")
"""Commands without DTB."""
SMALL_HOLES = 1 << 22
"""Bytes of holes that are hashed, which else takes most of the time."""
COLUMNS = ("80", "20", "40", "200")

Args = list[str]


class Fuzzed:
    """The files of one run, in a folder of folders that nothing else may appear in."""

    def __init__(self, home: Path, seed: MemorySeed, patched: Patched, cursor: Cursor) -> None:
        self.home = home
        self.seed = seed
        self.work = home / "jail" / "work"
        self.work.mkdir(parents=True)
        self.dump, self.dtb = self.work / "dump", self.work / "dtb"
        self.out, self.file, self.boot = (self.work / name for name in ("out", "file", "boot"))
        data = bytes(patched.data)
        runs = [
            (block.paddr, data[block.offset : block.offset + block.size])
            for block in blocks_of(seed, patched)
        ]
        form = cursor.u8()
        _FORMATS[form % len(_FORMATS)](self.dump, seed, runs)
        self.damage(form // len(_FORMATS))
        self.dtb.write_bytes(data[seed.dtb_at :])

    def damage(self, where: int) -> None:
        """Overwrite a piece of the dump file itself, one of 31; 0 for none."""
        if where:
            with self.dump.open("r+b") as file:
                file.seek(self.dump.stat().st_size * where // 32)
                file.write(b"\xff" * 48)

    def check(self) -> None:
        """Nothing was written but what was asked for, and that is plain files and folders."""
        assert [*self.home.iterdir()] == [self.work.parent]
        assert [*self.work.parent.iterdir()] == [self.work]
        assert {*self.work.iterdir()} <= {self.dump, self.dtb, self.out, self.file, self.boot}
        held = [path for path in self.out.rglob("*") if not path.is_dir()]
        assert all(path.is_file() and not path.is_symlink() for path in held)
        assert not any(path.name.startswith(".kho-inspect-") for path in held)
        if (self.out / "manifest.json").exists():
            listed = json.loads((self.out / "manifest.json").read_text())["items"]
            names = {self.out / item["file"] for item in listed} | {self.out / "manifest.json"}
            assert names == set(held)


# -- dump formats


def _elf(path: Path, seed: MemorySeed, runs: list[tuple[int, bytes]]) -> None:
    ends = [paddr for paddr, _ in runs[1:]] + [seed.ram[1]]
    write_elf(
        path,
        [Segment(paddr, data, end - paddr) for (paddr, data), end in zip(runs, ends, strict=True)],
    )


def _lime(path: Path, seed: MemorySeed, runs: list[tuple[int, bytes]]) -> None:
    write_lime(path, runs)


def _kdump(path: Path, seed: MemorySeed, runs: list[tuple[int, bytes]]) -> None:
    pages = {
        (paddr + at) // 4096: data[at : at + 4096]
        for paddr, data in runs
        for at in range(0, len(data), 4096)
    }
    write_kdump(path, pages or {1: bytes(4096)}, known=range(256, 300))


def _flat(path: Path, seed: MemorySeed, runs: list[tuple[int, bytes]]) -> None:
    plain = path.with_name("file")
    _kdump(plain, seed, runs)
    flatten(plain, path, 1 << 16)
    plain.unlink()


def _raw(path: Path, seed: MemorySeed, runs: list[tuple[int, bytes]]) -> None:
    with path.open("wb") as file:
        for paddr, data in runs:
            file.seek(paddr)
            file.write(data)


_FORMATS = (_elf, _lime, _kdump, _elf, _raw, _elf, _flat, _elf)


# -- commands


def _text(cursor: Cursor) -> str:
    """Some name; command lines hold no NUL."""
    number = cursor.u8()
    if number < len(TEXTS):
        return os.fsdecode(TEXTS[number].replace(b"\0", b""))
    names = ("LUO", "LUO/vm-a", "LUO/vm-a/1", "blob/other", "reserve_mem/trace", "kho_test/0")
    return names[number % len(names)]


def _address(cursor: Cursor, seed: MemorySeed) -> str:
    number = cursor.u8()
    if number < len(SPECIALS):
        return hex(SPECIALS[number])
    return hex(seed.pages[number % len(seed.pages)] + 8 * cursor.u8())


def _check(it: Fuzzed, cursor: Cursor) -> Args:
    formats = ("text", "junit", "sarif", "github")
    targets = ("kho-v1", "kho-v2", "kho-v3", "kho-v4", "linux-7.3")
    flags = cursor.u8()
    args = ["--dump-format", formats[flags & 3]]
    if flags & 4:
        args += ["--target", targets[cursor.u8() % len(targets)]]
    if flags & 8:
        args += ["--scratch", f"{_address(cursor, it.seed)}+{_address(cursor, it.seed)}"]
    if flags & 16:
        places = [int(_address(cursor, it.seed), 16) for _ in range(2)]
        it.boot.write_bytes(images.boot_fdt(*places))
        args += ["--boot-dtb", str(it.boot)]
    if flags & 32:
        args += ["--fail-on", ("fatal", "error", "info", "never")[cursor.u8() % 4]]
    if flags & 64:
        it.file.write_bytes(_expectations(cursor))
        args += ["--expect", str(it.file)]
    return args


def _expectations(cursor: Cursor) -> bytes:
    lines = (
        b'compatible = "kho-v3"\n',
        b"[preserved]\nmax_bytes = 1\n",
        b'[[files]]\nsession = "vm-a"\ntoken = 1\n',
        b'[subnodes]\nrequired = ["LUO", "x"]\n',
        b'[[ranges]]\nstart = "0x100000"\nsize = "8K"\n',
        b'"\\u001b[31m" = 2\n',
        TEXTS[cursor.u8() % len(TEXTS)].replace(b"\0", b"") + b" = 1\n",
    )
    return b"".join(lines[cursor.u8() % len(lines)] for _ in range(2))


def _ranges(it: Fuzzed, cursor: Cursor) -> Args:
    flags = cursor.u8()
    args = ["--by-order"] * (flags & 1) + ["--owners"] * (flags >> 1 & 1)
    if flags & 4:
        args += ["--order", str(cursor.u8() % 54)]
    # A map can say that all memory is preserved, piece by piece.
    return [*args, "--limit", str(4 * cursor.u8() + 4)]


def _extract(it: Fuzzed, cursor: Cursor) -> Args:
    args = ["-o", str(it.out), "--force"]
    kind = cursor.u8() % 8
    if kind < 2:
        args.append(_text(cursor))
    elif kind == 2:
        args.append(f"vmalloc@{_address(cursor, it.seed)}")
    elif kind == 3:
        args.append(f"range@{_address(cursor, it.seed)}-{_address(cursor, it.seed)}")
    return args


def _read(it: Fuzzed, cursor: Cursor) -> Args:
    kind = cursor.u8() % 4
    if kind:
        return ["*" if kind == 1 else _text(cursor)]
    return [f"{_address(cursor, it.seed)}-{_address(cursor, it.seed)}"]


def _pack(it: Fuzzed, cursor: Cursor) -> Args:
    flags = cursor.u8()
    return ["-o", str(it.file), "--force"] + ["--content"] * (flags & 1)


Maker = Callable[[Fuzzed, Cursor], Args]
_COMMANDS: tuple[tuple[str, Maker], ...] = (
    ("show", lambda it, cursor: ["--full"] * (cursor.u8() & 1)),
    ("check", _check),
    ("tree", lambda it, cursor: ["--full"] * (cursor.u8() & 1)),
    ("ranges", _ranges),
    ("blobs", lambda it, cursor: ["--hexdump"] * (cursor.u8() & 1)),
    ("owners", lambda it, cursor: []),
    ("addr", lambda it, cursor: [_address(cursor, it.seed) for _ in range(4)]),
    ("extract", _extract),
    ("locate", lambda it, cursor: ["--write-dtb", str(it.file), "--force"] * (cursor.u8() & 1)),
    ("pack", _pack),
    ("expect", lambda it, cursor: []),
    ("blobs", lambda it, cursor: [_text(cursor)]),
    ("files", lambda it, cursor: ["--sha256", "--long"][: cursor.u8() % 3]),
    ("addr", lambda it, cursor: ["*+0x1001", _text(cursor)][: cursor.u8() % 2 + 1]),
    ("read", _read),
    ("log", lambda it, cursor: ["--kho", "-x"][: cursor.u8() % 3]),
    ("carve", lambda it, cursor: []),
    ("find", lambda it, cursor: ["--u64", _address(cursor, it.seed), "--limit", "99"]),
)


_MORE: tuple[Args, ...] = (
    *(
        [f"--max-{name}", number]
        for name, number in (("nodes", "4"), ("runs", "2"), ("files", "1"))
    ),
    *(
        [f"--max-{name}", number]
        for name, number in (("blob", "16"), ("fdt", "300"), ("runs", "0"))
    ),
    *(["--page-size", size] for size in ("4K", "16K", "64K")),
    *(["--assume-abi", abi] for abi in ("kho-v1", "kho-v2", "kho-v3", "kho-v4")),
    *(["--dump-format", name] for name in ("raw", "elf", "lime", "kdump")),
    ["--dump-format", "raw", "--base", "0x100000"],
    ["--dump-format", "raw", "--map", "0x100000:0:0x1000", "--map", "4G:0x1000:64K"],
)
"""What changes how any input is read."""
_DUMP_ONLY = ("--dump-format", "--base", "--map")


def _reading(name: str, number: int) -> Args:
    """Options for about half of the numbers up to 31."""
    args = _MORE[number - 1] if 0 < number <= len(_MORE) else []
    return [] if name in ("locate", "log") and args and args[0] not in _DUMP_ONLY else args


def command(data: bytes) -> None:
    """Run one command twice; see the module for what must hold."""
    cursor = Cursor(data)
    name, make = _COMMANDS[cursor.u8() % len(_COMMANDS)]
    seeds = images.kernels() if name == "log" else images.handovers()
    seed = seeds[cursor.u8() % len(seeds)]
    own = Cursor(cursor.take(8))
    patched = patch(seed, cursor)
    if len(patched.dropped) and not blocks_of(seed, patched):
        return
    with _folder() as home, _settings(COLUMNS[own.u8() % len(COLUMNS)]):
        it = Fuzzed(home, seed, patched, own)
        # Mostly with its DTB; else the FDT is looked for.
        reading = own.u8()
        dtb = "auto" if reading % 8 == 7 else str(it.dtb)
        files = [str(it.dump)] if name in MEMORY_ONLY else [str(it.dump), dtb]
        args = [name, *files, *_reading(name, reading >> 3), *make(it, own)]
        text = in_process(*args)
        check_result(name, text, args)
        it.check()
        if text.status == 3 and (name == "pack" or (name == "extract" and args[-1] == "--force")):
            # Damage costs itself: what can be shown can be taken out.
            shown = in_process("blobs", *files, *_reading(name, reading >> 3))
            assert shown.status == 3, text.stderr
        machine = in_process(*args, "--json")
        check_result(name, machine, [*args, "--json"])
        assert machine.status == text.status, f"{machine.status} with --json, else {text.status}"
        assert "\n  try: " not in machine.stdout
        if machine.stdout:
            assert isinstance(json.loads(machine.stdout), dict)
        it.check()


@contextmanager
def _folder() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="kho-fuzz-"))
    try:
        yield home
    finally:
        shutil.rmtree(home)


@contextmanager
def _settings(columns: str) -> Iterator[None]:
    with (
        mock.patch.dict(os.environ, {"COLUMNS": columns}),
        mock.patch.object(content, "MAX_HASHED_HOLES", SMALL_HOLES),
    ):
        yield


def check_result(name: str, result: Result, args: Args) -> None:
    """The exit status is one of five, errors are in words, and nothing moves the cursor."""
    assert result.status in (0, 1, 2, 3, 4), result
    for stream in (result.stdout, result.stderr):
        plain = "\n\t" if name in TABBED and stream is result.stdout else "\n"
        odd = {char for char in stream if not char.isprintable() and char not in plain}
        assert not odd, f"{odd} in the output of {args}"
        assert "Traceback" not in stream
    # What run() makes of an exception that nobody foresaw.
    for words in ("out of memory", "cannot write the output"):
        assert not result.stderr.startswith(f"kho-inspect: {words}"), result.stderr
    if result.status == 2:
        assert result.stderr.startswith(("Usage: ", "kho-inspect: "))
    elif result.status == 3:
        documents = {"--json", "json", "junit", "sarif", "github"} & {*args}
        assert name in ("locate", "carve") or bool(documents) == bool(result.stdout)
        assert result.stderr.startswith("kho-inspect: ") or (
            name in ("locate", "carve") and result.stdout
        )
        # Why an image is no good one comes behind what is wrong with it.
        assert len(result.stderr.splitlines()) <= (4 if name == "expect" else 2)
    elif name in SPEAKING:
        lines = result.stderr.splitlines()
        assert all(line.startswith(("kho-inspect: ", "  try: ")) for line in lines), lines
    elif name == "log":
        assert all(line.startswith(("  ", "▶ ")) for line in result.stderr.splitlines())
    elif result.status != 4 or result.stderr:
        # A caution, for a status of 1 its reason, or that an order has no block.
        starts = {4: "kho-inspect: caution: ", 1: "kho-inspect: "}
        none = "kho-inspect: no block of "
        spoken = result.stderr.startswith((none, starts.get(result.status, none)))
        assert spoken or (result.status != 4 and not result.stderr), result.stderr
    _check_form(result, args)


def _check_form(result: Result, args: Args) -> None:
    """What machines read can be read."""
    if result.stdout.startswith("{") or not result.stdout:
        json.loads(result.stdout or "{}")
    elif "junit" in args:
        ElementTree.fromstring(result.stdout)
    elif args[0] == "expect":
        tomllib.loads(result.stdout)
