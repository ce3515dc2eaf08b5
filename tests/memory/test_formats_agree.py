"""The same memory in every format gives the same answer, to the letter but for its source."""

from __future__ import annotations

import gzip
import lzma
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.errors import KhoError
from kho_inspect.inspection import inspect
from tests.support.builder import Image
from tests.support.captures import HOME, Capture
from tests.support.dump_files import raw_to_elf
from tests.support.kdump_writer import (
    LZO,
    SNAPPY,
    ZLIB,
    ZSTD,
    flatten,
    pages_of,
    raw_to_lime,
    write_kdump,
    write_lime,
)
from tests.support.running import document


def quick_zlib(page: bytes) -> bytes:
    return zlib.compress(page, 1)


def to_elf(capture: Capture, path: Path) -> None:
    raw_to_elf(capture.dump, path, capture.base)


def to_lime(capture: Capture, path: Path) -> None:
    raw_to_lime(capture.dump, path, capture.base, cuts=(0x9F000, 0x500000))


def to_kdump(capture: Capture, path: Path, flag: int, codec: Callable[[bytes], bytes]) -> None:
    # QEMU counts arm64 memory by the largest page there is.
    block = 65536 if capture.base else 4096
    pages = pages_of(capture.dump, capture.base, block)
    write_kdump(path, pages, block=block, flag=flag, codec=codec)


def to_zlib(capture: Capture, path: Path) -> None:
    to_kdump(capture, path, ZLIB, quick_zlib)


def to_zstd(capture: Capture, path: Path) -> None:
    to_kdump(capture, path, ZSTD, pytest.importorskip("zstandard").compress)


def to_lzo(capture: Capture, path: Path) -> None:
    to_kdump(capture, path, LZO, pytest.importorskip("lzallright").LZOCompressor().compress)


def to_snappy(capture: Capture, path: Path) -> None:
    compress = pytest.importorskip("cramjam").snappy.compress_raw
    to_kdump(capture, path, SNAPPY, lambda page: bytes(compress(page)))


def to_flattened(capture: Capture, path: Path) -> None:
    to_zlib(capture, path.with_name("inner"))
    flatten(path.with_name("inner"), path, 16384)


def to_xz_raw(capture: Capture, path: Path) -> None:
    path.symlink_to(HOME / capture.name / "dump.raw.xz")


def to_gzip_elf(capture: Capture, path: Path) -> None:
    to_elf(capture, path.with_name("inner"))
    path.write_bytes(gzip.compress(path.with_name("inner").read_bytes(), 1))


def to_zstd_kdump(capture: Capture, path: Path) -> None:
    to_zlib(capture, path.with_name("inner"))
    compress = pytest.importorskip("zstandard").compress
    path.write_bytes(compress(path.with_name("inner").read_bytes()))


FORMS: dict[str, Callable[[Capture, Path], None]] = {
    "elf": to_elf,
    "lime": to_lime,
    "kdump, zlib": to_zlib,
    "kdump, zstd": to_zstd,
    "kdump, lzo": to_lzo,
    "kdump, snappy": to_snappy,
    "kdump (flattened)": to_flattened,
    "raw (xz)": to_xz_raw,
    "elf (gzip)": to_gzip_elf,
    "kdump (zstd)": to_zstd_kdump,
}


COMMANDS = ("show", "check", "locate")


def ask(capture: Capture, dump: Path, command: str, based: bool) -> dict[str, Any]:
    files: list[str | Path] = [dump] if command == "locate" else [dump, capture.dtb]
    return document(command, *files, *(["--base", hex(capture.base)] if based else []))


@pytest.fixture(scope="session")
def raw(capture: Capture) -> dict[str, dict[str, Any]]:
    """What each command says of the capture as it is."""
    return {command: ask(capture, capture.dump, command, True) for command in COMMANDS}


def without_source(found: dict[str, Any]) -> dict[str, Any]:
    """What is said of the handover: not of the file, nor why what it lacks blocks rules."""
    kept = {key: value for key, value in found.items() if key != "source"}
    for judged in (kept, kept.get("check", {})):
        for group in judged.get("integrity", {}).get("blocked", []):
            group.pop("reason", None)
    return kept


@pytest.mark.parametrize("form", FORMS)
def test_a_capture_in_every_format_gives_the_same(
    capture: Capture, raw: dict[str, dict[str, Any]], tmp_path: Path, form: str
) -> None:
    dump = tmp_path / "dump"
    FORMS[form](capture, dump)
    for command in COMMANDS:
        found = ask(capture, dump, command, bool(capture.base) and form.startswith("raw"))
        assert without_source(found) == without_source(raw[command]), command
        if command == "show":
            assert found["source"]["format"] == form.split(",")[0]
            assert found["faults"] == []


def test_the_kdump_that_qemu_wrote_gives_the_same_as_its_raw_dump(tmp_path: Path) -> None:
    folder = HOME / "x86_64-kho-v2"
    if not folder.is_dir():
        pytest.skip(f"no capture at {folder}: set KHO_CAPTURES to the folder of captures")
    dtb = folder / "kho.dtb"
    kdump = document(folder / "dump.kdump-zlib.xz", dtb)
    raw = document(folder / "dump.raw.xz", dtb)
    assert without_source(kdump) == without_source(raw)
    assert kdump["source"]["format"] == "kdump (flattened, xz)"


# -- damage in any format


def small_handover() -> tuple[Image, bytes]:
    image = Image(ram=(1 << 20, 1 << 20))
    image.subnode("blob", image.blob(b"some data" * 900), 8100)
    image.vmalloc(b"words" * 2000)
    return image, image.finish()


def write_small(image: Image, path: Path, form: str) -> None:
    inner = path.with_name(f"{path.name}.inner")
    pages = {at // 4096: bytes(page) for at, page in image.pages.items()}
    if form == "elf":
        image.write_elf(path, declare_ram=True)
    elif form == "lime":
        write_lime(path, image.runs())
    elif form == "kdump":
        write_kdump(path, pages, known=range(0x100, 0x1F0))
    elif form == "flattened":
        write_small(image, inner, "kdump")
        flatten(inner, path)
    elif form == "gzip":
        image.write_raw(inner)
        path.write_bytes(gzip.compress(inner.read_bytes()))
    else:
        write_small(image, inner, "kdump")
        path.write_bytes(lzma.compress(inner.read_bytes(), preset=0))


@pytest.mark.parametrize("form", ["elf", "lime", "kdump", "flattened", "gzip", "xz"])
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_file_of_any_format_ends_in_words_or_a_report(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"damaged-{form}"
    whole, dtb, damaged = folder / "whole", folder / "kho.dtb", folder / "damaged"
    if not whole.exists():
        folder.mkdir()
        image, tree = small_handover()
        dtb.write_bytes(tree)
        write_small(image, whole, form)
        assert inspect(str(whole), str(dtb)).faults == ()
    content = bytearray(whole.read_bytes())
    where = st.integers(0, min(4400, len(content) - 1)) | st.integers(0, len(content) - 1)
    for at in data.draw(st.lists(where, max_size=4)):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    if data.draw(st.booleans()):
        at = data.draw(where)
        filler = random.Random(at).randbytes(8)
        content[at : at + 8] = data.draw(st.sampled_from([b"\xff" * 8, bytes(8), filler]))
    damaged.write_bytes(content)
    try:
        inspect(str(damaged), str(dtb))
    except KhoError as error:
        assert "\n" not in error.message
        assert error.message
