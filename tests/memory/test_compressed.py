"""Dumps inside gzip, xz and zstd: unpacked once, probed as what they are."""

from __future__ import annotations

import gzip
import lzma
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.errors import KhoError, UnreadableInputError
from kho_inspect.memory import Presence, compressed, open_memory
from kho_inspect.memory.files import MappedFile
from tests.support.builder import Image
from tests.support.cli import DUMP, REPO
from tests.support.kdump_writer import flatten, write_kdump, write_lime
from tests.support.running import in_process

PAGE = 4096


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    # As the command does it: the library leaves the checksum out.
    packed: bytes = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    return packed


def quick_xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "xz": quick_xz, "zstd": zstd}


@pytest.fixture(params=PACKERS)
def packing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image() -> Image:
    image = Image(ram=(0x100000, 0x200000))
    image.write(0x101000, random.Random(1).randbytes(3 * PAGE))
    image.write(0x2FF000, b"the last page".ljust(PAGE, b"\0"))
    return image


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return tmp_path / "dump"


def pack(path: Path, packing: str) -> Path:
    packed = path.with_name(f"{path.name}.{packing}")
    packed.write_bytes(PACKERS[packing](path.read_bytes()))
    return packed


def write_as(image: Image, path: Path, form: str) -> None:
    if form == "raw":
        image.write_raw(path)
    elif form == "elf":
        image.write_elf(path, declare_ram=True)
    elif form == "lime":
        write_lime(path, image.runs())
    else:
        write_kdump(path, {paddr // PAGE: bytes(page) for paddr, page in image.pages.items()})
        if form == "flattened":
            flat = path.with_name("flat")
            flatten(path, flat)
            flat.rename(path)


@pytest.mark.parametrize("form", ["raw", "elf", "lime", "kdump", "flattened"])
def test_every_format_may_come_compressed(
    image: Image, dump: Path, form: str, packing: str
) -> None:
    write_as(image, dump, form)
    plain = open_memory(str(dump))
    packed = pack(dump, packing)
    inner = "kdump" if form == "flattened" else form
    for name in ("auto", inner):
        memory = open_memory(str(packed), format_name=name)
        wrapping = f"flattened, {packing}" if form == "flattened" else packing
        assert memory.format == f"{inner} ({wrapping})"
        assert (memory.path, memory.size, memory.notes) == (str(packed), plain.size, ())
        assert (memory.stored, memory.declared) == (plain.stored, plain.declared)
        assert memory.read(0x101000, 3 * PAGE) == image.read(0x101000, 3 * PAGE)
        assert memory.read(0x2FF000, PAGE) == image.read(0x2FF000, PAGE)


def test_base_and_blocks_place_what_is_inside(image: Image, dump: Path, packing: str) -> None:
    image.write_raw(dump, base=0x100000)
    memory = open_memory(str(pack(dump, packing)), base=0x100000)
    assert memory.read(0x101000, PAGE) == image.read(0x101000, PAGE)
    assert memory.presence(0) is Presence.OUTSIDE


def test_format_names_what_is_inside(image: Image, dump: Path, packing: str) -> None:
    image.write_raw(dump)
    with pytest.raises(UnreadableInputError, match="not an ELF"):
        open_memory(str(pack(dump, packing)), format_name="elf")


def test_zeros_become_holes(image: Image, dump: Path, packing: str) -> None:
    image.write_raw(dump)
    memory = open_memory(str(pack(dump, packing)))
    chunks = [(paddr, len(data)) for paddr, data in memory.data_chunks(1 << 20, 0)]
    assert chunks == [(0x101000, 3 * PAGE), (0x2FF000, PAGE)]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 9000)), min_size=1, max_size=6),
    st.sampled_from(sorted(PACKERS)),
    st.integers(1, 7000),
)
def test_any_data_comes_out_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, shape: list[tuple[bool, int]], packing: str, fed: int
) -> None:
    rng = random.Random(len(shape))
    data = b"raw." + b"".join(rng.randbytes(n) if full else bytes(n) for full, n in shape)
    path = tmp_path_factory.mktemp("any") / "dump"
    half = len(data) // 2
    path.write_bytes(PACKERS[packing](data[:half]) + PACKERS[packing](data[half:]))
    before = compressed.FED, compressed.PIECE
    try:
        compressed.FED, compressed.PIECE = fed, 2 * fed
        memory = open_memory(str(path))
    finally:
        compressed.FED, compressed.PIECE = before
    assert memory.read(0, len(data)) == data


def test_streams_one_behind_the_other_are_one_dump(dump: Path, packing: str) -> None:
    parts = [bytes(PAGE), b"X" * PAGE, bytes(10) + b"Y"]
    dump.write_bytes(b"".join(map(PACKERS[packing], parts)) + bytes(512))
    memory = open_memory(str(dump))
    assert memory.notes == ()
    assert memory.read(0, memory.size) == b"".join(parts)


def test_progress_counts_the_compressed_bytes(image: Image, dump: Path, packing: str) -> None:
    image.write_raw(dump)
    packed = pack(dump, packing)
    told: list[int] = []
    open_memory(str(packed), progress=told.append)
    assert sum(told) == packed.stat().st_size


# -- damage


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_stream_cut_short_gives_what_came_before(dump: Path, packing: str, kept: float) -> None:
    data = random.Random(2).randbytes(1 << 20)
    whole = PACKERS[packing](data)
    dump.write_bytes(whole[: int(len(whole) * kept)])
    memory = open_memory(str(dump))
    assert len(memory.notes) == 1
    assert f"the {packing} stream is cut short after" in memory.notes[0]
    assert 0 < memory.size <= len(data)
    assert memory.read(0, memory.size) == data[: memory.size]


def test_garbage_behind_the_stream_is_noted(dump: Path, packing: str) -> None:
    dump.write_bytes(PACKERS[packing](b"raw." + bytes(PAGE)) + b"something else")
    memory = open_memory(str(dump))
    assert memory.size == PAGE + 4
    assert "is damaged" in memory.notes[0]


def test_a_stream_with_nothing_in_it_is_refused(dump: Path, packing: str) -> None:
    magic = {p.name: p.magic for p in compressed.PACKINGS}[packing]
    for content in (magic, magic.ljust(600, b"\xff"), PACKERS[packing](b"")):
        dump.write_bytes(content)
        with pytest.raises(UnreadableInputError, match=f"compressed with {packing}") as caught:
            open_memory(str(dump))
        assert caught.value.source == str(dump)
        assert "--dump-format raw" in (caught.value.hint or "")


def test_raw_memory_that_only_starts_like_a_stream_is_raw_when_asked_for(
    dump: Path, packing: str
) -> None:
    if packing == "zstd":
        pytest.importorskip("zstandard")  # what is no stream can only be told by trying
    magic = {p.name: p.magic for p in compressed.PACKINGS}[packing]
    dump.write_bytes(magic.ljust(PAGE, b"\xff"))
    memory = open_memory(str(dump), format_name="raw")
    assert (memory.format, memory.size) == ("raw", PAGE)


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_end_in_words(image: Image, dump: Path, packing: str, seed: int) -> None:
    image.write_elf(dump)
    data = bytearray(PACKERS[packing](dump.read_bytes()))
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(6, len(data))] ^= 1 << rng.randrange(8)
    dump.write_bytes(data)
    try:
        memory = open_memory(str(dump))
    except KhoError:
        return
    changed = b"".join(bytes(data) for _, data in memory.data_chunks(1 << 20, 0))
    # Only bits that mean nothing (gzip's time and system, say) pass unnoticed.
    assert memory.notes or changed == b"".join(data for _, data in image.runs())


# -- limits


def test_a_disk_too_small_is_refused(
    dump: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump.write_bytes(PACKERS[packing](random.Random(3).randbytes(1 << 20)))
    monkeypatch.setattr(compressed, "_free_bytes", lambda fd: compressed.RESERVE - 1)
    with pytest.raises(UnreadableInputError, match="No space left on device") as caught:
        open_memory(str(dump))
    assert "set TMPDIR to a larger disk" in (caught.value.hint or "")


def test_a_temporary_folder_that_is_not_there_is_named(
    dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump.write_bytes(gzip.compress(b"raw." * PAGE))
    monkeypatch.setenv("TMPDIR", "/nowhere at all")
    with pytest.raises(UnreadableInputError, match="unpacked to /nowhere at all: No such file"):
        open_memory(str(dump))


def test_a_bomb_of_zeros_takes_no_disk(dump: Path, tmp_path: Path) -> None:
    out = zlib.compressobj(wbits=31)
    with dump.open("wb") as file:
        file.write(out.compress(b"raw."))
        for _ in range(256):
            file.write(out.compress(bytes(1 << 20)))
        file.write(out.flush())
    memory = open_memory(str(dump))
    assert memory.size == (256 << 20) + 4
    assert sum(len(data) for _, data in memory.data_chunks(1 << 20, 0)) <= 1 << 16


def test_pieces_stay_small_whatever_comes_out(packing: str, dump: Path) -> None:
    dump.write_bytes(PACKERS[packing](bytes(100 << 20)))
    row = next(row for row in compressed.PACKINGS if row.name == packing)
    sizes = [len(piece) for piece in compressed._pieces(MappedFile(str(dump)), row, lambda n: None)]
    assert sum(sizes) == 100 << 20
    assert max(sizes) <= 64 << 20


def test_a_window_beyond_all_reason_is_refused(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    dump.write_bytes(lzma.compress(bytes(1 << 20), filters=filters))
    monkeypatch.setattr(compressed, "MAX_WINDOW", 1 << 17)
    with pytest.raises(UnreadableInputError, match="Memory usage limit"):
        open_memory(str(dump))


def test_zstd_without_its_module_says_how_to_get_it(
    dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump.write_bytes(b"\x28\xb5\x2f\xfd".ljust(PAGE, b"\0"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UnreadableInputError, match="needs the Python module zstandard") as caught:
        open_memory(str(dump))
    assert "pip install 'kho-inspect[zstd]'" in (caught.value.hint or "")
    assert "zstd -d" in (caught.value.hint or "")
    assert str(dump) in caught.value.message


def test_gzip_and_xz_need_no_module(
    image: Image, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image.write_raw(dump)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    for packing in ("gzip", "xz"):
        memory = open_memory(str(pack(dump, packing)))
        assert memory.read(0x101000, PAGE) == image.read(0x101000, PAGE)


def test_the_temporary_file_has_no_name(
    image: Image, dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    image.write_raw(dump)
    memory = open_memory(str(pack(dump, "gzip")))
    assert list(folder.iterdir()) == []
    assert memory.read(0x101000, PAGE) == image.read(0x101000, PAGE)


def test_members_of_one_byte_are_not_written_one_by_one() -> None:
    pieces = list(compressed._joined(iter([b"a"] * 50_000)))
    assert pieces == [b"a" * 50_000]


def test_what_came_before_damage_is_kept() -> None:
    def broken() -> Iterator[bytes]:
        yield b"abc"
        raise EOFError("is damaged")

    joined = compressed._joined(broken())
    assert next(joined) == b"abc"
    with pytest.raises(EOFError, match="is damaged"):
        next(joined)


# -- bombs


def test_what_is_left_of_a_piece_is_not_copied_for_each_member(packing: str, dump: Path) -> None:
    member = PACKERS[packing](b"x")
    dump.write_bytes(member * 5000)
    row = next(row for row in compressed.PACKINGS if row.name == packing)
    given_back = 0

    class Decoder:
        def __init__(self, module: object) -> None:
            self.inner = row.decoder(module)

        def __getattr__(self, name: str) -> object:
            nonlocal given_back
            found = getattr(self.inner, name)
            given_back += len(found) if name == "unused_data" else 0
            return found

    pieces = compressed._pieces(
        MappedFile(str(dump)), row._replace(decoder=Decoder), lambda size: None
    )
    assert sum(map(len, pieces)) == 5000
    assert given_back <= compressed.FED * 5000


@pytest.mark.parametrize("kind", ["zeros", "ones", "noise"])
def test_a_dump_beyond_the_budget_is_cut_off_and_said(dump: Path, packing: str, kind: str) -> None:
    size = 3 << 20
    rest = random.Random(4).randbytes(size) if kind == "noise" else bytes([kind == "ones"]) * size
    dump.write_bytes(PACKERS[packing](b"raw." + rest[4:]))
    memory = open_memory(str(dump), max_unpacked=1_500_000)
    assert memory.size == 1_500_000
    assert memory.notes == (
        f"the {packing} stream holds more than 1,500,000 bytes; --max-unpacked raises that: "
        "it is cut off after 1.4 MiB of the dump",
    )
    assert bytes(memory.read(4, 1_499_996)) == rest[4:1_500_000]
    enough = open_memory(str(dump), max_unpacked=size)
    assert (enough.size, enough.notes) == (size, ())


def test_no_more_is_unpacked_than_the_budget(
    dump: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is bounded by it, too."""
    dump.write_bytes(PACKERS[packing](bytes(8 << 20)) * 40)
    made = 0
    pieces = compressed._pieces

    def counted(*args: Any) -> Iterator[bytes]:
        nonlocal made
        for piece in pieces(*args):
            made += len(piece)
            yield piece

    monkeypatch.setattr(compressed, "_pieces", counted)
    open_memory(str(dump), max_unpacked=10 << 20)
    assert 10 << 20 < made <= 20 << 20


def test_a_budget_of_nothing_is_named(dump: Path, packing: str) -> None:
    dump.write_bytes(PACKERS[packing](b"raw."))
    with pytest.raises(UnreadableInputError, match="--max-unpacked raises that"):
        open_memory(str(dump), max_unpacked=0)


@pytest.mark.parametrize(
    ("command", "status"),
    [("show", 4), ("check", 4), ("owners", 1), ("locate", 0), ("carve", 0), ("log", 3)],
)
def test_every_command_has_the_budget_of_a_packed_dump(
    dump: Path, command: str, status: int
) -> None:
    dump.write_bytes(gzip.compress((REPO / DUMP).read_bytes()))
    cut = in_process(command, dump, "--max-unpacked", "300K")
    assert (cut.status, "internal error" in cut.stderr) == (status, False)
    if command in ("show", "check"):
        assert "holds more than 307,200 bytes; --max-unpacked raises that" in cut.stdout
