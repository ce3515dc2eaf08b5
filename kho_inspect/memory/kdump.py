"""kdump-compressed dumps: makedumpfile, QEMU ``dump-guest-memory -z``.

A header, a bitmap of the pages that exist, one of the pages that the file holds, a descriptor
for each of the latter, then the pages, each compressed on its own. A page in the first bitmap
only was excluded: zero, cache, free or user memory that ``makedumpfile -d`` leaves out.

A page is looked at when it is asked for, not before. One that cannot be had, because its
descriptor or its data is damaged, is not stored, and the error says why.
"""

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kho_inspect import intervals
from kho_inspect.errors import UnreadableInputError
from kho_inspect.intervals import Intervals
from kho_inspect.layouts import diskdump
from kho_inspect.layouts.views import dtype_of
from kho_inspect.memory.base import Presence, missing_memory
from kho_inspect.memory.codecs import ANY_CODEC, CODECS, BadPageError
from kho_inspect.memory.files import DumpFile
from kho_inspect.memory.kdump_header import read_header, refused
from kho_inspect.memory.mapped import merge_extents
from kho_inspect.memory.page_bitmap import fewer_runs, set_bits
from kho_inspect.units import Extent, PhysAddr, human_size, plural

CACHE_BYTES = 16 << 20
"""Unpacked pages that are kept."""
MAX_EXTENTS = 1 << 18
"""Extents of ``stored`` and ``declared``: a filtered dump may be in a million pieces. With more,
the smallest gaps are closed; reading stays exact."""
MAX_CHECKED = 4 << 20
"""Page descriptors, the last ones, that are checked beforehand: a dump cut short lacks those."""
_READS_HELD = 64
"""Reads of descriptors after which the memory mapped for them and their pages is given back."""
_DESC = dtype_of(diskdump.page_desc)


class KdumpMemory:
    """:class:`PhysicalMemory` over a kdump-compressed file."""

    def __init__(self, file: DumpFile) -> None:
        """Raises UnreadableInputError when there is nothing to read, or no way to unpack it."""
        self._file = file
        self.path = file.path
        self.format = "kdump"
        self.size = file.size
        header = read_header(file)
        self.vmcoreinfo = header.vmcoreinfo
        self._page = header.block_size
        self._shift = self._page.bit_length() - 1
        self._dumped = set_bits(file, header.dumped_bitmap, header.pages)
        # A dumped page exists, whatever the first bitmap says.
        known = set_bits(file, header.known_bitmap, header.pages)
        self._known = intervals.union([known, self._dumped])
        self._before = np.append(0, np.cumsum(self._dumped[1] - self._dumped[0]))
        """Page descriptors before those of each run of dumped pages, and all of them."""
        self._descriptors_at, total = header.descriptors, int(self._before[-1])
        end = header.descriptors + total * _DESC.itemsize
        if end > file.size:
            raise refused(
                file,
                f"ends within its page descriptors, which run from {header.descriptors:#x} to "
                f"{end:#x}: it has {human_size(file.size)}",
            )
        self._unpackers = {
            flag: codec.load(file.path) for flag, codec in CODECS.items() if header.status & flag
        }
        self._unpacked = lru_cache(maxsize=CACHE_BYTES // self._page)(self._unpack)
        self._reads = 0
        lost = self._without_data(total)
        self._stored = intervals.subtract(self._dumped, lost)
        self.stored = tuple(self._extents(self._stored))
        self.declared = merge_extents([*self.stored, *self._extents(self._known)])
        notes = []
        if header.status & diskdump.DUMP_DH_COMPRESSED_INCOMPLETE:
            notes.append("the dump is incomplete: its header says that the writer ran out of space")
        if len(lost[0]):
            pages = f"{plural(intervals.total(lost), 'page')} of {total:,}"
            notes.append(f"the file is cut short or damaged: {pages} have no data in it")
        self.notes: tuple[str, ...] = tuple(notes)

    # -- what is there

    def _extents(self, pages: Intervals) -> Iterator[Extent]:
        return intervals.extents(fewer_runs(pages, MAX_EXTENTS), self._shift)

    def _without_data(self, total: int) -> Intervals:
        """The pages whose descriptors, of the last ones, point to no data in the file."""
        first = max(0, total - MAX_CHECKED)
        descs = self._descriptors(first, total)
        room = np.int64(self._file.size) - descs["size"].astype(np.int64)
        wrong = (descs["offset"] <= 0) | (descs["offset"] > room) | (descs["size"] == 0)
        index = np.flatnonzero(wrong) + first
        run = np.searchsorted(self._before, index, side="right") - 1
        pfns = self._dumped[0][run] + index - self._before[run]
        return intervals.merge(pfns, pfns + 1)

    def _descriptors(self, first: int, end: int) -> NDArray[Any]:
        self._reads += 1
        if self._reads % _READS_HELD == 0:
            self._file.forget(self._descriptors_at, self._file.size)
        at = self._descriptors_at
        data = self._file.view[at + first * _DESC.itemsize : at + end * _DESC.itemsize]
        return np.frombuffer(data, dtype=_DESC)

    def presence(self, paddr: PhysAddr, size: int = 1) -> Presence:
        # Unpacks the pages, unless there are too many to keep.
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
        if intervals.covers(self._dumped, first, last + 1):
            return Presence.STORED
        if not intervals.covers(self._known, first, last + 1):
            return Presence.OUTSIDE
        return Presence.EXCLUDED

    def _damage(self, first: int, last: int) -> Iterator[BadPageError]:
        pages = (self._read_page(pfn) for pfn in range(first, last + 1))
        return (page for page in pages if isinstance(page, BadPageError))

    # -- pages

    def _index(self, pfn: int) -> int:
        """Number of the descriptor of a page that is in the second bitmap."""
        run = int(np.searchsorted(self._dumped[0], pfn, side="right")) - 1
        return int(self._before[run]) + pfn - int(self._dumped[0][run])

    def _read_page(self, pfn: int) -> bytes | BadPageError:
        """The bytes of a page that is in the second bitmap, or what is wrong with them."""
        index = self._index(pfn)
        return self._unpacked(*self._descriptors(index, index + 1)[0].item()[:3])

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
                self._unpackers[codec] = CODECS[codec].load(self.path)
            page = self._unpackers[codec](data, self._page)
        except UnreadableInputError as error:
            # The header does not name this codec: one page, no reason to refuse the dump.
            return BadPageError(f"{error.message} ({error.hint})")
        except BadPageError as error:
            return BadPageError(f"{where} do not unpack as {CODECS[codec].name}: {error}")
        if len(page) != self._page:
            return BadPageError(f"{where} unpack to other than {self._page} bytes")
        return page

    def read(self, paddr: PhysAddr, size: int) -> memoryview:
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
        # Unpacks the pages: they are about to be read.
        frames = (paddrs // np.uint64(self._page)).astype(np.int64)
        mask = intervals.contains(self._dumped, frames)
        for at in np.flatnonzero(mask).tolist():
            mask[at] = self.presence(int(paddrs[at]), size) is Presence.STORED
        return mask

    def gather(self, paddrs: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any]:
        items = (self.read(paddr, dtype.itemsize) for paddr in paddrs.tolist())
        return np.frombuffer(bytearray().join(items), dtype=dtype)

    # -- scanning

    def data_chunks(self, size: int, overlap: int) -> Iterator[tuple[PhysAddr, memoryview]]:
        # Zero pages are holes too, where a whole chunk consists of them.
        step = max(1, size // self._page) * self._page
        more = -(-overlap // self._page) * self._page
        for extent in intervals.extents(self._stored, self._shift):
            for start in range(extent.start, extent.end, step):
                for paddr, data in self._pieces(start, min(start + step + more, extent.end)):
                    if paddr < start + step:
                        yield paddr, memoryview(data)[: start + step + overlap - paddr]

    def _pieces(self, start: PhysAddr, end: PhysAddr) -> Iterator[tuple[PhysAddr, bytes]]:
        """The pages of a stored extent that can be had, those next to each other in one piece."""
        index = self._index(start // self._page)
        descs = self._descriptors(index, index + (end - start) // self._page)
        pages = [self._unpacked(*desc[:3]) for desc in descs.tolist()]
        zero = bytes(self._page)
        for _, group in itertools.groupby(pages, type):
            found = list(group)
            piece = [page for page in found if isinstance(page, bytes)]
            if any(page != zero for page in piece):
                yield start, b"".join(piece)
            start += len(found) * self._page
