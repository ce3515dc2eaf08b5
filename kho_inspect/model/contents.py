"""What decoded blobs hold: frozen dataclasses, fields named as in the kernel structs.

No I/O, nothing decided. ``path`` leads to a structure from its sub-node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kho_inspect.units import PhysAddr

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kho_inspect.intervals import I64


@dataclass(frozen=True, slots=True)
class VmallocArea:
    """A preserved vmalloc area (``struct kho_vmalloc``), as far as it could be followed."""

    first: PhysAddr
    total_pages: int
    flags: int
    order: int
    """Each entry of the chunks covers ``1 << order`` pages."""
    chunks: tuple[PhysAddr, ...]
    """The chunk pages that were read, in list order."""
    phys: NDArray[np.uint64]
    """Start of each physically contiguous piece, in virtual order, shape ``(n,)``."""
    path: str

    @property
    def pages(self) -> int:
        """Pages that the chunks name; the kernel wants ``total_pages`` of them."""
        return len(self.phys) << self.order if len(self.phys) else 0

    @property
    def whole(self) -> bool:
        """Whether every page of the area is known."""
        return self.pages == self.total_pages


@dataclass(frozen=True, slots=True)
class Folios:
    """The folio table of a preserved memfd: parallel arrays of shape ``(n,)``."""

    pfn: I64
    """First page frame; 0 is a hole that the kernel passes over."""
    flags: NDArray[np.int16]
    index: NDArray[np.uint64]
    """Page offset in the file."""
    order: NDArray[np.int8]
    """Order of the preserved block that starts at ``pfn``; -1 when none does."""

    def __len__(self) -> int:
        return len(self.pfn)


@dataclass(frozen=True, slots=True)
class Memfd:
    """A preserved memfd (``struct memfd_luo_ser``)."""

    compatible: str
    paddr: PhysAddr
    pos: int
    size: int
    """Bytes."""
    seals: int | None
    """F_SEAL_* bits; None in memfd-v1, which has none."""
    flags: int | None
    nr_folios: int
    folios: VmallocArea
    """The area that holds the folio table."""
    table: Folios
    """As many entries of the table as could be read."""
    path: str


@dataclass(frozen=True, slots=True)
class LuoFile:
    """One file of a session (``struct luo_file_ser``)."""

    compatible: str
    data: PhysAddr
    token: int
    memfd: Memfd | None
    """None for a handler that is not known, or a descriptor that could not be read."""
    path: str


@dataclass(frozen=True, slots=True)
class LuoSession:
    """One live-update session (``struct luo_session_ser``)."""

    name: str
    raw_name: bytes
    """All 64 bytes."""
    files_pa: PhysAddr
    """The field ``files``."""
    count: int
    files: tuple[LuoFile, ...]
    """The files that could be read."""
    path: str


@dataclass(frozen=True, slots=True)
class LuoFlb:
    """File-lifecycle-bound data (``struct luo_flb_ser``); ``data`` is opaque."""

    name: str
    raw_name: bytes
    data: int
    count: int
    path: str


@dataclass(frozen=True, slots=True)
class Luo:
    """The Live Update Orchestrator's state."""

    compatible: str
    liveupdate_num: int | None
    sessions_pa: PhysAddr
    """0: sessions were not serialized (yet)."""
    flbs_pa: PhysAddr
    sessions: tuple[LuoSession, ...]
    flbs: tuple[LuoFlb, ...]

    @property
    def serialized(self) -> bool:
        """LUO writes its sessions at reboot only; an earlier dump has none."""
        return self.sessions_pa != 0

    @property
    def files(self) -> list[LuoFile]:
        """All files of all sessions."""
        return [file for session in self.sessions for file in session.files]


@dataclass(frozen=True, slots=True)
class ReserveMem:
    """One ``reserve_mem=`` region."""

    name: str
    compatible: str
    start: PhysAddr | None
    """None when the property is missing or mis-sized."""
    size: int | None
    path: str


@dataclass(frozen=True, slots=True)
class Memblock:
    """The memblock sub-node."""

    compatible: str
    regions: tuple[ReserveMem, ...]


@dataclass(frozen=True, slots=True)
class KexecMetadata:
    """``struct kho_kexec_metadata``."""

    version: int
    previous_release: str
    raw_release: bytes
    kexec_count: int


@dataclass(frozen=True, slots=True)
class KhoTest:
    """State of the kernel's KHO test module."""

    compatible: str
    magic: int | None
    nr_folios: int | None
    folios_info: VmallocArea | None
    """None where the property was the array itself (6.16, 6.17)."""
    phys: NDArray[np.uint64]
    """Physical address of each folio, shape ``(n,)``."""
    order: I64
    csum: int | None
    computed: int | None
    """The folios' checksum, folded to 16 bits; None when a folio is not stored."""
    bytes: int
    """Sum of the folios' sizes."""

    @property
    def checksum_ok(self) -> bool | None:
        """Whether ``csum`` fits the folios; None when that cannot be told."""
        if self.csum is None or self.computed is None:
            return None
        folded = self.csum
        while folded >> 16:
            folded = (folded & 0xFFFF) + (folded >> 16)
        # One's complement arithmetic has two zeroes.
        return folded % 0xFFFF == self.computed % 0xFFFF


Content: TypeAlias = Luo | Memblock | KexecMetadata | KhoTest
