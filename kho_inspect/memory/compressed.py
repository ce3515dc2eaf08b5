"""Dumps inside gzip, xz or zstd: unpacked once, to a sparse temporary file.

Blocks of zeros become holes, so that a dump that is almost all hole needs the disk of its data
only. The file has no name: it is gone with the process.
"""

from __future__ import annotations

import errno
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

from kho_inspect.errors import UnreadableInputError
from kho_inspect.memory.codecs import optional_module
from kho_inspect.memory.files import MappedFile
from kho_inspect.units import human_size

BLOCK = 4096
"""Granularity of holes."""
PIECE = 1 << 20
"""Bytes unpacked at a time."""
MAX_WINDOW = 256 << 20
"""Memory that a decoder may take: xz -9 needs 65 MiB, zstd --long 128 MiB."""
RESERVE = 128 << 20
"""Disk that is left free for everybody else."""


class _Decoder(Protocol):
    """One compressed stream, as lzma, zlib and zstandard have it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Packing:
    """One way of compressing a whole file."""

    name: str
    magic: bytes
    unpacker: str
    """The command that undoes it."""
    decoder: Callable[[], _Decoder]
    feed: Callable[[Any, bytes], Iterator[bytes]]
    """Pieces of bounded size out of a decoder and some input."""
    input_size: int = PIECE


def _feed_zlib(decoder: Any, data: bytes) -> Iterator[bytes]:
    piece = decoder.decompress(data, PIECE)
    yield piece
    # A full piece may leave output behind even when all input is taken.
    while not decoder.eof and (decoder.unconsumed_tail or len(piece) == PIECE):
        piece = decoder.decompress(decoder.unconsumed_tail, PIECE)
        yield piece


def _feed_lzma(decoder: Any, data: bytes) -> Iterator[bytes]:
    yield decoder.decompress(data, PIECE)
    while not (decoder.eof or decoder.needs_input):
        yield decoder.decompress(b"", PIECE)


def _feed_zstd(decoder: Any, data: bytes) -> Iterator[bytes]:
    yield decoder.decompress(data)


def _zstd_decoder() -> Any:
    zstandard = optional_module("zstandard")
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()


PACKINGS = (
    Packing("gzip", b"\x1f\x8b", "gunzip", lambda: zlib.decompressobj(wbits=31), _feed_zlib),
    Packing(
        "xz",
        b"\xfd7zXZ\0",
        "unxz",
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW),
        _feed_lzma,
    ),
    # zstandard cannot be told how much to give at most: 2 KiB become 64 MiB at worst.
    Packing("zstd", b"\x28\xb5\x2f\xfd", "unzstd", _zstd_decoder, _feed_zstd, 2048),
)


def find_packing(head: bytes) -> Packing | None:
    """How a file that starts so is compressed."""
    return next((packing for packing in PACKINGS if head.startswith(packing.magic)), None)


def really_packed(file: MappedFile, packing: Packing) -> bool:
    """Whether something comes out: raw memory may begin with any magic."""
    _require(file, packing)
    try:
        return any(_pieces(file, packing, lambda size: None))
    except EOFError:
        return False
    except _errors():
        return False


def unpack(
    file: MappedFile, packing: Packing, progress: Callable[[int], None] = lambda size: None
) -> tuple[MappedFile, str]:
    """The contents as a file that goes by the same name, and what is to be noted of them.

    ``progress`` gets bytes of ``file`` as they are taken. A stream that breaks off gives what
    came before. Raises UnreadableInputError when nothing did, or the disk is too small.
    """
    _require(file, packing)
    out = _create(file, packing)
    size, note = 0, ""
    try:
        for piece in _pieces(file, packing, progress):
            _write_sparse(out, piece, size)
            size += len(piece)
        out.truncate(size)
    except EOFError:
        note = "is cut short"
    except _errors() as error:
        note = f"is damaged ({error})"
    except OSError as error:
        raise _no_room(file, packing, size, error) from error
    if not size:
        raise UnreadableInputError(
            f"{file.path} is compressed with {packing.name}, but "
            + (f"the stream {note}: nothing could be unpacked" if note else "holds nothing"),
            hint=f"try {packing.unpacker}; or --format raw, if it really is raw memory",
            source=file.path,
        )
    if note:
        out.truncate(size)
        note = f"the {packing.name} stream {note} after {human_size(size)} of the dump"
    return MappedFile(file.path, out), note


def _require(file: MappedFile, packing: Packing) -> None:
    """Raises UnreadableInputError when the decoder is an extra that is not installed."""
    try:
        packing.decoder()
    except UnreadableInputError as error:
        raise UnreadableInputError(
            f"{file.path}: {error.message}",
            hint=f"{error.hint}, or unpack it first: {packing.unpacker}",
            source=file.path,
        ) from error


def _errors() -> tuple[type[Exception], ...]:
    """What the decoders raise on damaged input."""
    try:
        import zstandard
    except ImportError:
        return zlib.error, lzma.LZMAError
    return zlib.error, lzma.LZMAError, zstandard.ZstdError


def _pieces(file: MappedFile, packing: Packing, progress: Callable[[int], None]) -> Iterator[bytes]:
    """All that is in the streams of a file, one behind the other, none of the pieces empty.

    Raises EOFError when the last stream has no end, and what the decoder raises.
    """
    decoder: _Decoder | None = None
    for at in range(0, file.size, packing.input_size):
        stop = min(at + packing.input_size, file.size)
        data = bytes(file.view[at:stop])
        while data:
            if decoder is None:
                # Between xz streams there may be zeros, and tapes and disks leave some behind.
                data = data.lstrip(b"\0")
                if not data:
                    break
                decoder = packing.decoder()
            yield from filter(None, packing.feed(decoder, data))
            data = b""
            if decoder.eof:
                data, decoder = decoder.unused_data, None
        file.forget(at, stop)
        progress(stop - at)
    if decoder is not None:
        raise EOFError


def _folder() -> str:
    # /tmp is often memory; /var/tmp is where large files go.
    return os.environ.get("TMPDIR") or "/var/tmp"


def _create(file: MappedFile, packing: Packing) -> IO[bytes]:
    import tempfile

    try:
        return tempfile.TemporaryFile(dir=_folder())
    except OSError as error:
        raise _no_room(file, packing, 0, error) from error


def _write_sparse(out: IO[bytes], piece: bytes, at: int) -> None:
    """Write the blocks of a piece that are not zero. Raises OSError."""
    import numpy as np

    fd = out.fileno()
    # Pieces need not begin on a block: the first and last block may be partial.
    first = -at % BLOCK
    parts = [(0, min(first, len(piece)))]
    whole = (len(piece) - parts[0][1]) // BLOCK
    blocks = np.frombuffer(piece, dtype=np.uint8, count=whole * BLOCK, offset=parts[0][1])
    used = blocks.reshape(-1, BLOCK).any(axis=1)
    change = np.flatnonzero(np.diff(used, prepend=False, append=False)) * BLOCK + parts[0][1]
    parts += zip(change[0::2].tolist(), change[1::2].tolist(), strict=True)
    parts.append((parts[0][1] + whole * BLOCK, len(piece)))
    for start, end in parts:
        data = piece[start:end]
        if data.count(0) == len(data):
            continue
        if _free_bytes(fd) - len(data) < RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        while data:
            written = os.pwrite(fd, data, at + start)
            start, data = start + written, data[written:]


def _free_bytes(fd: int) -> int:
    disk = os.fstatvfs(fd)
    return disk.f_bavail * disk.f_frsize


def _no_room(file: MappedFile, packing: Packing, size: int, error: OSError) -> UnreadableInputError:
    return UnreadableInputError(
        f"{file.path} is compressed with {packing.name} and cannot be unpacked to {_folder()}: "
        f"{error.strerror} (after {human_size(size)})",
        hint=f"set TMPDIR to a larger disk, or unpack it yourself: {packing.unpacker}",
        source=file.path,
    )
