"""Files that get their name only once they are whole.

Whatever ends the work before that (an error, Ctrl-C, a full disk) leaves nothing behind.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from kho_inspect.errors import KhoError

_unfinished: set[Path] = set()


@contextmanager
def atomic_file(path: Path, beside: Path | None = None) -> Iterator[BufferedRandom]:
    """A file to write and read, which replaces ``path`` (not what a symbolic link there means).

    Until then it stands in ``beside``, by default the folder of ``path``. Raises KhoError when
    it cannot be written.
    """
    # Named here and not by tempfile: an interruption between making a file and knowing its name
    # would leave it behind.
    partial = (beside or path.parent) / f".kho-inspect-{os.urandom(8).hex()}"
    _unfinished.add(partial)
    try:
        # A device would be replaced too: with -o /dev/null, by root, the one of all programs.
        if path.exists() and not path.is_file():
            raise KhoError(f"cannot write {path}: it is no regular file")
        with partial.open("x+b") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        if error.errno == errno.EFAULT:
            # Of writing from a mapped file; in any other place its reader is killed, by SIGBUS.
            raise KhoError(
                f"cannot write {path}: the dump was cut short meanwhile, or its disk failed",
                hint="inspect a copy that nobody writes to",
            ) from error
        raise KhoError(f"cannot write {path}: {error.strerror}") from error
    finally:
        _remove(partial)
        _unfinished.discard(partial)


def require_absent(path: Path, force: bool, hint: str = "--force, or another name") -> None:
    """Raises KhoError when ``path`` exists, be it as a dangling link, and ``force`` is not given.

    To be called before the work that leads to the file.
    """
    if not force and os.path.lexists(path):
        raise KhoError(f"{path} exists", hint=hint)


def remove_unfinished() -> None:
    """For an end of the process that runs no ``finally``."""
    for partial in _unfinished:
        _remove(partial)


def _remove(partial: Path) -> None:
    # Mostly it is not there: renamed, or never made, and that was reported already.
    with suppress(OSError):
        partial.unlink()
