"""Opening files: regular ones mapped as a whole, or the first bytes of any, or of a pipe."""

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from typing import IO, Protocol

from kho_inspect.errors import UnreadableInputError, unreadable

STDIN = "-"
"""The path that means the standard input to :func:`read_head`."""


def shown_path(path: str) -> str:
    """What messages call a path that :func:`read_head` takes."""
    return "stdin" if path == STDIN else path


def open_regular(path: str, *, or_pipe: bool = False) -> int:
    """A read-only descriptor of a regular file, or of a named pipe if that will do too.

    Raises UnreadableInputError with a reason for people.
    """
    try:
        # Looked at before: opening alone may rewind a tape, or take hold of a terminal.
        mode = os.stat(path).st_mode  # noqa: PTH116  # Path("") is "."
        if stat.S_ISREG(mode) or (or_pipe and stat.S_ISFIFO(mode)):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableInputError(f"cannot open {path}: {reason}", source=path) from error
    if stat.S_ISDIR(mode):
        raise unreadable(path, "is a directory, not a file")
    words = "is not a regular file, but a pipe, a socket or a device"
    raise unreadable(path, words, "copy it to a file first")


def read_head(path: str, limit: int) -> bytes:
    """Up to ``limit`` first bytes of a file, whose size debugfs or sysfs need not know, or a pipe.

    ``-`` is stdin, which like any pipe can be read once. Raises UnreadableInputError with a reason
    for people.
    """
    stdin = path == STDIN
    path, source = shown_path(path), 0 if stdin else open_regular(path, or_pipe=True)
    try:
        with open(source, "rb", closefd=not stdin) as file:
            data = bytearray()
            # Piece by piece: asked for its limit at once, it would take as much memory.
            while piece := file.read(min(limit - len(data), 1 << 20)):
                data += piece
            return bytes(data)
    except OSError as error:
        raise UnreadableInputError(f"cannot read {path}: {error.strerror}", source=path) from error


class View(Protocol):
    """Bytes of a file by their offset."""

    def __getitem__(self, part: slice, /) -> memoryview:
        """The bytes ``start:stop``, fewer where the file ends."""


class DumpFile(Protocol):
    """What the readers of all formats need of a file."""

    path: str
    """As the user named it."""
    size: int
    """Bytes."""

    @property
    def view(self) -> View:
        """The contents."""

    def data_extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of file range ``start..end`` that are not holes of a sparse file."""

    def forget(self, start: int, end: int) -> None:
        """Give the memory of a range back; the contents stay."""


class MappedFile:
    """A regular file, memory-mapped read-only, for the life of the object."""

    def __init__(self, path: str, file: IO[bytes] | None = None) -> None:
        """``file``: one that is open already, and goes by the name of ``path``.

        Raises UnreadableInputError with a reason for people.
        """
        self.path = path
        self._file = file or open(open_regular(path), "rb")  # noqa: SIM115  # closed with the object
        self.size = os.fstat(self._file.fileno()).st_size
        if self.size == 0:
            hint = "was the disk full when the dump was taken? Of /proc or /sys: copy it first"
            raise unreadable(path, "is empty", hint)
        try:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UnreadableInputError(
                f"cannot map {path}: {error.strerror}",
                hint="copy it to a file first; of /proc/kcore: --live",
                source=path,
            ) from error
        self.view = memoryview(self._map)

    def forget(self, start: int, end: int) -> None:
        # A scan would otherwise keep the whole file resident; the next read maps it again.
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self._map.madvise(mmap.MADV_DONTNEED, first, length)

    def data_extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        fd = self._file.fileno()
        while start < end:
            try:
                start = os.lseek(fd, start, os.SEEK_DATA)
                stop = os.lseek(fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:  # a file system without holes
                    yield start, end
                elif os.fstat(fd).st_size < self.size:
                    hint = "inspect a copy that nobody writes to"
                    raise unreadable(self.path, "was cut short while it was read", hint) from error
                return  # else nothing but hole up to the end of the file
            if start < end:
                yield start, min(stop, end)
            start = stop
