"""Files that get their name only once they are whole, and that only their owner may read.

Whatever ends the work before that (an error, Ctrl-C, a full disk) leaves nothing behind.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from kho_inspect.errors import KhoError

FILE_MODE = 0o600
"""Of what is written, if nothing else is asked for: dumps hold secrets."""
DEVICES = (Path("/dev"), Path("/proc"))
"""No link that stands in them, or leads into them, is replaced."""
MAX_LINKS = 40
"""Links that are followed, as by Linux."""

_unfinished: set[tuple[int, str]] = set()
"""Descriptor of a directory, and a name in it."""


@contextmanager
def atomic_file(path: Path, mode: int = FILE_MODE) -> Iterator[BufferedRandom]:
    """A file to write and read, which replaces ``path`` (not what a symbolic link there means).

    Raises KhoError when it cannot be written.
    """
    require_replaceable(path)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KhoError(f"cannot write {path}: {error.strerror}") from error
    try:
        with atomic_file_in(folder, folder, path, mode) as file:
            yield file
    finally:
        os.close(folder)


@contextmanager
def atomic_file_in(beside: int, folder: int, path: Path, mode: int) -> Iterator[BufferedRandom]:
    """The same by descriptors of directories: ``folder`` is where ``path`` stands.

    Until it is whole, it stands in ``beside``, on the same file system. Raises KhoError.
    """
    # Named here and not by tempfile: an interruption between making a file and knowing its name
    # would leave it behind.
    partial = (beside, f".kho-inspect-{os.urandom(8).hex()}")
    _unfinished.add(partial)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(partial[1], flags, FILE_MODE, dir_fd=beside), "w+b") as file:  # noqa: PTH123
            os.fchmod(file.fileno(), mode)
            yield file
        os.rename(partial[1], path.name, src_dir_fd=beside, dst_dir_fd=folder)
    except OSError as error:
        if error.errno == errno.EFAULT:
            # Of writing from a mapped file; in any other place its reader is killed, by SIGBUS.
            raise KhoError(
                f"cannot write {path}: the dump was cut short meanwhile, or its disk failed",
                hint="inspect a copy that nobody writes to",
            ) from error
        raise KhoError(f"cannot write {path}: {error.strerror}") from error
    finally:
        _remove(*partial)
        _unfinished.discard(partial)


def directory_mode(mode: int) -> int:
    """Who may read a file may enter the directory that it stands in."""
    return mode | (mode & 0o444) >> 2


def open_directory_in(folder: int, name: str, path: Path, mode: int) -> int:
    """A descriptor of the directory ``name`` in ``folder``, made when missing.

    ``path`` is its name for people. Raises KhoError, for a symbolic link too.
    """
    try:
        with suppress(FileExistsError):
            os.mkdir(name, directory_mode(mode), dir_fd=folder)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        with suppress(OSError):
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise KhoError(
                    f"{path} is a symbolic link", hint="extract to a new directory"
                ) from error
        raise KhoError(f"cannot write {path}: {error.strerror}") from error


def require_replaceable(path: Path, inputs: Iterable[str] = ()) -> None:
    """Raises KhoError for a path that no option may replace.

    That is one of ``inputs``, whatever its name, a device, or a link in or into ``DEVICES``.
    """
    try:
        # A device would be replaced too: with -o /dev/null, by root, the one of all programs.
        if path.exists() and not path.is_file():
            raise KhoError(f"cannot write {path}: it is no regular file")
    except OSError as error:
        raise KhoError(f"cannot write {path}: {error.strerror}") from error
    link = path
    for _ in range(MAX_LINKS):
        if not link.is_symlink():
            break
        link = link.parent.resolve() / link.name
        target = Path(os.path.normpath(link.parent / link.readlink()))
        if any(one.is_relative_to(top) for one in (link, target) for top in DEVICES):
            raise KhoError(f"cannot write {path}: it leads to a device", hint="for stdout: -o -")
        link = target
    for one in inputs:
        with suppress(OSError):
            if path.samefile(one):
                raise KhoError(f"cannot write {path}: it is the input {one}", hint="another name")


def require_absent(path: Path, force: bool, hint: str = "--force, or another name") -> None:
    """Raises KhoError when ``path`` exists, be it as a dangling link, and ``force`` is not given.

    To be called before the work that leads to the file.
    """
    if not force and os.path.lexists(path):
        raise KhoError(f"{path} exists", hint=hint)


def remove_unfinished() -> None:
    """For an end of the process that runs no ``finally``."""
    for folder, name in _unfinished:
        _remove(folder, name)


def _remove(folder: int, name: str) -> None:
    # Mostly it is not there: renamed, or never made, and that was reported already.
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)
