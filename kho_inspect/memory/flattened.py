"""makedumpfile's flattened format: a dump in the order it was written, rearranged on the fly.

``makedumpfile -F`` and QEMU's ``dump-guest-memory`` write to pipes, which cannot seek: so they
write records of (offset, size, bytes). Here the records become a map of segments over the mapped
file, through which the dump inside, a kdump or an ELF core, reads like a file of its own.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator

import numpy as np

from kho_inspect.errors import UnreadableInputError, unreadable
from kho_inspect.intervals import I64
from kho_inspect.layouts import diskdump
from kho_inspect.layouts.views import format_of
from kho_inspect.memory.files import DumpFile
from kho_inspect.units import human_size, plural

MAX_GAP = 64 << 20
"""Bytes between records that one read may cover with zeros: no header needs as many."""

_FREE_RECORDS = 1 << 16
_MEAN_RECORD = 256
"""Writers buffer at least a page: a large file of tiny records would only cost memory."""
_CUT_SHORT = "the dump was cut short: take it again"


class FlattenedFile:
    """The rearranged dump, as a :class:`DumpFile`."""

    def __init__(self, file: DumpFile) -> None:
        """Raises UnreadableInputError when there is no record; a later defect is a note."""
        self.path = file.path
        self.notes: tuple[str, ...] = ()
        self._file = file
        if file.size < diskdump.MAX_SIZE_MDF_HEADER:
            raise self._refused(f"ends within its header, after {file.size} bytes", _CUT_SHORT)
        layout = diskdump.makedumpfile_header
        header = layout.parse(file.view[: layout.sizeof()])
        if (header.type, header.version) != (1, 1):
            raise self._refused(
                f"is of type {header.type}, version {header.version}, should be 1, 1",
                "rearrange it with makedumpfile -R, then give the result",
            )
        records = np.array(self._read_records(), dtype=np.int64).reshape(-1, 3)
        # The headers of the records were mapped, and all of the file with them.
        file.forget(0, file.size)
        if not len(records):
            raise self._refused("holds no record", _CUT_SHORT)
        # Plain integers: a view is sliced for every page, and numpy's are slow one by one.
        self._starts, self._ends, self._sources = (
            array("q", column.tobytes()) for column in _newest(*records.T)
        )
        self.size = self._ends[-1]

    def _refused(self, message: str, hint: str) -> UnreadableInputError:
        return unreadable(self.path, f"is a flattened kdump (makedumpfile -F) that {message}", hint)

    def _read_records(self) -> array[int]:
        """Start, end and offset in the flattened file of each record, in the order written."""
        form = format_of(diskdump.makedumpfile_data_header)
        view, end = self._file.view, self._file.size
        records = array("q")
        at, trouble = diskdump.MAX_SIZE_MDF_HEADER, "it has no end marker"
        while at + form.size <= end:
            offset, size = form.unpack(view[at : at + form.size])
            if offset == size == diskdump.END_FLAG_FLAT_HEADER:
                trouble = ""
                break
            if offset < 0 or size < 0 or offset + size >= 1 << 63:
                trouble = f"the record at file offset {at:#x} is for {size} bytes at {offset}"
                break
            if len(records) // 3 >= _FREE_RECORDS + at // _MEAN_RECORD:
                trouble = "they are of hardly any bytes each"
                break
            at += form.size
            have = min(size, end - at)
            if have:
                records.extend((offset, offset + have, at))
            if have < size:
                trouble = f"of the last record, {human_size(have)} of {human_size(size)} are there"
                break
            at += size
        if trouble:
            count = plural(len(records) // 3, "record")
            self.notes = (f"the flattened file is cut short or damaged after {count}: {trouble}",)
        return records

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """What is stored of ``start..end``, as (start, end, offset in the flattened file)."""
        at = max(0, bisect.bisect_right(self._starts, start) - 1)
        while at < len(self._starts) and self._starts[at] < end:
            low, high = max(start, self._starts[at]), min(end, self._ends[at])
            if low < high:
                yield low, high, self._sources[at] + low - self._starts[at]
            at += 1

    @property
    def view(self) -> FlattenedFile:
        return self

    def __getitem__(self, part: slice) -> memoryview:
        """The bytes ``start:stop``; what no record wrote is zero."""
        start, end, _ = part.indices(self.size)
        end = max(start, end)
        found = list(self._pieces(start, end))
        if len(found) == 1 and found[0][:2] == (start, end):
            return self._file.view[found[0][2] : found[0][2] + end - start]
        gap = end - start - sum(high - low for low, high, _ in found)
        if gap > MAX_GAP:
            raise self._refused(
                f"has no data for {human_size(gap)} of what it should hold at {start:#x}",
                "the file is damaged: take the dump again",
            )
        joined = bytearray(end - start)
        for low, high, source in found:
            joined[low - start : high - start] = self._file.view[source : source + high - low]
        return memoryview(joined)

    def data_extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        # Records that touch are one extent.
        low = high = start
        for piece_start, piece_end, _ in self._pieces(start, end):
            if piece_start != high:
                if low < high:
                    yield low, high
                low = piece_start
            high = piece_end
        if low < high:
            yield low, high

    def forget(self, start: int, end: int) -> None:
        # The records of the range may be anywhere.
        self._file.forget(0, self._file.size)


def _newest(starts: I64, ends: I64, sources: I64) -> tuple[I64, I64, I64]:
    """Disjoint segments, sorted, of records in the order written: the later one wins.

    No more work than the records have bytes: each covers as many bounds at most.
    """
    bounds = np.unique(np.concatenate([starts, ends]))
    newest = np.full(len(bounds), -1)
    """The record to be seen between a bound and the next."""
    first, last = np.searchsorted(bounds, starts), np.searchsorted(bounds, ends)
    for number, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        newest[low:high] = number
    seen = np.flatnonzero(newest >= 0)
    record, low = newest[seen], bounds[seen]
    return low, bounds[seen + 1], sources[record] + low - starts[record]
