"""The one table of KHO ABI versions.

Code reads features from a row and never compares version numbers. Sources: the kernel's
``include/linux/kho/abi/kexec_handover.h`` (kho-v2 to kho-v4) and ``kernel/kexec_handover.c``
of 6.18 (kho-v1).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

MAP_PROPERTY = "preserved-memory-map"
"""Root property, native-endian u64: physical address of the preserved-memory map."""


@dataclass(frozen=True, slots=True, eq=False)
class Abi:
    """What one ``compatible`` string promises; there is one object for each."""

    compatible: str
    kernels: str
    """Releases that write it, for people."""
    releases: tuple[str, ...] = ()
    """The same for ``--target linux-X.Y``."""
    luo: tuple[str, ...] = ()
    """LUO versions that its kernels accept; they panic on any other."""
    files: tuple[str, ...] = ("memfd-v2",)
    """File handlers that its kernels have."""
    radix: bool = True
    """The map is a radix tree of bitmaps (else: a list of ``khoser_mem_chunk``)."""
    blob_property: str = "preserved-data"
    """Sub-node property, native-endian u64: physical address of the blob."""
    blob_size_property: str | None = "blob-size"
    """Sub-node property, native-endian u64: the blob's bytes. None: every blob is an FDT."""
    order_bit_in_width: bool = True
    """The tree's depth counts the bit above an order-0 PFN (in kho-v2 it does not)."""


ABIS: tuple[Abi, ...] = (
    Abi(
        "kho-v1",
        "6.16 to 7.0",
        ("6.16", "6.17", "6.18", "6.19", "7.0"),
        files=(),
        radix=False,
        blob_property="fdt",
        blob_size_property=None,
        order_bit_in_width=False,
    ),
    Abi(
        "kho-v2",
        "development trees before 7.1",
        releases=(),
        luo=("luo-v1",),
        files=("memfd-v1", "memfd-v2"),
        blob_size_property=None,
        order_bit_in_width=False,
    ),
    Abi("kho-v3", "7.1", ("7.1",), luo=("luo-v1",)),
    Abi("kho-v4", "7.2, 7.3", ("7.2", "7.3"), luo=("luo-v5",)),
)

BY_COMPATIBLE: dict[str, Abi] = {abi.compatible: abi for abi in ABIS}


def find_abi(compatible: str) -> Abi | None:
    """The row for a root compatible string, or None when no row fits.

    A composite string (``kho-v4;radix-v1``, proposed on the lists) goes by its first known part.
    """
    for part in compatible.split(";"):
        if part.strip() in BY_COMPATIBLE:
            return BY_COMPATIBLE[part.strip()]
    return None


def nearest_abi(compatible: str) -> Abi:
    """The known ABI whose name is closest to ``compatible`` (the newest when none is close)."""
    name = compatible.split(";")[0]
    return BY_COMPATIBLE[difflib.get_close_matches(name, BY_COMPATIBLE, n=1, cutoff=0.0)[0]]


def find_target(name: str) -> Abi | None:
    """``v4``, ``kho-v4``, ``linux-7.3``, ``7.3.4``, ``v7.3-rc1`` → what such a kernel accepts."""
    release = ".".join(name.removeprefix("linux-").removeprefix("v").split("-")[0].split(".")[:2])
    return BY_COMPATIBLE.get(f"kho-{name.removeprefix('kho-')}") or next(
        (abi for abi in ABIS if release in abi.releases), None
    )


TARGETS = tuple(
    name for abi in ABIS for name in (abi.compatible, *(f"linux-{one}" for one in abi.releases))
)
"""Every kernel and ABI that a decision can be had for."""
