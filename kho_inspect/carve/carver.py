"""Everything that a dump yields by contents: scan → read → hold to each other → trust."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from kho_inspect.carve.blobs import Blobs, Found
from kho_inspect.carve.conflicts import Candidate, settle
from kho_inspect.carve.files import HANDLERS, Files, Listed
from kho_inspect.carve.scan import AnchorKind, Anchors, scan
from kho_inspect.carve.verify import Verified
from kho_inspect.decoders.kho_test import KhoTest
from kho_inspect.errors import KhoError
from kho_inspect.geometry import PAGE_SHIFTS, page_size_name
from kho_inspect.limits import DEFAULT_LIMITS, Limits
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.carved import CarvedFile, Carving
from kho_inspect.model.contents import Item, Piece
from kho_inspect.model.identity import Carved, ClaimKind, Owner, Subsystem
from kho_inspect.model.luo import LUO, Luo, LuoFile
from kho_inspect.model.provenance import Doubt, DoubtKind, Provenance, Structure, Trust, trust_of
from kho_inspect.units import PhysAddr, plural

MAX_COPIES = 16
"""Blobs of one name that are kept though nothing names them."""
MAX_NAMED = 1 << 11
"""Sessions that are followed as if the user named their place, wherever sessions seem to begin."""


def carve(
    memory: PhysicalMemory,
    *,
    page_size: str = "auto",
    limits: Limits = DEFAULT_LIMITS,
    sessions: PhysAddr | None = None,
    progress: Callable[[int], None] = lambda size: None,
) -> Carving:
    """What the whole dump yields, or the sessions whose block or array is at ``sessions``.

    ``page_size`` is ``auto`` or a key of ``geometry.PAGE_SHIFTS``. Raises KhoError when there is
    no session with a file at that address.
    """
    shifts = list(PAGE_SHIFTS.values()) if page_size == "auto" else [PAGE_SHIFTS[page_size]]
    anchors = Anchors() if sessions is not None else scan(memory, progress)
    every = [Files(memory, shift, limits) for shift in shifts]
    found = [_Carver(files, anchors, sessions).carving() for files in every]
    best = max(found, key=_score)
    if sessions is not None and not best.files:
        raise KhoError(
            f"no LUO sessions with a file that reads as one at {sessions:#x}",
            hint="the address of the first block or array of sessions, not of a session",
            paddr=sessions,
        )
    name = page_size_name(best.geometry.shift)
    fits = sum(1 for _ in best.items)
    reason = "given with --page-size" if page_size != "auto" else "assumed: nothing was found"
    if page_size == "auto" and fits:
        reason = f"by evidence: with {name} pages, {plural(fits, 'thing')} of the dump read well"
    return replace(best, page_size_reason=reason)


def carve_widely(memory: PhysicalMemory, limits: Limits = DEFAULT_LIMITS) -> Iterator[Item]:
    """What :func:`carve` yields, and what it does from each place that begins like sessions.

    What it reads on the way is all that :func:`carve` reads, with any page size and ``sessions``.
    """
    anchors = scan(memory)
    every = [Files(memory, shift, limits) for shift in PAGE_SHIFTS.values()]
    found = [(_Carver(files, anchors).carving(), files) for files in every]
    best, files = max(found, key=lambda one: _score(one[0]))
    yield from best.items
    files.read_before.clear()
    files.most = files.examined + MAX_NAMED
    for paddr in (*anchors[AnchorKind.SESSION_BLOCK], *anchors[AnchorKind.SESSION_ARRAY]):
        if paddr not in files.read_before and files.examined < files.most:
            yield from _Carver(files, Anchors(), paddr).carving().items


def _score(carving: Carving) -> tuple[int, int, int]:
    """How well a page size fits: more of a better trust first, then what leaves less doubt."""
    found = [item.provenance for item in carving.items if item.provenance is not None]
    sure = sum(one.trust is Trust.CONFIRMED for one in found)
    likely = sum(one.trust is Trust.LIKELY for one in found)
    return sure + likely, sure, len(found)


class _Carver:
    """What one page size makes of the anchors."""

    def __init__(self, files: Files, anchors: Anchors, sessions: PhysAddr | None = None) -> None:
        self.files, self.anchors, self.at = files, anchors, sessions
        self.taken: set[PhysAddr] = set()
        """Descriptors that belong to a file."""

    def carving(self) -> Carving:
        """Everything found, held to each other."""
        files = self.files
        blobs = Blobs(files, self.anchors).found
        listed = [*self._listed(blobs)]
        candidates = [*self._files(listed)]
        leading = {one.blob for one in listed}
        candidates += self._others(blobs, leading)
        kept, lost, given_up = settle(candidates)
        if lost:
            files.rejected["has memory of what is more trusted"] += lost
        return Carving(
            geometry=files.geometry,
            page_size_reason="",
            files=tuple(
                CarvedFile(one.item, one.handler, one.folios)
                for one in kept
                if one.handler is not None
            ),
            others=tuple(one.item for one in kept if one.handler is None),
            examined=files.examined,
            rejected={why: count for why, count in files.rejected.items() if count},
            passed_over=files.passed_over + self.anchors.passed_over + given_up,
        )

    def _listed(self, blobs: list[Found]) -> Iterator[Listed]:
        """Every session that agrees with its files; those that a blob leads to first."""
        files = self.files
        if self.at is not None:
            for chained in (True, False):
                yield from files.sessions(chained, self.at, vouched=True)
            return
        for found in blobs:
            luo = found.blob.content
            if found.sound and isinstance(luo, Luo) and luo.sessions_pa:
                chained = luo.compatible != "luo-v1"
                yield from files.sessions(chained, luo.sessions_pa, found.blob.paddr)
        for chained, kind in ((True, AnchorKind.SESSION_BLOCK), (False, AnchorKind.SESSION_ARRAY)):
            for paddr in self.anchors[kind]:
                if paddr not in files.read_before:
                    yield from files.sessions(chained, paddr)

    # -- files

    def _files(self, listed: list[Listed]) -> Iterator[Candidate]:
        """Each descriptor once: in the best session, else a list, else alone."""
        by_list: dict[PhysAddr, list[Listed]] = {}
        for one in sorted(listed, key=lambda one: one.session.files_pa):
            by_list.setdefault(one.session.files_pa, []).append(one)
        owners = sorted(map(self._best, by_list.values()), key=lambda one: one.rank)
        rivals: dict[PhysAddr, list[tuple[Listed, LuoFile]]] = {}
        for one in owners:
            for file in one.session.files:
                if self.files.verified.get((file.compatible, file.data)):
                    rivals.setdefault(file.data, []).append((one, file))
        for named in rivals.values():
            yield from self._of_lists(named)
        known = {one.session.files_pa for one in owners}
        for chained, anchor in ((True, AnchorKind.FILE_BLOCK), (False, AnchorKind.FILE_ARRAY)):
            for paddr in self.anchors[anchor]:
                found = self.files.unnamed(chained, paddr, self.taken, known)
                if found is not None:
                    for file in found.session.files:
                        yield from self._of_lists([(found, file)])
        for kind, handler in HANDLERS.items():
            for data in self.anchors[kind]:
                if data not in self.taken and (alone := self.files.lone(handler, data)):
                    self.taken.add(data)
                    doubt = Doubt(DoubtKind.UNNAMED, "no list of files names its descriptor")
                    yield self._file(Carved(LUO, data), alone, (), (doubt,))

    def _best(self, rivals: list[Listed]) -> Listed:
        """Whose a list of files is that several sessions name; nobody's, where that is open."""
        best = min(rivals, key=lambda one: one.rank)
        equal = [one for one in rivals if one.rank == best.rank]
        others = len(equal) - 1
        if len({one.session.raw_name for one in equal}) > 1:
            words = f"{plural(others + 1, 'session')} name the list that it stands in"
            doubt = Doubt(DoubtKind.AMBIGUOUS, words)
            return replace(
                best, named=False, structures=best.structures[-1:], doubts=(*best.doubts, doubt)
            )
        if others:
            words = f"its session stands there {others + 1:,} times"
            return replace(best, doubts=(*best.doubts, Doubt(DoubtKind.COPY, words)))
        return best

    def _of_lists(self, rivals: list[tuple[Listed, LuoFile]]) -> Iterator[Candidate]:
        """A descriptor by the lists that name it, the best first; unnamed where that is open."""
        listed, file = rivals[0]
        found = self.files.verified.get((file.compatible, file.data))
        if found is None or file.data in self.taken:
            return
        if not found.memfd.size and any(one.doubts for one, _ in rivals):
            return  # a page of zeros reads as an empty file
        self.taken.add(file.data)
        doubts = listed.doubts
        name = Carved(LUO.of(listed.session.name, file.token))
        if not listed.named:
            name = Carved(LUO.of(file.token), listed.session.files_pa)
        equal = {
            (one.session.raw_name, other.token) for one, other in rivals if one.rank == listed.rank
        }
        self.files.rejected["file: its descriptor is another's"] += len(rivals) - 1
        if len(equal) > 1:
            name = Carved(LUO, file.data)
            words = f"{plural(len(equal), 'file')} of lists that are no less likely name it"
            doubts = (*doubts, Doubt(DoubtKind.AMBIGUOUS, words))
        yield self._file(name, found, listed.structures, doubts, listed.blob)

    def _file(
        self,
        name: Carved,
        found: Verified,
        above: tuple[Structure, ...],
        doubts: tuple[Doubt, ...],
        blob: PhysAddr | None = None,
    ) -> Candidate:
        memfd = found.memfd
        structures = [*above, Structure(ClaimKind.MEMFD_DESCRIPTOR, memfd.paddr)]
        if memfd.folios.first:
            structures.append(Structure(ClaimKind.FOLIO_TABLE_CHUNK, memfd.folios.first))
        doubts = (*doubts, *found.doubts)
        known = Trust.LIKELY if blob is None else Trust.CONFIRMED
        provenance = Provenance(trust_of(known, doubts), tuple(structures), doubts)
        pieces = list(memfd.pieces(self.files.geometry))
        item = Item(name, memfd.size, pieces, provenance=provenance)
        return Candidate(item, found.starts, found.ends, memfd.compatible, memfd.nr_folios)

    # -- blobs, regions and test folios

    def _others(self, blobs: list[Found], leading: set[PhysAddr | None]) -> Iterator[Candidate]:
        """Each blob, and what it describes but for files; one without a tie to others is none."""
        judged = [(found, _blob_provenance(found, leading)) for found in blobs]
        sure = {found.blob.name for found, one in judged if one.trust is not Trust.DOUBTFUL}
        seen: set[tuple[Carved, tuple[Piece, ...]]] = set()
        copies: Counter[str] = Counter()
        for found, provenance in judged:
            blob = found.blob
            if provenance.trust is Trust.DOUBTFUL:
                if blob.name in sure or isinstance(blob.content, Luo):
                    words = "nothing names it, and it leads to nothing"
                    self.files.rejected[f"blob {blob.name}: {words}"] += 1
                    continue
                copies[blob.name] += 1
                if copies[blob.name] > MAX_COPIES:
                    self.files.passed_over += 1
                    continue
            assert blob.paddr is not None
            assert blob.size is not None
            own = Owner(Subsystem.SUBNODE, (blob.name,))
            items = [Item(own, blob.size, [Piece(0, blob.paddr, blob.size)])]
            if found.sound and blob.content is not None and not isinstance(blob.content, Luo):
                items += blob.content.items(self.files.geometry)
            for item in items:
                assert isinstance(item.name, Owner)
                name, pieces = Carved(item.name), tuple(item.pieces)
                # Both kernels' memblock names the same regions.
                if (name, pieces) not in seen:
                    seen.add((name, pieces))
                    yield self._plain(replace(item, name=name, provenance=provenance))

    def _plain(self, item: Item) -> Candidate:
        page = self.files.geometry.page_size
        starts = np.array([piece.paddr // page for piece in item.pieces], dtype=np.int64)
        ends = [-(-(piece.paddr + piece.size) // page) for piece in item.pieces]
        return Candidate(item, starts, np.array(ends, dtype=np.int64))


def _blob_provenance(found: Found, leading: set[PhysAddr | None]) -> Provenance:
    """A root FDT that names a blob confirms it, else what its content leads to does in part."""
    blob = found.blob
    assert blob.paddr is not None
    structures = [Structure(ClaimKind.BLOB, blob.paddr)]
    doubts: list[Doubt] = []
    trust, content = Trust.CONFIRMED, blob.content
    if found.root is not None:
        structures.insert(0, Structure(ClaimKind.ROOT_FDT, found.root))
    else:
        checked = isinstance(content, KhoTest) and content.checksum_ok
        trust = Trust.LIKELY if checked or blob.paddr in leading else Trust.DOUBTFUL
        doubts.append(Doubt(DoubtKind.UNNAMED, "no root FDT in the dump points to it"))
    if not found.sound:
        words = "what it points to does not read as its own"
        doubts.append(Doubt(DoubtKind.RECYCLED, words))
        trust = Trust.LIKELY
    elif isinstance(content, KhoTest) and not content.checksum_ok:
        wrong = content.checksum_ok is False
        words = "its checksum does not fit the folios" if wrong else "its checksum is not computed"
        doubts.append(Doubt(DoubtKind.CHECKSUM if wrong else DoubtKind.UNCHECKED, words))
        trust = Trust.DOUBTFUL
    return Provenance(trust, tuple(structures), tuple(doubts))
