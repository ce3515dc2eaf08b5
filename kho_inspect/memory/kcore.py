"""/proc/kcore of the running kernel: an ELF core that can be read, but not mapped.

``fs/proc/kcore.c`` gives the direct map's segments their physical address; the segments that are
virtual only carry -1 and are passed over by the ELF reader.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from kho_inspect.errors import UnreadableInputError
from kho_inspect.memory.elf_core import open_elf
from kho_inspect.memory.files import open_regular
from kho_inspect.memory.mapped import MappedMemory

KCORE = "/proc/kcore"
AS_ROOT = "run it as root: sudo kho-inspect … --live"


class KcoreFile:
    """What the ELF reader needs of a file, read piece by piece; nothing is ever written."""

    def __init__(self, path: str = KCORE) -> None:
        """Raises UnreadableInputError with the likely reason: permission, lockdown, no kcore."""
        self.path = path
        with refusals_explained():
            self._file = open(open_regular(path), "rb", buffering=0)  # noqa: SIM115, PTH123
        self.size = os.fstat(self._file.fileno()).st_size

    @property
    def view(self) -> KcoreFile:
        return self

    def __getitem__(self, part: slice) -> memoryview:
        start, stop, _ = part.indices(1 << 63)
        data = bytearray()
        while start < stop:
            try:
                piece = os.pread(self._file.fileno(), stop - start, start)
            except OSError as error:
                raise _refused(self.path, error) from error
            if not piece:
                break
            data += piece
            start += len(piece)
        return memoryview(data)

    def data_extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """All of it: RAM has no holes."""
        yield start, end

    def forget(self, start: int, end: int) -> None:
        """Nothing is kept."""


def open_kcore(path: str = KCORE) -> MappedMemory:
    """The running kernel's physical memory. Raises UnreadableInputError."""
    return open_elf(KcoreFile(path), live=True)


@contextmanager
def refusals_explained() -> Iterator[None]:
    """Give errors of a file of the running kernel their likely reason."""
    try:
        yield
    except UnreadableInputError as error:
        if isinstance(error.__cause__, OSError):
            raise _refused(error.source or "", error.__cause__) from error
        raise


def _refused(path: str, error: OSError) -> UnreadableInputError:
    hints = {
        errno.ENOENT: "the kernel needs CONFIG_PROC_KCORE",
        errno.EACCES: AS_ROOT,
        errno.EPERM: "needs root and CAP_SYS_RAWIO; kernel lockdown forbids it altogether "
        "(cat /sys/kernel/security/lockdown)",
    }
    return UnreadableInputError(
        f"cannot read {path}: {error.strerror}", hint=hints.get(error.errno or 0), source=path
    )
