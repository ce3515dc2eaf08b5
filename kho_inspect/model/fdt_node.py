"""A device tree as it stands in a blob: raw property bytes, duplicates kept."""

from __future__ import annotations

from typing import NamedTuple


class FdtProp(NamedTuple):
    """A property with its raw bytes, exactly as they stand in the blob."""

    name: str
    data: bytes


class FdtNode(NamedTuple):
    """A device tree node; duplicates are kept, order is the blob's."""

    name: str
    props: tuple[FdtProp, ...]
    children: tuple[FdtNode, ...]

    def prop(self, name: str) -> bytes | None:
        """Raw bytes of the first property of that name, None when absent."""
        return next((prop.data for prop in self.props if prop.name == name), None)

    def child(self, name: str) -> FdtNode | None:
        """The first child of that name, None when absent."""
        return next((child for child in self.children if child.name == name), None)

    def string(self, name: str) -> str | None:
        """The first NUL-terminated string of a property, None when absent.

        Bytes that are not UTF-8 come out as ``\\xNN``.
        """
        data = self.prop(name)
        return None if data is None else text_of(data.split(b"\0")[0])

    def strings(self, name: str) -> list[str]:
        """All strings of a property, a last one without its NUL too: libfdt finds that as well."""
        return [text_of(text) for text in (self.prop(name) or b"").split(b"\0") if text]

    def is_compatible(self, name: str) -> bool:
        """Whether one of its compatible strings is ``name``: ``fdt_node_check_compatible()``."""
        return name in self.strings("compatible")

    def integer(self, name: str, size: int) -> int | None:
        """A native- (little-)endian integer property; None when absent or not ``size`` bytes."""
        data = self.prop(name)
        return int.from_bytes(data, "little") if data is not None and len(data) == size else None

    def u64(self, name: str) -> int | None:
        """A native-endian u64 property; None when absent or not 8 bytes long."""
        return self.integer(name, 8)


class FdtStart(NamedTuple):
    """What stands of a device tree whose end is missing."""

    root: FdtNode
    """As far as it is known; a property that is not whole is left out."""
    have: int
    """Bytes up to the last whole token."""
    size: int
    """Bytes that its header gives."""
    opened: tuple[str, ...]
    """Names of the nodes of which more may be missing, the root's first."""

    @property
    def cut(self) -> str | None:
        """The sub-node of the root that is not whole; None where the cut is between two."""
        return self.opened[1] if len(self.opened) > 1 else None

    @property
    def words(self) -> str:
        """``232 of 405 bytes, cut in sub-node 'LUO'``"""
        where = f", cut in sub-node {self.cut!r}" if self.cut else ""
        return f"{self.have} of {self.size} bytes{where}"


def text_of(data: bytes) -> str:
    """Bytes from a dump as text, without loss: what is not UTF-8 becomes ``\\xNN``."""
    return data.decode("utf-8", "backslashreplace")
