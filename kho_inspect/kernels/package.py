"""Where kernels lie: a file of their own, a Debian package, a directory."""

import re
import tarfile
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

from kho_inspect.errors import unreadable
from kho_inspect.kernels.image import HINT
from kho_inspect.kernels.unpacking import MAX_KERNEL, DamagedPayloadError, find_method
from kho_inspect.layouts import kernel_image as layout
from kho_inspect.memory.files import MappedFile

MAX_MEMBERS = 64
"""Of an ``ar`` archive; a Debian package has three or four."""
MAX_KERNELS = 256
"""Of a directory."""
PIECE = 1 << 20
_FILE = r"(?:vmlinu[xz]|Image|bzImage)(?:[-.][^/]*)?"
_PACKAGED = re.compile(rf"(?:.*/)?(?:boot|lib/modules/[^/]+)/{_FILE}")
_NAMES = ("vmlinu[xz]*", "Image*", "bzImage*")
_PLACES = ("", "boot", "arch/*/boot", "lib/modules/*", "usr/lib/modules/*")
"""Of a kernel below a directory: an unpacked package, /, or a build tree."""
_OTHERS = {".lds", ".o", ".a", ".h", ".cmd", ".symvers", ".map", ".S", ".c"}
"""What a build leaves beside a vmlinux."""
_RPM = b"\xed\xab\xee\xdb"


def find_kernels(path: str) -> Iterator[tuple[str, memoryview]]:
    """Name and bytes of each kernel file that a path leads to; a package has one.

    Raises UnreadableInputError when there is none.
    """
    if Path(path).is_dir():
        yield from _in_directory(path)
        return
    data = MappedFile(path).view
    if data[: len(layout.AR_MAGIC)] == layout.AR_MAGIC:
        yield _in_package(path, data)
    elif data[: len(_RPM)] == _RPM:
        words = "is an RPM package, which is not read as it stands"
        raise unreadable(path, words, "rpm2archive or bsdtar unpacks it: name the directory")
    else:
        yield Path(path).name, data


def _in_directory(path: str) -> Iterator[tuple[str, memoryview]]:
    files = (
        file
        for place in _PLACES
        for name in _NAMES
        for file in sorted(Path(path).glob(f"{place}/{name}".lstrip("/")))
        if file.suffix not in _OTHERS
    )
    try:
        # A link such as /vmlinuz goes by the name of its file.
        found = list(dict.fromkeys(file.resolve() for file in files if file.is_file()))
    except OSError as error:
        raise unreadable(path, f"cannot be listed: {error.strerror}", HINT) from error
    if not found:
        raise unreadable(path, "is a directory without a kernel", HINT)
    for real in found[:MAX_KERNELS]:
        yield real.name, MappedFile(str(real)).view


def _in_package(path: str, data: memoryview) -> tuple[str, memoryview]:
    for name, member in _members(path, data):
        if name.startswith(b"data.tar"):
            method = find_method(bytes(member[:16]))
            whole = (bytes(member[at : at + PIECE]) for at in range(0, len(member), PIECE))
            return _in_tar(path, method.pieces(member, path) if method else whole)
    raise unreadable(path, "is an archive, but no Debian package with data", HINT)


def _members(path: str, data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at, size = len(layout.AR_MAGIC), layout.ar_header.sizeof()
    for _ in range(MAX_MEMBERS):
        head = bytes(data[at : at + size])
        if len(head) < size:
            return
        header = layout.ar_header.parse(head)
        digits = header.size.strip()
        if not digits.isdigit():
            raise unreadable(path, "is a damaged archive", HINT)
        at += size
        yield header.name, data[at : at + int(digits)]
        at += int(digits) + int(digits) % 2


def _in_tar(path: str, pieces: Iterator[bytes]) -> tuple[str, memoryview]:
    try:
        with tarfile.open(fileobj=_Reader(pieces), mode="r|") as tar:
            for member in tar:
                if member.isreg() and _PACKAGED.fullmatch(member.name):
                    file = tar.extractfile(member)
                    assert file is not None
                    return Path(member.name).name, memoryview(file.read())
    except (tarfile.TarError, DamagedPayloadError, ValueError, OverflowError) as error:
        raise unreadable(path, f"is a damaged package: {error}", HINT) from error
    raise unreadable(path, "is a package without a kernel", HINT)


class _Reader(BufferedIOBase):
    """Pieces as a file that is read once, of at most MAX_KERNEL bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._held, self._left = pieces, bytearray(), MAX_KERNEL

    def read(self, size: int | None = -1, /) -> bytes:
        size = self._left if size is None or size < 0 else size
        self._left -= size
        if self._left < 0:
            raise DamagedPayloadError("there is no kernel in its first GiB")
        while len(self._held) < size and (piece := next(self._pieces, None)) is not None:
            self._held += piece
        data = bytes(self._held[:size])
        del self._held[:size]
        return data
