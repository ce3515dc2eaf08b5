"""The tables of KHO's ABIs: what a string promises, and which kernel takes which strings.

Code reads features from a row and never compares version numbers. What a structure is, its own
string says: which root it stands under does not matter. Sources: the kernel's
``include/linux/kho/abi/*.h``, ``kernel/kexec_handover.c`` of 6.18 (kho-v1), and for composite
strings and feature headers the series on the linux-mm list (2026).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

MAP_PROPERTY = "preserved-memory-map"
"""Root property, native-endian u64: physical address of the preserved-memory map."""

STRUCTURES = ("block-v1", "radix-v1", "vmalloc-v1")
"""Structures that a composite string (``kho-v4;radix-v1``) may name besides its owner."""


class Abi(NamedTuple):
    """What a root string promises; there is one object for each."""

    compatible: str
    kernels: str
    """Releases that write it, for people."""
    radix: bool = True
    """The map is a radix tree of bitmaps (else: a list of ``khoser_mem_chunk``)."""
    blob_property: str = "preserved-data"
    """Sub-node property, native-endian u64: physical address of the blob."""
    blob_size_property: str | None = "blob-size"
    """Sub-node property, native-endian u64: the blob's bytes. None: every blob is an FDT."""
    order_bit_in_width: bool = True
    """The tree's depth counts the bit above an order-0 PFN (in kho-v2 it does not)."""
    unknown: tuple[str, ...] = ()
    """Parts of a composite string that no table has."""

    @property
    def reads_map(self) -> bool:
        """Whether the layout of the map is known."""
        return not is_unknown("radix", self.unknown)

    @property
    def reads_vmalloc(self) -> bool:
        """Whether the layout of vmalloc areas is known."""
        return not is_unknown("vmalloc", self.unknown)


ABIS: tuple[Abi, ...] = (
    Abi(
        "kho-v1",
        "6.16 to 7.0",
        radix=False,
        blob_property="fdt",
        blob_size_property=None,
        order_bit_in_width=False,
    ),
    Abi(
        "kho-v2", "development trees before 7.1", blob_size_property=None, order_bit_in_width=False
    ),
    Abi("kho-v3", "7.1"),
    Abi("kho-v4", "7.2, 7.3"),
)

ROOT_FDT_NAMES: tuple[dict[str, int | None], ...] = (
    {MAP_PROPERTY: 8, "compatible": None},
    {
        name: 8
        for abi in ABIS
        for name in (abi.blob_property, abi.blob_size_property)
        if name is not None
    },
)
"""Names of the properties of a root FDT, and of its sub-nodes, with the bytes of the value."""

BY_COMPATIBLE: dict[str, Abi] = {abi.compatible: abi for abi in ABIS}


class LuoAbi(NamedTuple):
    """What a string of LUO's state promises, or a feature header in its place."""

    compatible: str
    fdt: bool = False
    """It is an FDT with a session header that stands there from the start, and lists are arrays
    (else: a struct, and lists are chains of kho_blocks)."""
    features: tuple[str, ...] = ()
    """Names of the bits of its feature header, lowest first; none: a string comes first."""
    unknown: tuple[str, ...] = ()
    """Parts of a composite string that no table has."""

    @property
    def reads_blocks(self) -> bool:
        """Whether the layout of its chains is known."""
        return not is_unknown("block", self.unknown)


LUO_FEATURES = LuoAbi("luo", features=("number", "sessions", "flbs"))
"""LUO's state that begins with a feature header; ``luo`` is its name in a kernel's list."""
LUO_ABIS = (LuoAbi("luo-v1", fdt=True), LuoAbi("luo-v5"), LUO_FEATURES)
LUO_BY_COMPATIBLE = {abi.compatible: abi for abi in LUO_ABIS if not abi.features}


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a kernel, or any kernel of one root ABI, takes from the one before."""

    name: str
    root: str
    luo: tuple[str, ...] = ()
    """LUO strings, and names of feature headers; it panics on any other. Empty: it has no LUO."""
    files: tuple[str, ...] = ()
    """File handlers."""
    features: tuple[tuple[str, int], ...] = ()
    """Name of a feature header's owner → the bits that are supported."""

    def takes_root(self, strings: Collection[str]) -> bool:
        """Whether one of the root's strings is its own: ``fdt_node_check_compatible()``."""
        return self.root in strings

    def missing(self, owner: str, required: int) -> int:
        """The bits of ``required`` that it does not support."""
        return required & ~dict(self.features).get(owner, 0)


RELEASES = (
    Kernel("6.16", "kho-v1"),
    Kernel("6.17", "kho-v1"),
    Kernel("6.18", "kho-v1"),
    Kernel("6.19", "kho-v1", ("luo-v1",), ("memfd-v1",)),
    Kernel("7.0", "kho-v1", ("luo-v1",), ("memfd-v1",)),
    Kernel("7.1", "kho-v3", ("luo-v1",), ("memfd-v2",)),
    Kernel("7.2", "kho-v4", ("luo-v5",), ("memfd-v2",)),
    Kernel("7.3", "kho-v4", ("luo-v5",), ("memfd-v2",)),
)
_DEVELOPMENT = (Kernel("", "kho-v2", ("luo-v1",), ("memfd-v1", "memfd-v2")),)

RELEASED = {name for kernel in (*RELEASES, *_DEVELOPMENT) for name in (*kernel.luo, *kernel.files)}
"""Strings of LUO and of its files that a kernel of the table writes."""


def find_abi(strings: Iterable[str]) -> tuple[str, Abi] | None:
    """The first of a root's compatible strings that a row fits, and the row.

    A composite string (``kho-v4;radix-v1``) goes by its known part that is a root's; the row
    then names its parts that are not known.
    """
    for text in strings:
        abi = _find_composite(text)
        if abi is not None:
            return text, abi
    return None


@lru_cache(64)
def _find_composite(text: str) -> Abi | None:
    base, unknown = split_composite(text, BY_COMPATIBLE)
    if base is None:
        return None
    found = BY_COMPATIBLE[base]
    return found._replace(unknown=unknown) if unknown else found


@lru_cache(64)
def find_luo(text: str) -> LuoAbi | None:
    """The row for a LUO string, with its parts that are not known; None when no row fits."""
    base, unknown = split_composite(text, LUO_BY_COMPATIBLE)
    if base is None:
        return None
    found = LUO_BY_COMPATIBLE[base]
    return found._replace(unknown=unknown) if unknown else found


def split_composite(text: str, bases: Collection[str]) -> tuple[str | None, tuple[str, ...]]:
    """The first part of a string that is in ``bases``, and the parts that are not known at all."""
    parts = [part.strip() for part in text.split(";")]
    base = next((part for part in parts if part in bases), None)
    return base, tuple(part for part in parts if part != base and part not in STRUCTURES)


def is_unknown(structure: str, unknown: Iterable[str]) -> bool:
    """Whether a structure (``radix``) is of a version among parts that are not known."""
    return any(part.rpartition("-v")[0] == structure for part in unknown)


def nearest_abi(compatible: str) -> Abi:
    """The known ABI whose name is closest to ``compatible`` (the newest when none is close)."""
    from difflib import get_close_matches  # most names are known

    name = compatible.split(";")[0]
    return BY_COMPATIBLE[get_close_matches(name, BY_COMPATIBLE, n=1, cutoff=0.0)[0]]


def kernels_of(root: str) -> Kernel:
    """Any kernel that writes this root string: it takes what one of them takes."""
    of_root = [kernel for kernel in (*RELEASES, *_DEVELOPMENT) if kernel.root == root]
    luo = dict.fromkeys(name for kernel in of_root for name in kernel.luo)
    files = dict.fromkeys(name for kernel in of_root for name in kernel.files)
    return Kernel(root, root, tuple(luo), tuple(files))


def find_target(name: str) -> Kernel | None:
    """``v4``, ``kho-v4``, ``linux-7.3``, ``7.3.4``, ``v7.3-rc1`` → what such a kernel accepts."""
    root = f"kho-{name.removeprefix('kho-')}"
    if root in BY_COMPATIBLE:
        return kernels_of(root)
    release = ".".join(name.removeprefix("linux-").removeprefix("v").split("-")[0].split(".")[:2])
    found = (replace(one, name=f"linux-{release}") for one in RELEASES if one.name == release)
    return next(found, None)


TARGETS = tuple(
    name
    for abi in ABIS
    for name in (
        abi.compatible,
        *(f"linux-{one.name}" for one in RELEASES if one.root == abi.compatible),
    )
)
"""Every kernel and ABI that a decision can be had for."""
