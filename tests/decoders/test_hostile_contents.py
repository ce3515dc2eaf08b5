"""Contents that lie: cycles, counts, pointers, names. A report or a fault, never a traceback."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kho_inspect.recover import content as recovered
from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.cli import DTB, DUMP, REPO, Result
from tests.support.extracting import files_in
from tests.support.luo_builder import File, Session
from tests.support.running import document, in_process, save

PAGE = 4096
ALL_ONES = (1 << 64) - 1
OUTSIDE = 1 << 44
FLIPS = 8
WORDS = 80


@dataclass
class Target:
    """A finished image, and the address of every field that is worth a lie."""

    image: Image
    dtb: bytes
    luo: write.Luo
    pointers: dict[str, int] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Address and width in bytes."""
    structures: list[tuple[int, int]] = field(default_factory=list)
    """(address, size) of everything that is decoded."""


def target(abi: str = "kho-v4") -> Target:
    """Two sessions, one of 70 files, four memfds, FLBs and the other blobs."""
    image = Image(12, abi)
    large = write.memfd(image, write.pattern(9 * PAGE, 1), layout=[(0, 2), (4, 1), (8, 0)])
    small = write.memfd(image, write.pattern(PAGE, 2), version=1)
    empty = write.memfd(image, b"")
    opaque = [File(100 + at, compatible=b"opaque", data=at) for at in range(67)]
    sessions = [
        Session(b"vm-a", [File(1, large), File(2, small), File(3, empty), *opaque]),
        Session(b"vm-b", [File(1, write.memfd(image, write.pattern(300 * PAGE, 3)))]),
    ]
    flbs = [(b"flb-a", ALL_ONES, 1), (b"flb-b", 0, ALL_ONES)]
    luo = (write.luo_v5 if abi == "kho-v4" else write.luo_v1)(image, sessions, flbs)
    _, props = write.reserve_mem(image, 2)
    region = write.memblock(image, [(b"trace", props)])
    test = write.kho_test(image, [(0, b"a"), (1, b"b")])
    release = write.metadata(image, b"7.3.4", 1)
    found = Target(image, image.finish(), luo)
    assert test.area is not None
    found.pointers = {
        "session files": luo.sessions.entries[0] + 64,
        "file data": luo.files[0].entries[0] + 48,
        "folios.first": large.fields["folios"],
        "v1 folios.first": small.fields["folios"],
        "folio chunk.next": large.area.chunks[0],
        "folio chunk[0]": large.area.chunks[0] + 8,
        "folio[0]": large.area.pieces[0],
        "kho_test chunk.next": test.area.chunks[0],
        "kho_test chunk[0]": test.area.chunks[0] + 8,
        "kho_test folio[0]": test.area.pieces[0],
    }
    found.counts = {
        "sessions": (luo.sessions.counts[0], 8),
        "session files": (luo.sessions.entries[0] + 72, 8),
        "FLB pgcnt": (luo.flbs, 8),
        "FLB count": (luo.flbs + 8, 8),
        "nr_folios": (large.fields["nr_folios"], 8),
        "v1 nr_folios": (small.fields["nr_folios"], 8),
        "total_pages": (large.fields["total_pages"], 4),
        "folio index": (large.area.pieces[0] + 8, 8),
        "memfd size": (large.fields["size"], 8),
    }
    if abi == "kho-v4":
        found.pointers |= {
            "sessions_pa": luo.blob + 16,
            "flbs_pa": luo.blob + 24,
            "session block.next": luo.sessions.pages[0],
            "file block.next": luo.files[0].pages[0],
        }
        found.counts |= {"files": (luo.files[0].counts[0], 8)}
    pages = [*luo.sessions.pages, *(page for files in luo.files for page in files.pages)]
    sizes = {page: 2 * 80 + 16 if page in luo.sessions.pages else 4000 for page in pages}
    for memfd in (large, small, empty):
        sizes |= {memfd.paddr: 48}
        sizes |= dict.fromkeys(memfd.area.chunks, 24)
        sizes |= {piece: 16 * len(memfd.folios) for piece in memfd.area.pieces}
    sizes |= {luo.blob: luo.size, luo.flbs: 16 + 2 * 64, region: 200, test.blob: test.size}
    sizes |= {test.area.chunks[0]: 24, test.area.pieces[0]: 16, release: 73}
    found.structures = list(sizes.items())
    return found


# -- what must hold of every run


VIRTUAL = 0xFFFF << 48
"""From here on an address is a kernel's virtual one, and ``addr`` says so on stderr."""


@pytest.fixture(autouse=True)
def little_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with large holes get no digest, as ever; only that "large" is less."""
    monkeypatch.setattr(recovered, "MAX_HASHED_HOLES", 1 << 24)


def assert_printable(text: str) -> None:
    assert text.replace("\n", "").replace("\t", "").isprintable()


def assert_sane(result: Result) -> None:
    assert result.status in (0, 1, 2, 3)
    assert_printable(result.stdout)
    assert_printable(result.stderr)
    if result.status in (2, 3):
        assert result.stdout == ""
        assert result.stderr.startswith("kho-inspect: ")
        assert len(result.stderr.splitlines()) <= 2
    elif result.status == 0:
        assert result.stderr == ""


Take = Callable[..., None]


def run_all(
    folder: Path, files: tuple[Path, Path], addresses: list[int], take: Take
) -> dict[str, Any]:
    """Every command that looks at contents, what they say given to ``take``.

    Returns ``show --json``.
    """
    result = in_process("show", *files, "--json")
    assert_sane(result)
    assert result.status != 3
    shown: dict[str, Any] = json.loads(result.stdout)
    text = in_process("show", *files)
    assert_sane(text)
    assert text.status == result.status
    checked, owners = (in_process(name, *files, "--json") for name in ("check", "owners"))
    assert_sane(checked)
    assert_sane(owners)
    assert_sane(in_process("owners", *files))
    take(result.stdout, result.stderr, checked.stdout, owners.stdout)
    physical = [hex(paddr) for paddr in addresses if paddr < VIRTUAL]
    assert_sane(in_process("addr", *files, *physical or ["0"]))
    out = folder / "extracted"
    before = {path for path in folder.rglob("*") if out not in [path, *path.parents]}
    assert_sane(in_process("extract", *files, "-o", out, "--force"))
    assert before == {path for path in folder.rglob("*") if out not in [path, *path.parents]}
    assert not any(name.endswith(".partial") for name in files_in(out))
    if (manifest := out / "manifest.json").exists():
        take(manifest.read_text())
    return shown


# -- one lie at a time

LIES: dict[str, Callable[[int, int], int]] = {
    "outside": lambda at, old: OUTSIDE,
    "beyond 64 bits": lambda at, old: ALL_ONES & ~(PAGE - 1),
    "all ones": lambda at, old: ALL_ONES,
    "misaligned": lambda at, old: old + 8,
    "itself": lambda at, old: at & ~(PAGE - 1),
    "page 0": lambda at, old: 0,
}
POINTERS = [
    "session files",
    "file data",
    "folios.first",
    "v1 folios.first",
    "folio chunk.next",
    "folio chunk[0]",
    "folio[0]",
    "kho_test chunk.next",
    "kho_test chunk[0]",
    "kho_test folio[0]",
]
CHAINED = ["sessions_pa", "flbs_pa", "session block.next", "file block.next"]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(
    ("abi", "name"),
    [("kho-v4", name) for name in POINTERS + CHAINED] + [("kho-v3", name) for name in POINTERS[:2]],
)
def test_a_pointer_that_lies(
    tmp_path: Path, abi: str, name: str, lie: str, as_reviewed: Take
) -> None:
    it = target(abi)
    at = it.pointers[name]
    value = LIES[lie](at, it.image.read_u64(at)) % (1 << 64)
    it.image.write_u64(at, value)
    shown = run_all(tmp_path, save(it.image, tmp_path, it.dtb), [at, value], as_reviewed)
    packed = tmp_path / "packed.elf"
    assert_sane(in_process("pack", tmp_path / "dump.elf", tmp_path / "kho.dtb", "-o", packed))
    if packed.exists():
        as_reviewed(hashlib.sha256(packed.read_bytes()).hexdigest())
    if lie in ("outside", "all ones", "beyond 64 bits"):
        troubles = shown["faults"] or shown["ownership"]["dangling_bytes"]
        assert troubles, "nobody noticed"
    # Damage in one place costs nothing in the others.
    kinds = {blob["name"]: blob["decoded"] for blob in shown["blobs"]}
    assert kinds["kexec-metadata"]["previous_release"] == "7.3.4"
    if not name.startswith(("session", "flbs")):
        names = [session["name"] for session in kinds["LUO"]["sessions"]]
        assert names == ["vm-a", "vm-b"]
        assert len(kinds["LUO"]["flb"]) == 2


@pytest.mark.parametrize("value", [ALL_ONES, 1 << 63, 1 << 20])
@pytest.mark.parametrize("abi", ["kho-v3", "kho-v4"])
def test_counts_that_lie(tmp_path: Path, abi: str, value: int, as_reviewed: Take) -> None:
    names = list(target(abi).counts)
    for name in names:
        it = target(abi)
        at, width = it.counts[name]
        it.image.write(at, (value % (1 << 8 * width)).to_bytes(width, "little"))
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        shown = run_all(folder, save(it.image, folder, it.dtb), [at], as_reviewed)
        kinds = {fault["kind"] for fault in shown["faults"]}
        if name in ("sessions", "files", "FLB count"):
            assert kinds & {"block-count", "luo-count", "luo-array-missing"}, name
        elif name.endswith("nr_folios"):
            assert kinds == {"memfd-folios"}, name
        elif name == "total_pages" and value % (1 << 32):
            assert kinds == {"vmalloc-count"}, name


# -- names

NAMES = [
    b"\x1b[31mred\x1b[0m",
    b"[bold red]markup[/] [link=x]",
    b"two\nlines\r\ttab",
    "‮gnp.exe​".encode(),
    b"\xff\xfe\x80",
    b"n" * 64,
    b"",
    b"../../etc/x",
    b"\x9b2J\x07",
]


def named(name: bytes) -> Image:
    """The name wherever a name can be."""
    image = Image()
    made = write.memfd(image, b"x")
    files = [File(1, made), File(2, compatible=name[:48], data=ALL_ONES)]
    write.luo_v5(image, [Session(name, files)], [(name[:48], 1, 1)])
    _, props = write.reserve_mem(image, 1)
    write.memblock(image, [(name.replace(b"\0", b""), props)])
    write.metadata(image, (name + name)[:65], 1)
    return image


@pytest.mark.parametrize("columns", ["40", "200"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_reaches_the_terminal_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    image = named(name)
    files = save(image, tmp_path, image.finish())
    for command in (["show"], ["blobs"], ["owners"], ["ranges", "--owners"]):
        result = in_process(command[0], *files, *command[1:])
        assert_sane(result)
        assert result.status in (0, 1)
    result = in_process("extract", *files, "-o", tmp_path / "out")
    assert_sane(result)
    assert result.status == 0
    assert_sane(in_process("extract", *files, f"LUO/{name!r}", "-o", tmp_path / "out2"))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_whole_in_json(tmp_path: Path, name: bytes) -> None:
    image = named(name)
    shown = document("show", *save(image, tmp_path, image.finish()))
    (luo,) = [blob["decoded"] for blob in shown["blobs"] if blob["name"] == "LUO"]
    text = name.split(b"\0")[0].decode("utf-8", "backslashreplace")
    assert [session["name"] for session in luo["sessions"]] == [text]


# -- words at random


def some_value(rng: random.Random, image: Image) -> int:
    pages = sorted(image.pages)
    return rng.choice(
        [
            0,
            1,
            ALL_ONES,
            1 << 63,
            rng.getrandbits(64),
            1 << rng.randrange(64),
            rng.choice(pages),
            rng.choice(pages) + 8 * rng.randrange(512),
            rng.choice(pages) >> 12 | 3 << 52,
        ]
    )


def flipped(image: Image, places: list[int], seed: int) -> Iterator[list[int]]:
    """The image with one to four words changed, and where; as it was afterwards."""
    rng = random.Random(seed)
    for _ in range(FLIPS):
        hit = rng.choices(places, k=rng.choice((1, 1, 2, 4)))
        before = [(at, image.read(at, 8)) for at in hit]
        for at in hit:
            image.write_u64(at, some_value(rng, image))
        yield hit
        for at, data in reversed(before):
            image.write(at, data)


@pytest.mark.parametrize("abi", ["kho-v3", "kho-v4"])
def test_what_is_said_of_one_changed_word_is_as_reviewed(
    tmp_path: Path, abi: str, as_reviewed: Take
) -> None:
    it, rng = target(abi), random.Random(5)
    places = [at + word for at, size in it.structures for word in range(0, size - 7, 8)]
    for at in rng.sample(places, WORDS):
        old = it.image.read_u64(at)
        some = [0, 1, old + 1, old ^ 1 << rng.randrange(64), old << 1, some_value(rng, it.image)]
        it.image.write_u64(at, rng.choice(some) & ALL_ONES)
        for name in ("show", "check"):
            said = in_process(name, *save(it.image, tmp_path, it.dtb), "--json")
            as_reviewed(said.stdout, said.stderr)
        it.image.write_u64(at, old)


@pytest.mark.parametrize("abi", ["kho-v3", "kho-v4"])
def test_random_words_in_a_built_image(tmp_path: Path, abi: str, as_reviewed: Take) -> None:
    it = target(abi)
    places = [at + word for at, size in it.structures for word in range(0, size - 7, 8)]
    for hit in flipped(it.image, places, 7):
        run_all(tmp_path, save(it.image, tmp_path, it.dtb), hit, as_reviewed)


def sample_image() -> Image:
    """The shipped sample as an image that can be changed and written."""
    raw = (REPO / DUMP).read_bytes()
    phoff, count = struct.unpack_from("<Q", raw, 32)[0], struct.unpack_from("<H", raw, 56)[0]
    image = Image(12, "kho-v2", (0, 128 << 20))
    for number in range(count):
        kind, _, offset, _, paddr, size = struct.unpack_from("<IIQQQQ", raw, phoff + 56 * number)
        if kind == 1:
            image.write(paddr, raw[offset : offset + size])
    return image


def sample_structures() -> Iterator[tuple[int, int]]:
    """(address, size) of everything of LUO, from what the undamaged sample says."""
    blobs = document("show", REPO / DUMP, REPO / DTB)["blobs"]
    luo = next(blob for blob in blobs if blob["name"] == "LUO")
    yield int(luo["paddr"], 16), luo["size"]
    yield int(luo["decoded"]["sessions_pa"], 16), 8 + 3 * 80
    yield int(luo["decoded"]["flbs_pa"], 16), 16 + 3 * 64
    for session in luo["decoded"]["sessions"]:
        yield int(session["files_pa"], 16), 64 * session["count"]
        for file in session["files"]:
            yield int(file["data"], 16), 48
            for chunk in file["memfd"]["folios"]["chunks"]:
                yield int(chunk, 16), 24


def test_random_words_in_the_sample(tmp_path: Path, as_reviewed: Take) -> None:
    image, dtb = sample_image(), (REPO / DTB).read_bytes()
    places = [at + word for at, size in sample_structures() for word in range(0, size - 7, 8)]
    for hit in flipped(image, places, 11):
        run_all(tmp_path, save(image, tmp_path, dtb), hit, as_reviewed)
