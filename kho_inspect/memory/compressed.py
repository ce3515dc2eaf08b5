"""Dumps inside gzip, xz or zstd: unpacked once, to a sparse temporary file.

Blocks of zeros become holes, so that a dump that is almost all hole needs the disk of its data
only. The file has no name: it is gone with the process.
"""

import errno
import os
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from kho_inspect.errors import UnreadableInputError
from kho_inspect.limits import DEFAULT_LIMITS, exceeded
from kho_inspect.memory.codecs import optional_module
from kho_inspect.memory.files import MappedFile
from kho_inspect.units import human_size

BLOCK = 4096
"""Granularity of holes."""
_ZEROS = bytes(BLOCK)
_LONG = bytes(16 * BLOCK)
"""Zeros that are passed over at once."""
PIECE = 1 << 20
"""Bytes of the file between two reports of progress."""
FED = 2048
"""Bytes unpacked at a time: zstd makes at most 64 MiB of them, which no option limits."""
_HELD = 1 << 16
"""Pieces, of a byte or none, that are written together."""
MAX_WINDOW = 256 << 20
"""Memory that a decoder may take: xz -9 needs 65 MiB, zstd --long 128 MiB."""
RESERVE = 128 << 20
"""Disk that is left free for others."""


class Packing(NamedTuple):
    """One way of compressing a whole file."""

    name: str
    """Of the command, too: ``-d`` undoes it."""
    magic: bytes
    module: str
    error: str
    """The module's exception for damaged input."""
    decoder: Callable[[Any], Any]
    """From the module, an object with ``decompress``, ``eof`` and ``unused_data``: one stream."""


def _xz(lzma: Any) -> Any:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW)


def _zstd(zstandard: Any) -> Any:
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()


PACKINGS = (
    Packing("gzip", b"\x1f\x8b", "zlib", "error", lambda zlib: zlib.decompressobj(wbits=31)),
    Packing("xz", b"\xfd7zXZ\0", "lzma", "LZMAError", _xz),
    Packing("zstd", b"\x28\xb5\x2f\xfd", "zstandard", "ZstdError", _zstd),
)


class NothingInsideError(UnreadableInputError):
    """Not one byte could be unpacked."""


def find_packing(head: bytes) -> Packing | None:
    """How a file that starts so is compressed."""
    return next((packing for packing in PACKINGS if head.startswith(packing.magic)), None)


def unpack(
    file: MappedFile,
    packing: Packing,
    progress: Callable[[int], None] = lambda size: None,
    limit: int = DEFAULT_LIMITS.unpacked,
) -> tuple[MappedFile, str]:
    """The contents as a file that goes by the same name, and what is to be noted of them.

    ``progress`` gets bytes of ``file`` as they are taken. A stream that breaks off, or has more
    than ``limit`` bytes, gives what came before. Raises NothingInsideError when nothing did,
    UnreadableInputError when the disk is too small or the decoder is not installed.
    """
    folder = os.environ.get("TMPDIR") or "/var/tmp"  # /tmp is often memory
    import tempfile  # most dumps are not packed

    size, note = 0, ""
    try:
        out = tempfile.TemporaryFile(buffering=PIECE, dir=folder)  # noqa: SIM115  # kept open
        try:
            for piece in _joined(_pieces(file, packing, progress)):
                kept = piece[: limit - size]
                _write_sparse(out, kept, size)
                size += len(kept)
                if len(kept) < len(piece):
                    raise EOFError(f"holds {exceeded('bytes', 'unpacked', limit)}: it is cut off")
        except EOFError as error:
            note = str(error)
        out.truncate(size)
    except OSError as error:
        raise UnreadableInputError(
            f"{file.path} is compressed with {packing.name} and cannot be unpacked to {folder}: "
            f"{error.strerror} (after {human_size(size)})",
            hint=f"set TMPDIR to a larger disk, or unpack it yourself: {packing.name} -d",
            source=file.path,
        ) from error
    if not size:
        raise NothingInsideError(
            f"{file.path} is compressed with {packing.name}, but "
            + (f"the stream {note}: nothing could be unpacked" if note else "holds nothing"),
            hint=f"try {packing.name} -d; or --dump-format raw, if it really is raw memory",
            source=file.path,
        )
    if note:
        note = f"the {packing.name} stream {note} after {human_size(size)} of the dump"
    return MappedFile(file.path, out), note


def _pieces(file: MappedFile, packing: Packing, progress: Callable[[int], None]) -> Iterator[bytes]:
    """All that is in the streams of a file, one after the other.

    Raises EOFError, with the reason, when a stream has no end or is damaged.
    """
    module = optional_module(packing.module, file.path, f", or unpack it first: {packing.name} -d")
    damage = getattr(module, packing.error)
    decoder = None
    for start in range(0, file.size, PIECE):
        whole = bytes(file.view[start : start + PIECE])
        for at in range(0, len(whole), FED):
            data = whole[at : at + FED]
            # Zeros may stand between xz streams, and after the last one on tapes and disks.
            while data := data if decoder else data.lstrip(b"\0"):
                decoder = decoder or packing.decoder(module)
                try:
                    yield decoder.decompress(data)
                except damage as error:
                    raise EOFError(f"is damaged ({error})") from error
                data = b""
                if decoder.eof:
                    data, decoder = decoder.unused_data, None
        file.forget(start, start + len(whole))
        progress(len(whole))
    if decoder:
        raise EOFError("is cut short")


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces of PIECE bytes, or of many: a stream of one-byte members is not written one by one.

    Passes EOFError on, after what came before it.
    """
    held: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size >= PIECE or len(held) == _HELD:
                yield b"".join(held)
                held, size = [], 0
    except EOFError:
        yield b"".join(held)
        raise
    yield b"".join(held)


def _write_sparse(out: IO[bytes], piece: bytes, offset: int) -> None:
    """Write the blocks of a piece that are not zero. Raises OSError."""
    if _free_bytes(out.fileno()) < RESERVE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    start, end = 0, BLOCK - offset % BLOCK
    while start < len(piece):
        block = piece[start:end]
        if not _ZEROS.startswith(block):
            if out.tell() != offset + start:
                out.seek(offset + start)
            out.write(block)
        elif piece.startswith(_LONG, end):
            end += len(_LONG)
        start, end = end, end + BLOCK


def _free_bytes(fd: int) -> int:
    disk = os.fstatvfs(fd)
    return disk.f_bavail * disk.f_frsize
