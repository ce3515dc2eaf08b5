"""Who owns what: the accounts of real captures and built images against counting page by page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect import intervals
from kho_inspect.inspection import Options, inspect
from kho_inspect.model.claims import Claim, Claims, OwnerIndex, Ownership
from kho_inspect.model.handover import Handover
from kho_inspect.model.identity import ClaimKind, Owner, Place, Subsystem
from kho_inspect.model.preserved import Preserved
from kho_inspect.ownership.account import account, unclaimed
from kho_inspect.ownership.claims import ClaimLog
from kho_inspect.render.names import owner_name
from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.captures import Capture
from tests.support.looking import blocks_of, look
from tests.support.luo_builder import File, Session
from tests.support.running import document, flip_key, image_of, save

Span = tuple[int, int]


# -- the plain way: sets of pages


def pages_of(spans: Iterable[Span]) -> set[int]:
    return {pfn for start, end in spans for pfn in range(start, end)}


def spans_of(claim: Claim) -> list[Span]:
    return list(zip(claim.starts.tolist(), claim.ends.tolist(), strict=True))


class Blocks:
    """Preserved blocks, each page of them by hand."""

    def __init__(self, blocks: Iterable[tuple[int, int]]) -> None:
        self.blocks = [set(range(pfn, pfn + (1 << order))) for pfn, order in blocks]
        self.pages = set().union(*self.blocks)
        self.by_page: dict[int, list[set[int]]] = {}
        for block in self.blocks:
            for pfn in block:
                self.by_page.setdefault(pfn, []).append(block)

    def grown(self, spans: Iterable[Span]) -> set[int]:
        """Pages of the spans, and of every block that holds any of them."""
        found = pages_of(spans)
        whole = [block for pfn in found for block in self.by_page.get(pfn, [])]
        return found.union(*whole)


def of_handover(handover: Handover) -> Blocks:
    shift = handover.geometry.shift
    return Blocks((paddr >> shift, order) for paddr, order in blocks_of(handover))


def members(found: intervals.Intervals) -> set[int]:
    return pages_of(zip(found[0].tolist(), found[1].tolist(), strict=True))


def log_without(claims: Claims, number: int) -> ClaimLog:
    """A log of all the claims but one."""
    log = ClaimLog(claims.page_shift)
    for at, claim in enumerate(claims):
        if at != number:
            enter(log, claim)
    return log


def enter(log: ClaimLog, claim: Claim) -> None:
    pages = claim.ends - claim.starts
    log.add_many(claim.owner, claim.kind, claim.starts, pages, claim.file_index)


# -- real captures


@pytest.fixture(scope="module")
def handover(capture: Capture) -> Handover:
    return inspect(str(capture.dump), str(capture.dtb), Options(base=capture.base))


@pytest.fixture(scope="module")
def rich() -> Handover:
    """A built handover of large folios, slack in blocks, and a page with two owners."""
    image, _ = rich_image()
    return look(image, image.finish())


def rich_image() -> tuple[Image, dict[str, int]]:
    """An image with every kind of content, and the addresses of some of it."""
    image = Image()
    page = image.page_size
    large = write.memfd(image, write.pattern(9 * page, 1), layout=[(0, 2), (4, 1), (8, 0)])
    small = write.memfd(image, write.pattern(page, 2))
    again = write.memfd(image, b"", extra=[(small.folios[0].paddr >> 12 | 3 << 52, 0)])
    sessions = [
        Session(b"vm-a", [File(1, large), File(2, small)]),
        Session(b"vm-b", [File(1, again)]),
    ]
    luo = write.luo_v5(image, sessions, [(b"flb", 1 << 63, 1)])
    start, props = write.reserve_mem(image, 3)
    write.memblock(image, [(b"trace", props)])
    write.kho_test(image, [(0, b"a"), (3, b"b")])
    write.metadata(image, b"7.3.4", 1)
    return image, {
        "shared": small.folios[0].paddr,
        "luo": luo.blob,
        "region": start,
        "large": large.folios[0].paddr,
    }


def test_every_preserved_byte_is_owned_once(capture: Capture) -> None:
    found = document("owners", capture.dump, capture.dtb, "--base", hex(capture.base))["ownership"]
    assert found["orphan_bytes"] == found["dangling_bytes"] == found["shared_bytes"] == 0
    assert found["orphans"] == found["dangling"] == found["shared"] == []
    truth = capture.truth
    assert found["owned_bytes"] == truth["covered_bytes"] == truth["bytes"]
    assert sum(owner["bytes"] for owner in found["owners"]) == truth["bytes"]
    assert sum(owner["blocks"] for owner in found["owners"]) == truth["pages"]


def assert_removing_a_claim_orphans_its_pages(handover: Handover) -> None:
    blocks = of_handover(handover)
    claims = handover.claims
    owned = [blocks.grown(spans_of(claim)) for claim in claims]
    times: dict[int, int] = {}
    for pages in owned:
        for pfn in pages:
            times[pfn] = times.get(pfn, 0) + 1
    before = members(handover.ownership.unclaimed)
    assert before == blocks.pages - set(times)
    for number, pages in enumerate(owned):
        left = log_without(claims, number).result()
        alone = {pfn for pfn in pages & blocks.pages if times[pfn] == 1}
        assert members(account(handover.preserved, left).unclaimed) == before | alone


def assert_same_account(one: Ownership, other: Ownership) -> None:
    assert set(one.shares) == set(other.shares)
    for name in ("owned", "unclaimed", "dangling", "shared"):
        assert members(getattr(one, name)) == members(getattr(other, name)), name


def test_a_claim_added_later_counts_as_if_it_had_been_there(handover: Handover) -> None:
    preserved, claims = handover.preserved, handover.claims
    for number in range(len(claims)):
        log = log_without(claims, number)
        left = log.result()
        assert members(unclaimed(preserved, left)) == members(account(preserved, left).unclaimed)
        enter(log, claims[number])
        assert_same_account(account(preserved, log.result()), handover.ownership)


def test_removing_any_one_claim_orphans_exactly_its_pages(handover: Handover) -> None:
    assert_removing_a_claim_orphans_its_pages(handover)


def test_removing_any_one_claim_of_a_built_handover(rich: Handover) -> None:
    assert_removing_a_claim_orphans_its_pages(rich)


def test_a_built_handover_is_all_owned(rich: Handover) -> None:
    ownership = rich.ownership
    assert rich.faults == ()
    assert ownership.size(ownership.unclaimed) == ownership.size(ownership.dangling) == 0
    assert ownership.size(ownership.owned) == rich.preserved.bytes
    # The one page under two files is counted for both.
    assert ownership.size(ownership.shared) == 4096
    assert sum(share.bytes for share in ownership.shares) == rich.preserved.bytes + 4096


def some_pages(handover: Handover) -> Iterator[tuple[Claim, int, int]]:
    """A preserved block (pfn, order) under one claim of each kind."""
    kinds = {(claim.owner.top, claim.kind): claim for claim in handover.claims}
    for claim in kinds.values():
        pfn = int(claim.starts[-1])
        (block,) = handover.preserved.blocks_at(pfn << handover.geometry.shift)
        yield claim, block.paddr >> handover.geometry.shift, block.order


def test_a_cleared_bit_makes_its_pages_dangle_and_names_their_owner(
    capture: Capture, handover: Handover, tmp_path: Path
) -> None:
    if capture.truth["compatible"] == "kho-v1":
        pytest.skip("no radix tree")
    image, shift = image_of(capture), handover.geometry.shift
    for claim, pfn, order in some_pages(handover):
        # Without its page's bit the root FDT is found by the truncated file alone.
        dtb = (capture.short_dtb if claim.kind is ClaimKind.ROOT_FDT else capture.dtb).read_bytes()
        flip_key(image, pfn << shift, order)
        files = save(image, tmp_path, dtb)
        found = document("owners", *files)["ownership"]
        lost = {int(one["start"], 16): one for one in found["dangling"]}
        claimed = pages_of(span for one in handover.claims for span in spans_of(one))
        expected = claimed & set(range(pfn, pfn + (1 << order)))
        assert found["dangling_bytes"] == len(expected) << shift
        assert found["orphan_bytes"] == 0
        (one,) = lost.values()
        name = f"{owner_name(claim.owner)} → {claim.kind.value}"
        assert any(owner.startswith(name) for owner in one["owners"])
        (info,) = document("addr", *files, one["start"])["addresses"]
        assert not info["preserved"]
        assert any(owner["owner"].startswith(name) for owner in info["owners"])
        flip_key(image, pfn << shift, order)


def test_a_stray_bit_is_an_orphan(capture: Capture, handover: Handover, tmp_path: Path) -> None:
    if capture.truth["compatible"] == "kho-v1":
        pytest.skip("no radix tree")
    image = image_of(capture)
    page = image.page_size
    taken = {paddr + at for paddr, order in image.preserved for at in range(0, page << order, page)}
    for number, paddr in enumerate(sorted(taken)[:3] + sorted(taken)[-3:]):
        stray = next(at for at in range(paddr, paddr + 4096 * page, page) if at not in taken)
        flip_key(image, stray, 0)
        files = save(image, tmp_path, capture.dtb.read_bytes())
        found = document("owners", *files)["ownership"]
        assert found["orphan_bytes"] == page, number
        (orphan,) = found["orphans"]
        assert (orphan["start"], orphan["end"]) == (hex(stray), hex(stray + page))
        assert orphan["bytes"] == page
        assert not orphan.get("owners")
        assert found["dangling_bytes"] == found["shared_bytes"] == 0
        (info,) = document("addr", *files, hex(stray))["addresses"]
        assert (info["preserved"], info["owners"]) == (True, [])
        flip_key(image, stray, 0)


# -- built images


def test_a_page_under_two_files_is_shared_and_names_both(tmp_path: Path) -> None:
    image, at = rich_image()
    files = save(image, tmp_path, image.finish())
    found = document("owners", *files)["ownership"]
    assert found["shared"] == [
        {
            "start": hex(at["shared"]),
            "end": hex(at["shared"] + 4096),
            "bytes": 4096,
            "owners": [
                "LUO/vm-a/0x2 → folio 0, file offset 0x0",
                "LUO/vm-b/0x1 → folio 0, file offset 0x0",
            ],
            "more_owners": 0,
        }
    ]
    (info,) = document("addr", *files, hex(at["shared"]))["addresses"]
    assert [owner["owner"] for owner in info["owners"]] == found["shared"][0]["owners"]


def test_one_owner_that_names_a_page_twice_does_not_share_it() -> None:
    image = Image()
    one = write.memfd(image, write.pattern(4096, 1))
    twice = [(one.folios[0].paddr >> 12 | 3 << 52, index) for index in (0, 1)]
    write.luo_v5(image, [Session(b"vm", [File(1, write.memfd(image, b"", extra=twice))])])
    handover = look(image, image.finish())
    assert handover.ownership.size(handover.ownership.shared) == 0
    # The memfd that no session names is an orphan: descriptor, table, its chunk.
    assert handover.ownership.size(handover.ownership.unclaimed) == 3 * 4096


def test_a_blob_in_a_large_block_owns_all_of_it() -> None:
    image = Image()
    paddr = image.alloc(8, 8 << 12)
    image.preserve(paddr, 3)
    image.subnode("small", paddr + 4096 * 3 + 16, 8)
    handover = look(image, image.finish())
    assert [(one.owner, one.bytes, one.blocks) for one in handover.ownership.shares] == [
        (Owner(Subsystem.SUBNODE, ("small",)), 8 * 4096, 1),
        (Owner(Subsystem.KHO), 4096, 1),
    ]


@pytest.mark.parametrize("size", [1 << 62, (1 << 64) - 1])
def test_a_region_without_end_dangles_and_owns_what_it_covers(size: int) -> None:
    image = Image()
    start, props = write.reserve_mem(image, 1)
    write.memblock(image, [(b"vast", [*props[:2], (b"size", write.u64(size))])])
    handover = look(image, image.finish())
    ownership = handover.ownership
    assert ownership.size(ownership.unclaimed) == 0
    dangling = ownership.size(ownership.dangling)
    kept = sum(paddr >= start for paddr, _ in blocks_of(handover))
    assert dangling == min(start + size + 4095, 1 << 64) // 4096 * 4096 - start - 4096 * kept


# -- any claims on any blocks


SESSION = Owner(Subsystem.LUO, ("b",))
OWNERS = [Owner(Subsystem.KHO_TEST), SESSION, SESSION.of(1), Owner(Subsystem.SUBNODE, ("b",))]


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[tuple[Owner, list[Span]]]]:
    """Blocks (pfn, order), overlapping ones too, and claims of a few owners."""
    blocks = draw(
        st.lists(
            st.integers(0, 4).flatmap(
                lambda order: st.tuples(
                    st.integers(0, 80 >> order).map(lambda at: at << order), st.just(order)
                )
            ),
            max_size=14,
        )
    )
    span = st.tuples(st.integers(0, 95), st.integers(1, 9)).map(lambda one: (one[0], sum(one)))
    owners = st.sampled_from(OWNERS)
    claims = draw(st.lists(st.tuples(owners, st.lists(span, min_size=1, max_size=4)), max_size=6))
    return blocks, claims


def made(situation: Any, far: int = 0) -> tuple[Preserved, Claims, Blocks]:
    blocks, named = situation
    per_order: dict[int, list[Span]] = {}
    for pfn, order in blocks:
        per_order.setdefault(order, []).append((pfn + far, pfn + far + (1 << order)))
    runs = {
        order: intervals.merge(*intervals.from_pairs(sorted(set(spans))))
        for order, spans in per_order.items()
    }
    log = ClaimLog(12)
    for owner, spans in named:
        if len(spans) == 1:
            ((start, end),) = spans
            log.add(owner, ClaimKind.STRUCTURE, start + far << 12, end - start << 12)
        else:
            starts = np.array([start for start, _ in spans], dtype=np.int64) + far
            pages = np.array([end - start for start, end in spans], dtype=np.int64)
            log.add_many(owner, ClaimKind.STRUCTURE, starts, pages)
    return (
        Preserved(12, runs),
        log.result(),
        Blocks((pfn + far, order) for pfn, order in set(blocks)),
    )


@settings(max_examples=150, deadline=None)
@given(situations(), st.sampled_from([0, 1 << 40, (1 << 52) - 256]))
def test_accounts_agree_with_counting_pages(situation: Any, far: int) -> None:
    preserved, claims, blocks = made(situation, far)
    found = account(preserved, claims)
    per_owner: dict[Owner, set[int]] = {}
    for claim in claims:
        per_owner.setdefault(claim.owner, set()).update(blocks.grown(spans_of(claim)))
    named = pages_of(span for claim in claims for span in spans_of(claim))
    everything = set().union(*per_owner.values())
    assert members(found.owned) == everything & blocks.pages
    assert members(found.unclaimed) == blocks.pages - everything
    assert members(found.dangling) == named - blocks.pages
    assert members(found.shared) == {
        pfn for pfn in everything if sum(pfn in pages for pages in per_owner.values()) > 1
    }
    assert [(one.owner, one.bytes >> 12, one.blocks) for one in found.shares] == [
        (owner, len(pages & blocks.pages), sum(block <= pages for block in blocks.blocks))
        for owner, pages in per_owner.items()
    ]


@settings(max_examples=100, deadline=None)
@given(situations(), st.integers(0, 100), st.integers(1, 12))
def test_the_index_finds_every_claim_and_no_other(situation: Any, start: int, size: int) -> None:
    preserved, claims, blocks = made(situation)
    wanted = set(range(start, start + size))
    index = OwnerIndex(preserved, claims)
    found = index.claimed(start, start + size)

    def told(claim: Claim, piece: int) -> tuple[Owner, tuple[Span, ...], int]:
        return claim.owner, tuple(spans_of(claim)), piece

    assert Counter(told(claim, piece) for claim, piece in found) == Counter(
        told(claim, piece)
        for claim in claims
        for piece, span in enumerate(spans_of(claim))
        if blocks.grown([span]) & wanted
    )
    # Those that name the very pages come first.
    direct = [bool(pages_of([spans_of(claim)[piece]]) & wanted) for claim, piece in found]
    assert direct == sorted(direct, reverse=True)
    tops = [claim.owner.top for claim, _ in found]
    assert index.top_owners(start, start + size) == sorted(set(tops), key=tops.index)


def test_a_thousand_owners_at_the_end_of_the_address_space() -> None:
    far = (1 << 52) - 4096
    blocks = [(far + 4 * number, 1) for number in range(1000)]
    named = [(SESSION.of(number), [(4 * number, 4 * number + 3)]) for number in range(1000)]
    situation = [(pfn - far, order) for pfn, order in blocks], [*named, *named]
    preserved, claims, _ = made(situation, far)
    found = account(preserved, claims)
    assert {(one.bytes >> 12, one.blocks) for one in found.shares} == {(2, 1)}
    assert len(found.shares) == 1000
    assert found.size(found.dangling) == 1000 << 12
    assert found.size(found.shared) == found.size(found.unclaimed) == 0


def test_owners_stand_in_the_order_in_which_they_were_met() -> None:
    log = ClaimLog(12)
    for owner in OWNERS[:2]:
        log.add_owners([owner])
    for owner in [OWNERS[2], OWNERS[1], OWNERS[2]]:
        log.add(owner, ClaimKind.STRUCTURE, 0, 1)
    claims = log.result()
    assert claims.owners == (OWNERS[0], OWNERS[1], OWNERS[2])
    # Who was met and claims nothing has no share.
    shares = account(Preserved(12, {}), claims).shares
    assert [share.owner for share in shares] == [OWNERS[1], OWNERS[2]]


def test_claims_come_out_one_by_one_as_they_were_made() -> None:
    log = ClaimLog(12)
    file_index = np.array([5, 0], dtype=np.uint64)
    log.add(SESSION, ClaimKind.FILE_BLOCK, 4095, 2)
    log.add_many(SESSION.of(1), ClaimKind.FOLIO, np.array([9, 4]), np.array([1, 2]), file_index)
    log.add(SESSION, ClaimKind.FILE_BLOCK, 8192, 0)
    log.add(SESSION, ClaimKind.BLOB, 8192, 1)
    claims = log.result()
    assert [(claim.owner, claim.kind, spans_of(claim)) for claim in claims] == [
        (SESSION, ClaimKind.FILE_BLOCK, [(0, 2)]),
        (SESSION.of(1), ClaimKind.FOLIO, [(9, 10), (4, 6)]),
        (SESSION, ClaimKind.BLOB, [(2, 3)]),
    ]
    assert claims.claim.tolist() == [0, 1, 1, 2]
    assert claims.of_kinds([ClaimKind.FOLIO]).tolist() == [False, True, False]
    block, folios, _ = claims
    assert block.place(0, 4095, 12) == Place(SESSION, ClaimKind.FILE_BLOCK)
    assert folios.place(1, 0x5010, 12) == Place(SESSION.of(1), ClaimKind.FOLIO, 1, 0x1010)
    assert folios.place(0, 0x9000, 12) == Place(SESSION.of(1), ClaimKind.FOLIO, 0, 0x5000)


def test_one_region_over_all_files_does_not_make_a_look_up_read_all_earlier_claims() -> None:
    """Counted in elements read, not in seconds: a wild region is the earliest and the longest."""

    class Counting(np.ndarray[Any, Any]):
        read = 0

        def __getitem__(self, at: Any) -> Any:
            Counting.read += len(at)
            return np.asarray(self)[at]

    def cost(files: int) -> int:
        ends = np.append(files, np.arange(1, files + 1))
        index = intervals.Highest(ends)
        index.levels = [level.view(Counting) for level in index.levels]
        Counting.read = 0
        for start in range(0, files, files // 100):
            assert index.above(start, start + 2).tolist() == [0, start + 1]
        return Counting.read

    assert cost(64_000) < 1.5 * cost(6_400)
