"""Kernel images of a few hundred bytes, by plain struct: what kernels and packages look like."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
from collections.abc import Callable, Sequence

import pytest

BANNER = b"Linux version %s (builder@host) (gcc 15) #1 SMP\n\0"
V4 = (b"kho-v4", b"luo-v5", b"memfd-v2", b"memblock-v1", b"reserve-mem-v1")


def kernel(
    release: bytes = b"7.3.4-test", strings: Sequence[bytes] = V4, more: bytes = b""
) -> bytes:
    """What a linker makes of a kernel's strings, between other bytes.

    The last string stands behind a pointer, as that of a file handler does.
    """
    *plain, last = strings or [b"none"]
    body = b"\0" + b"\0".join([b"KHO: setup", *plain, b"luo", b"%s\n"]) + b"\0"
    pointer = struct.pack("<Q", 0xFFFFFFFF82850D20)
    banners = b"Linux version %s (builder@host)\n\0" + BANNER % release
    return b"\x90" * 64 + banners + body + pointer + last.ljust(48, b"\0") + more + bytes(64)


def features(*entries: tuple[bytes, int, int, int]) -> bytes:
    """A table of live update features."""
    rows = [struct.pack("<48sIIQQQ", name, 8, 0, *bits) for name, *bits in entries]
    return struct.pack("<II", 0x4C565550, 1) + b"".join(rows)


def vmlinux(text: bytes, machine: int = 62, table: bytes | None = None, kind: int = 2) -> bytes:
    """An ELF file with a section for ``text`` and one for the table of features."""
    names = b"\0.rodata\0.liveupdate_features\0.shstrtab\0"
    sections = [(b".rodata", text), (b".shstrtab", names)]
    if table is not None:
        sections.insert(1, (b".liveupdate_features", table))
    body, headers, at = b"", bytes(64), 64
    for name, data in sections:
        headers += struct.pack(
            "<IIQQQQIIQQ", names.index(name), 1, 2, 0, at + len(body), len(data), 0, 0, 1, 0
        )
        body += data
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1",
        kind,
        machine,
        1,
        0,
        0,
        at + len(body),
        0,
        64,
        56,
        0,
        64,
        len(sections) + 1,
        len(sections),
    )
    return head + body + headers


def bzimage(payload: bytes, sectors: int = 3, version: int = 0x20F) -> bytes:
    """An x86 boot image: setup, then a stub, the payload with its size, and a signature."""
    setup = bytearray((sectors + 1) * 512)
    setup[0:2], setup[0x1F1], setup[0x202:0x206] = b"MZ", sectors, b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, 32, len(payload))
    return bytes(setup) + b"\xcc" * 32 + payload + b"signature"


def arm64_image(text: bytes, pages: int = 1) -> bytes:
    """An arm64 Image; ``pages``: 1 is 4K, 2 is 16K, 3 is 64K, 0 is not said."""
    head = struct.pack("<8sQQQ24s4sI", b"MZ\x40\xfa", 0, 0, pages << 1 | 8, b"", b"ARM\x64", 64)
    return head + text


def zboot(payload: bytes, name: bytes) -> bytes:
    """An EFI zboot image."""
    head = struct.pack(
        "<4s4sII8s32sII", b"MZ", b"zimg", 128, len(payload), b"", name, 0x818223CD, 64
    )
    return head.ljust(128, b"\0") + payload + b"tail"


def _lzma(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)


def _zstd(data: bytes) -> bytes:
    packed: bytes = pytest.importorskip("zstandard").compress(data)
    return packed


def _lz4(data: bytes) -> bytes:
    """The legacy format, in two blocks; the second begins a stream of its own."""
    block = pytest.importorskip("cramjam").lz4.compress_block
    packed = b""
    for part in (data[:100], data[100:]):
        one = bytes(block(part, store_size=False))
        packed += b"\x02\x21\x4c\x18" + struct.pack("<I", len(one)) + one
    return packed


def _lzo(data: bytes) -> bytes:
    """What lzop writes: two blocks with checksums of what is in them, one of them stored."""
    compress = pytest.importorskip("lzallright").LZOCompressor().compress
    name = b"vmlinux.bin"
    head = b"\x89LZO\0\r\n\x1a\n" + struct.pack(
        ">HHHBBIIIIB", 0x1040, 0x20A0, 0x940, 3, 9, 0x3 | 1 << 12, 0o100644, 0, 0, len(name)
    )
    packed = head + name + b"\0\0\0\1"
    first, second = data[:64], data[64:]
    packed += struct.pack(">III", len(first), len(first), 7) + first
    one = bytes(compress(second))
    return packed + struct.pack(">IIII", len(second), len(one), 8, 9) + one + bytes(4)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "lzma": _lzma,
    "xz": lzma.compress,
    "zstd": _zstd,
    "lz4": _lz4,
    "lzo": _lzo,
}


def packed(data: bytes, name: str) -> bytes:
    """As a kernel build packs it: with the size behind, but for gzip that has it."""
    size = b"" if name == "gzip" else struct.pack("<I", len(data))
    return COMPRESSIONS[name](data) + size


def deb(files: dict[str, bytes], compression: str = "") -> bytes:
    """A Debian package."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    data = COMPRESSIONS[compression](tar.getvalue()) if compression else tar.getvalue()
    suffix = {"": "", "gzip": ".gz", "xz": ".xz", "zstd": ".zst"}[compression]
    members = (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (f"data.tar{suffix}", data))
    written = b"!<arch>\n"
    for name, content in members:
        written += f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(content):<10}`\n".encode()
        written += content + b"\n" * (len(content) % 2)
    return written
