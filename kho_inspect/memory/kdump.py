"""kdump-compressed dumps: makedumpfile, QEMU ``dump-guest-memory -z``, and diskdump before them.

A header, a bitmap of the pages that exist, one of the pages that the file holds, a descriptor
for each of the latter, then the pages, each compressed on its own. A page in the first bitmap
only was excluded: zero, cache, free or user memory that ``makedumpfile -d`` leaves out.

A page is looked at when it is asked for, not before. One that cannot be had, because its
descriptor or its data is damaged, is not stored, and the error says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from kho_inspect import intervals
from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts import diskdump
from kho_inspect.layouts.views import dtype_of
from kho_inspect.memory.base import Presence, missing_memory
from kho_inspect.memory.codecs import ANY_CODEC, CODECS, BadPageError, Unpacker
from kho_inspect.memory.files import DumpFile
from kho_inspect.memory.kdump_header import read_header
from kho_inspect.memory.mapped import merge_extents
from kho_inspect.memory.page_bitmap import PageBitmap, fewer_runs
from kho_inspect.units import Extent, PhysAddr, plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.intervals import Intervals

CACHE_BYTES = 16 << 20
"""Unpacked pages that are kept."""
MAX_EXTENTS = 1 << 18
"""Extents of ``stored`` and ``declared``: a filtered dump may be in a million pieces. With more,
the smallest gaps are closed; reading stays exact."""
MAX_CHECKED = 4 << 20
"""Page descriptors, the last ones, that are checked beforehand: a dump cut short lacks those."""
MAX_LOST = 1 << 14
"""Runs of unusable descriptors that are told apart in ``stored``."""
_BATCH = 1 << 16
_FORGET_BYTES = 64 << 20
"""Memory that is scanned between two times of giving back what was mapped for it."""
_DESC = dtype_of(diskdump.page_desc)


def open_kdump(file: DumpFile) -> KdumpMemory:
    """Raises UnreadableInputError when there is nothing to read, or no way to unpack it."""
    return KdumpMemory(file)


class KdumpMemory:
    """:class:`PhysicalMemory` over a kdump-compressed file."""

    def __init__(self, file: DumpFile) -> None:
        """Raises UnreadableInputError."""
        self._file = file
        self.path = file.path
        self.format = "kdump"
        self.size = file.size
        header = read_header(file)
        self._header = header
        self._page = header.block_size
        self._known = PageBitmap(file, header.known_bitmap, header.pages)
        self._dumped = (
            self._known
            if header.dumped_bitmap == header.known_bitmap
            else PageBitmap(file, header.dumped_bitmap, header.pages)
        )
        self._unpackers: dict[int, Unpacker] = {}
        for flag, codec in CODECS.items():
            if header.status & flag:
                self._unpackers[flag] = self._load(flag, codec.name)
        self._unpacked = lru_cache(maxsize=CACHE_BYTES // self._page)(self._unpack)
        self._lost = self._check_descriptors()
        self.notes = tuple(self._notes())

    def _load(self, flag: int, name: str) -> Unpacker:
        try:
            return CODECS[flag].load()
        except UnreadableInputError as error:
            raise UnreadableInputError(
                f"{self.path}: the pages of this kdump are compressed with {name}: {error.message}",
                hint=error.hint,
                source=self.path,
            ) from error

    # -- what is there

    def _check_descriptors(self) -> Intervals:
        """The last descriptors that point to no data in the file, as merged intervals."""
        total = self._dumped.total
        there = max(0, self._file.size - self._header.descriptors) // _DESC.itemsize
        bad = [intervals.from_pairs([(there, total)])]
        end = min(total, there)
        for first in range(max(0, end - MAX_CHECKED), end, _BATCH):
            descs = self._descriptors(first, min(first + _BATCH, end))
            wrong = self._empty(descs)
            if wrong.any():
                change = np.flatnonzero(np.diff(wrong, prepend=False, append=False)) + first
                bad.append((change[0::2], change[1::2]))
            self._forget()
        return intervals.merge(
            np.concatenate([starts for starts, _ in bad]),
            np.concatenate([ends for _, ends in bad]),
        )

    def _descriptors(self, first: int, end: int) -> NDArray[Any]:
        at = self._header.descriptors
        data = self._file.view[at + first * _DESC.itemsize : at + end * _DESC.itemsize]
        # A file that is cut short may end in the middle of one.
        return np.frombuffer(data[: len(data) // _DESC.itemsize * _DESC.itemsize], dtype=_DESC)

    def _empty(self, descs: NDArray[Any]) -> NDArray[np.bool_]:
        """Which descriptors point to no data in the file."""
        room = np.int64(self._file.size) - descs["size"].astype(np.int64)
        wrong: NDArray[np.bool_] = (
            (descs["offset"] <= 0) | (descs["offset"] > room) | (descs["size"] == 0)
        )
        return wrong

    def _forget(self) -> None:
        """Give back the memory of descriptors and pages; the bitmaps are asked all the time."""
        self._file.forget(self._header.descriptors, self._file.size)

    def _notes(self) -> Iterator[str]:
        if self._header.status & diskdump.DUMP_DH_COMPRESSED_INCOMPLETE:
            yield "the dump is incomplete: whoever wrote it ran out of space, and says so"
        lost = intervals.total(self._lost)
        if lost:
            yield (
                f"the file is cut short or damaged: {plural(lost, 'page')} of "
                f"{self._dumped.total:,} have no data in it"
            )

    @cached_property
    def _stored_runs(self) -> Intervals:
        """Page frames whose bytes are in the file, as merged intervals."""
        runs = self._dumped.runs(MAX_EXTENTS)
        if len(self._lost[0]):
            # Descriptors next to each other are of pages next to each other, but for gaps.
            starts, ends = fewer_runs(self._lost, MAX_LOST)
            first, last = self._dumped.select(starts), self._dumped.select(ends - 1)
            runs = intervals.subtract(runs, (first, last + 1))
        return fewer_runs(runs, MAX_EXTENTS)

    @cached_property
    def stored(self) -> tuple[Extent, ...]:
        """See :class:`PhysicalMemory`."""
        return self._extents(self._stored_runs)

    @cached_property
    def declared(self) -> tuple[Extent, ...]:
        """See :class:`PhysicalMemory`. A dumped page exists, whatever the first bitmap says."""
        return merge_extents([*self.stored, *self._extents(self._known.runs(MAX_EXTENTS))])

    def _extents(self, runs: Intervals) -> tuple[Extent, ...]:
        page = self._page
        return tuple(
            Extent(start * page, end * page)
            for start, end in zip(runs[0].tolist(), runs[1].tolist(), strict=True)
        )

    def presence(self, paddr: PhysAddr, size: int = 1) -> Presence:
        """See :class:`PhysicalMemory`. Unpacks the pages, unless there are too many to keep."""
        first, last = self._frames(paddr, size)
        presence = self._claimed(first, last)
        few = last - first < CACHE_BYTES // self._page
        if presence is Presence.STORED and few and any(self._damage(first, last)):
            return Presence.NOT_STORED
        return presence

    def _frames(self, paddr: PhysAddr, size: int) -> tuple[int, int]:
        return paddr // self._page, (paddr + max(size, 1) - 1) // self._page

    def _claimed(self, first: int, last: int) -> Presence:
        """What the bitmaps say of the page frames ``first`` to ``last``."""
        if self._dumped.all_set(first, last):
            return Presence.STORED
        if not self._known.all_set(first, last):
            return Presence.OUTSIDE
        return Presence.EXCLUDED

    def _damage(self, first: int, last: int) -> Iterator[BadPageError]:
        for pfn in range(first, last + 1):
            page = self._read_page(pfn)
            if isinstance(page, BadPageError):
                yield page

    # -- pages

    def _read_page(self, pfn: int) -> bytes | BadPageError:
        """The bytes of a page that is in the second bitmap, or what is wrong with them."""
        index = self._dumped.rank(pfn)
        found = self._descriptors(index, index + 1)
        if not len(found):
            return BadPageError("the file ends before its page descriptor")
        offset, size, flags, _ = found[0].item()
        return self._unpacked(offset, size, flags)

    def _unpack(self, offset: int, size: int, flags: int) -> bytes | BadPageError:
        """Damage is a value here, so that the cache remembers it too."""
        where = f"its {plural(size, 'byte')} at file offset {offset:#x}"
        if offset <= 0 or size <= 0:
            return BadPageError("its page descriptor is empty")
        if size > self._page:
            return BadPageError(f"{where} are more than a page")
        if offset + size > self._file.size:
            return BadPageError(f"{where} are not in the file")
        data = self._file.view[offset : offset + size]
        codec = flags & ANY_CODEC
        if not codec:
            return bytes(data) if size == self._page else BadPageError(f"{where} are less than it")
        if codec not in CODECS:
            return BadPageError(f"its flags {flags:#x} name several compressions")
        try:
            if codec not in self._unpackers:
                self._unpackers[codec] = self._load(codec, CODECS[codec].name)
            page = self._unpackers[codec](data, self._page)
        except UnreadableInputError as error:
            # The header knows nothing of this codec: an odd page, not a dump to refuse.
            return BadPageError(f"{error.message} ({error.hint})")
        except BadPageError as error:
            return BadPageError(f"{where} do not unpack as {CODECS[codec].name}: {error}")
        if len(page) != self._page:
            return BadPageError(f"{where} unpack to other than {self._page} bytes")
        return page

    def read(self, paddr: PhysAddr, size: int) -> memoryview:
        """See :class:`PhysicalMemory`."""
        first, last = self._frames(paddr, size)
        presence = self._claimed(first, last)
        if presence is not Presence.STORED:
            raise missing_memory(presence, paddr, size, self.path)
        pages = []
        for pfn in range(first, last + 1):
            page = self._read_page(pfn)
            if isinstance(page, BadPageError):
                why = f"page {pfn * self._page:#x}: {page}"
                raise missing_memory(Presence.NOT_STORED, paddr, size, self.path, why)
            pages.append(page)
        data = memoryview(pages[0] if len(pages) == 1 else b"".join(pages))
        skip = paddr - first * self._page
        return data[skip : skip + size]

    def stored_mask(self, paddrs: NDArray[np.uint64], size: int) -> NDArray[np.bool_]:
        """See :class:`PhysicalMemory`. Unpacks the pages: whoever asks is about to read them."""
        page = np.uint64(self._page)
        first = (paddrs // page).astype(np.int64)
        # An address near 2**64 must not wrap around to the first pages.
        ends = paddrs + np.uint64(max(size, 1) - 1)
        mask = ends >= paddrs
        last = (ends // page).astype(np.int64)
        for step in range(max(size, 1) // self._page + 2):
            mask &= self._dumped.contains(np.minimum(first + step, last))
        for at in np.flatnonzero(mask).tolist():
            mask[at] = not any(self._damage(int(first[at]), int(last[at])))
        return mask

    def gather(self, paddrs: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any]:
        """See :class:`PhysicalMemory`."""
        size = dtype.itemsize
        items = np.empty(len(paddrs), dtype=dtype)
        flat = items.view(np.uint8).data
        for row, paddr in enumerate(paddrs.tolist()):
            flat[row * size : (row + 1) * size] = self.read(paddr, size)
        return items

    # -- scanning

    def data_chunks(self, size: int, overlap: int) -> Iterator[tuple[PhysAddr, memoryview]]:
        """See :class:`PhysicalMemory`. Zero pages that share their data are holes too."""
        step = max(1, size // self._page)
        more = -(-overlap // self._page)
        scanned = 0
        for start, end in zip(*(bounds.tolist() for bounds in self._stored_runs), strict=True):
            for pfn in range(start, end, step):
                own = min(pfn + step, end) * self._page
                for paddr, data in self._pieces(pfn, min(pfn + step + more, end)):
                    if paddr < own:
                        yield paddr, memoryview(data)[: own + overlap - paddr]
                scanned += size
                if scanned >= _FORGET_BYTES:
                    self._forget()
                    scanned = 0

    def _pieces(self, first: int, end: int) -> Iterator[tuple[PhysAddr, bytes]]:
        """The pages that can be had, those next to each other in one piece."""
        pfns = first + np.flatnonzero(self._dumped.contains(np.arange(first, end)))
        index = self._dumped.rank(first)
        descs = self._descriptors(index, index + len(pfns))
        # The file may end first; and what points nowhere is not worth a look each.
        good = ~self._empty(descs)
        pfns, descs = pfns[: len(descs)][good], descs[good]
        if len(descs) and (descs["offset"] == descs["offset"][0]).all():
            page = self._unpacked(*descs[0].item()[:3])
            if isinstance(page, BadPageError) or page.count(0) == len(page):
                return
        pages: list[bytes] = []
        following = first
        for pfn, (offset, size, flags, _) in zip(pfns.tolist(), descs.tolist(), strict=True):
            page = self._unpacked(offset, size, flags)
            if pages and (pfn != following or isinstance(page, BadPageError)):
                yield (following - len(pages)) * self._page, b"".join(pages)
                pages = []
            if isinstance(page, bytes):
                pages.append(page)
                following = pfn + 1
        if pages:
            yield (following - len(pages)) * self._page, b"".join(pages)
