"""makedumpfile's flattened format: a dump in the order it was written, rearranged on the fly.

``makedumpfile -F`` and QEMU's ``dump-guest-memory`` write to pipes, where nobody can seek: so they
write records of (offset, size, bytes). Here the records become a map of segments over the mapped
file, through which the dump inside, a kdump or an ELF core, reads like a file of its own.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts import diskdump
from kho_inspect.memory.files import DumpFile
from kho_inspect.units import human_size, plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_GAP = 64 << 20
"""Bytes between records that one read may cover with zeros: no header needs as many."""

_FREE_RECORDS = 1 << 16
_MEAN_RECORD = 256
"""Writers buffer at least a page: a large file of tiny records would only cost memory."""
_FORGET_BYTES = 64 << 20


class FlattenedFile:
    """The rearranged dump, as a :class:`DumpFile`."""

    def __init__(self, file: DumpFile) -> None:
        """Raises UnreadableInputError when there is no record; a later defect is a note."""
        self.path = file.path
        self.notes: tuple[str, ...] = ()
        self._file = file
        self._check_header()
        starts, sources, sizes = self._read_records()
        if not len(starts):
            raise self._refuse("holds no record", "the dump was cut short: take it again")
        starts, sources, sizes = _later_wins(starts, sources, sizes)
        # Plain integers: a view is sliced for every page, and numpy's are slow one by one.
        self._starts = array("q", starts.tobytes())
        self._sources = array("q", sources.tobytes())
        self._ends = array("q", (starts + sizes).tobytes())
        self.size = self._ends[-1]
        self.view = _Rearranged(self)

    def _refuse(self, message: str, hint: str) -> UnreadableInputError:
        return UnreadableInputError(
            f"{self.path} is a flattened kdump (makedumpfile -F) that {message}",
            hint=hint,
            source=self.path,
        )

    def _check_header(self) -> None:
        if self._file.size < diskdump.MAX_SIZE_MDF_HEADER:
            raise self._refuse(
                f"ends within its header, after {self._file.size} bytes",
                "the dump was cut short: take it again",
            )
        layout = diskdump.makedumpfile_header
        header = layout.parse(self._file.view[: layout.sizeof()])
        if (header.type, header.version) != (1, 1):
            raise self._refuse(
                f"is of type {header.type}, version {header.version}, should be 1, 1",
                "rearrange it with makedumpfile -R, then give the result",
            )

    def _read_records(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        import numpy as np

        from kho_inspect.layouts.views import dtype_of

        dtype = dtype_of(diskdump.makedumpfile_data_header)
        view, end = self._file.view, self._file.size
        starts, sources, sizes = array("q"), array("q"), array("q")
        allowed = _FREE_RECORDS + end // _MEAN_RECORD
        at, trouble = diskdump.MAX_SIZE_MDF_HEADER, "it has no end marker"
        forgotten = 0
        while at + dtype.itemsize <= end:
            offset, size = np.frombuffer(view[at : at + dtype.itemsize], dtype=dtype)[0].item()
            if offset == size == diskdump.END_FLAG_FLAT_HEADER:
                trouble = ""
                break
            if offset < 0 or size < 0 or offset + size >= 1 << 63:
                trouble = f"the record at file offset {at:#x} is for {size} bytes at {offset}"
                break
            if len(starts) == allowed:
                raise self._refuse(
                    f"has more than {allowed:,} records, of hardly any bytes each",
                    "no writer makes such a file; rearrange it with makedumpfile -R, if it can",
                )
            at += dtype.itemsize
            have = min(size, end - at)
            if have:
                starts.append(offset)
                sources.append(at)
                sizes.append(have)
            if have < size:
                trouble = f"of the last record, {human_size(have)} of {human_size(size)} are there"
                break
            at += size
            if at - forgotten >= _FORGET_BYTES:
                # Reading a header maps its neighbourhood too: all of the file, in the end.
                self._file.forget(forgotten, at)
                forgotten = at
        if trouble:
            records = plural(len(starts), "record")
            self.notes = (f"the flattened file is cut short or damaged after {records}: {trouble}",)
        as_arrays = [np.frombuffer(column, dtype=np.int64) for column in (starts, sources, sizes)]
        return as_arrays[0], as_arrays[1], as_arrays[2]

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """What is stored of ``start..end``, as (start, end, offset in the flattened file)."""
        at = max(0, bisect.bisect_right(self._starts, start) - 1)
        while at < len(self._starts) and self._starts[at] < end:
            low, high = max(start, self._starts[at]), min(end, self._ends[at])
            if low < high:
                yield low, high, self._sources[at] + low - self._starts[at]
            at += 1

    def slice(self, start: int, end: int) -> memoryview:
        """The bytes ``start..end``; what no record wrote is zero."""
        found = list(self.pieces(start, end))
        if len(found) == 1 and found[0][:2] == (start, end):
            return self._file.view[found[0][2] : found[0][2] + end - start]
        gap = end - start - sum(high - low for low, high, _ in found)
        if gap > MAX_GAP:
            raise self._refuse(
                f"has no data for {human_size(gap)} of what it should hold at {start:#x}",
                "the file is damaged: take the dump again",
            )
        joined = bytearray(end - start)
        for low, high, source in found:
            joined[low - start : high - start] = self._file.view[source : source + high - low]
        return memoryview(joined)

    def data_extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See :class:`DumpFile`. Records that touch are one extent."""
        low = high = start
        for piece_start, piece_end, _ in self.pieces(start, end):
            if piece_start != high:
                if low < high:
                    yield low, high
                low = piece_start
            high = piece_end
        if low < high:
            yield low, high

    def forget(self, start: int, end: int) -> None:
        """See :class:`DumpFile`. What lies between the records of the range goes with them."""
        first = max(0, bisect.bisect_right(self._starts, start) - 1)
        last = bisect.bisect_left(self._starts, end) - 1
        if first <= last:
            bounds = [self._sources[first], self._sources[last]]
            size = self._ends[last] - self._starts[last]
            self._file.forget(min(bounds), max(bounds) + size)


class _Rearranged:
    """``view[a:b]``"""

    def __init__(self, file: FlattenedFile) -> None:
        self.file = file

    def __getitem__(self, part: slice) -> memoryview:
        start, stop, _ = part.indices(self.file.size)
        return self.file.slice(start, max(start, stop))


def _later_wins(starts: Any, sources: Any, sizes: Any) -> tuple[Any, Any, Any]:
    """Disjoint segments in order of ``starts``: a header written again replaces the first one.

    Only where records overlap are they looked at one by one.
    """
    import numpy as np

    order = np.argsort(starts, kind="stable")
    starts, sources, sizes = starts[order], sources[order], sizes[order]
    reach = np.maximum.accumulate(starts + sizes)
    apart = np.append(True, starts[1:] >= reach[:-1])
    heads = np.flatnonzero(apart)
    lengths = np.diff(np.append(heads, len(starts)))
    if (lengths == 1).all():
        return starts, sources, sizes
    alone = np.repeat(lengths == 1, lengths)
    cut = np.array(
        [
            piece
            for head, length in zip(
                heads[lengths > 1].tolist(), lengths[lengths > 1].tolist(), strict=True
            )
            for piece in _overlay(
                [
                    # The position in the file is the age of the record.
                    (int(starts[at]), int(starts[at] + sizes[at]), int(sources[at]))
                    for at in range(head, head + length)
                ]
            )
        ],
        dtype=np.int64,
    )
    starts = np.concatenate([starts[alone], cut[:, 0]])
    sources = np.concatenate([sources[alone], cut[:, 1]])
    sizes = np.concatenate([sizes[alone], cut[:, 2]])
    order = np.argsort(starts, kind="stable")
    return starts[order], sources[order], sizes[order]


def _overlay(records: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """What is seen from above of (start, end, source), sorted by start: (start, source, size)."""
    bounds = sorted({bound for start, end, _ in records for bound in (start, end)})
    open_records: list[tuple[int, int, int]] = []
    arriving = 0
    for low, high in itertools.pairwise(bounds):
        while arriving < len(records) and records[arriving][0] <= low:
            start, end, source = records[arriving]
            heapq.heappush(open_records, (-source, start, end))
            arriving += 1
        while open_records and open_records[0][2] <= low:
            heapq.heappop(open_records)
        if open_records:
            newest, start, _ = open_records[0]
            yield low, low - start - newest, high - low
