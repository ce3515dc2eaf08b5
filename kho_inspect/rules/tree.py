"""KHO2xx: the radix tree of preserved memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kho_inspect import intervals
from kho_inspect.model.faults import FaultKind
from kho_inspect.rules.base import Catalogue, Found, Need, Severity
from kho_inspect.rules.case import Case
from kho_inspect.rules.map_case import JUNK_FAULTS, MAX_LIKELY_ORDER
from kho_inspect.units import human_size, plural

CATALOGUE = Catalogue(Need.FDT, Need.ABI)
rule = CATALOGUE.rule

_EARLIER = (
    "take the dump at the jump into the next kernel, or in it before memblock_free_all(); "
    "kho/in/fdt outlives the memory behind it"
)
_DAMAGE = "memory corruption in the old kernel, or a wild write between the two: see what owns it"


@rule("KHO201", Severity.FATAL, _EARLIER)
def late_dump(case: Case) -> Iterator[Found]:
    """The pages of the tree still hold the tree.

    Matters: once the next kernel has freed its boot memory, tree pages are recycled. The FDT is
    whole but points at junk: one cause, not a hundred corruptions, so nothing behind it is judged.
    Causes: a dump taken after boot; dump and DTB of different boots.
    Enforced by: nobody; it concerns the capture.
    """
    if not case.is_late:
        return
    tree = case.there.tree
    assert tree is not None
    bad = sum(fault.count for fault in case.faults(*JUNK_FAULTS))
    state = f"{bad:,} of {plural(tree.pointers, 'pointer')} bad"
    if not bad:
        state = "its bitmaps make no sense" if tree.pointers else "no entry at all"
    yield Found(
        f"tree at {tree.root:#x} holds recycled memory ({state}), should hold the preserved map: "
        "the dump was taken too late",
        tree.root,
        "root",
    )


@rule(
    "KHO202",
    Severity.FATAL,
    "do dump and DTB belong together, and does RAM start at 0 (else --base or --map)? If so: "
    + _DAMAGE,
    Need.TRUSTED,
)
def node_outside(case: Case) -> Iterator[Found]:
    """Tree pointers lead into RAM.

    Matters: the next kernel dereferences them without a check and crashes or reads rubbish.
    Causes: memory corruption; for the root also a dump that belongs to another DTB, or --base.
    Enforced by: nobody.
    """
    return case.found(FaultKind.NODE_OUTSIDE)


@rule(
    "KHO203", Severity.WARNING, "dump more memory: the tree is not in what was saved", Need.TRUSTED
)
def node_not_stored(case: Case) -> Iterator[Found]:
    """Every node of the tree is stored in the dump.

    Matters: the handover may be sound, but what that subtree preserves cannot be told.
    Causes: a filtered or cut dump.
    Enforced by: nobody; it concerns the capture.
    """
    return case.found(FaultKind.NODE_NOT_STORED)


@rule("KHO204", Severity.FATAL, _DAMAGE, Need.TRUSTED)
def node_misaligned(case: Case) -> Iterator[Found]:
    """Tree pointers are page-aligned.

    Matters: every node is exactly one page; the next kernel would read across two.
    Causes: memory corruption, or a wrong --page-size.
    Enforced by: nobody.
    """
    return case.found(FaultKind.NODE_MISALIGNED)


@rule("KHO205", Severity.FATAL, _DAMAGE, Need.TRUSTED)
def node_aliased(case: Case) -> Iterator[Found]:
    """Every node is reached by one path.

    Matters: an aliased leaf preserves memory that nobody asked for, at twice the addresses.
    Causes: memory corruption.
    Enforced by: nobody.
    """
    return case.found(FaultKind.NODE_ALIASED)


@rule("KHO206", Severity.FATAL, _DAMAGE, Need.TRUSTED)
def node_cycle(case: Case) -> Iterator[Found]:
    """No node is its own ancestor.

    Matters: the next kernel takes tables for bitmaps and preserves junk.
    Causes: memory corruption.
    Enforced by: nobody; the depth is fixed, so the kernel's walk at least ends.
    """
    return case.found(FaultKind.NODE_CYCLE)


@rule("KHO207", Severity.ERROR, _DAMAGE, Need.TREE, Need.TRUSTED)
def key_without_order(case: Case) -> Iterator[Found]:
    """Every key has an order bit.

    Matters: key 0 names no page; the next kernel computes an order from it all the same.
    Causes: a stray bit in the leaf of the lowest keys.
    Enforced by: nobody.
    """
    return case.found(FaultKind.KEY_NO_ORDER)


@rule("KHO208", Severity.ERROR, _DAMAGE, Need.TREE, Need.TRUSTED)
def key_above_order0(case: Case) -> Iterator[Found]:
    """No key has a bit above the order-0 bit.

    Matters: the order would be negative; the next kernel shifts by it.
    Causes: a stray entry high in the tree, or a wrong --page-size.
    Enforced by: nobody.
    """
    return case.found(FaultKind.KEY_ORDER_TOO_HIGH)


@rule(
    "KHO209",
    Severity.FATAL,
    "use 4K or 64K pages, or a kernel with kho-v3: the ABI itself is broken here",
)
def order0_lost(case: Case) -> Iterator[Found]:
    """The tree is deep enough for order-0 keys.

    Matters: with kho-v2 and 16K pages the order-0 bit is masked off on insert, so each single
    page comes back with a wrong order and address: the wrong memory is preserved.
    Causes: KHO_TREE_MAX_DEPTH of kho-v2 does not count the order bit; fixed in kho-v3.
    Enforced by: nobody.
    """
    return case.found(FaultKind.ORDER0_LOST)


@rule("KHO210", Severity.FATAL, _DAMAGE, Need.TREE, Need.TRUSTED, Need.SCRATCH, Need.SOUND_SCRATCH)
def node_in_scratch(case: Case) -> Iterator[Found]:
    """No node of the tree lies in a scratch area.

    Matters: the next kernel allocates from scratch first and overwrites the tree it is to read.
    Causes: the old kernel took tree pages from scratch memory.
    Enforced by: nobody.
    """
    assert case.scratch is not None
    for area in case.scratch.areas:
        for nodes in case.map_nodes():
            inside = (nodes.paddr >= area.start) & (nodes.paddr <= min(area.end, 1 << 64) - 1)
            for at in np.flatnonzero(inside).tolist():
                paddr = int(nodes.paddr[at])
                yield Found(
                    f"{nodes.what} {paddr:#x} lies in scratch area {area}", paddr, nodes.path(at)
                )


@rule("KHO211", Severity.ERROR, _DAMAGE, Need.TREE, Need.TRUSTED)
def node_preserved(case: Case) -> Iterator[Found]:
    """No node of the tree lies in a preserved block.

    Matters: node pages are the old kernel's own; a block over one was restored, handed to a
    user and written to, or a stray bit claims it.
    Causes: a stray bit in a leaf; a tree page freed and preserved by somebody else.
    Enforced by: nobody; node pages are not marked preserved.
    """
    preserved, shift = case.preserved, np.uint64(case.there.geometry.shift)
    told: set[int] = set()
    for nodes in case.map_nodes():
        pfns = (nodes.paddr >> shift).astype(np.int64)
        for at in np.flatnonzero(intervals.contains(preserved.merged, pfns)).tolist():
            paddr = int(nodes.paddr[at])
            block = preserved.blocks_at(paddr)[-1]
            if block.paddr in told:
                continue
            told.add(block.paddr)
            yield Found(
                f"{nodes.what} {paddr:#x} lies in a preserved block of order {block.order}",
                paddr,
                nodes.path(at),
            )


@rule(
    "KHO212",
    Severity.WARNING,
    "a stray bit in the tree, or a wrong --page-size",
    Need.TREE,
    Need.TRUSTED,
)
def order_implausible(case: Case) -> Iterator[Found]:
    """Orders are ones that a writer would use.

    Matters: above order 18 there is no folio, not even a 1 GiB one: such a block is a stray bit,
    and pins memory that is not meant.
    Causes: a flipped bit in a table or leaf; a wrong --page-size.
    Enforced by: nobody.
    """
    handover = case.there
    for order, (starts, _) in handover.preserved.runs.items():
        if order > MAX_LIKELY_ORDER:
            paddr = int(starts[0]) << handover.geometry.shift
            size = human_size(handover.geometry.page_size << order)
            yield Found(
                f"{plural(handover.preserved.orders[order], 'block')} of order {order} ({size}) "
                f"from {paddr:#x}, should be order {MAX_LIKELY_ORDER} at the most",
                paddr,
                handover.geometry.entry_path(handover.geometry.encode(paddr, order), 0),
            )


@rule("KHO213", Severity.WARNING, "take the dump again: the file is cut short or damaged")
def dump_incomplete(case: Case) -> Iterator[Found]:
    """The dump file is whole, and says one thing only of each piece of memory.

    Matters: what it lacks, or gives twice with different contents, cannot be judged.
    Causes: a full disk, an interrupted copy; damaged segment headers.
    Enforced by: nobody; it concerns the capture.
    """
    return case.found(FaultKind.DUMP_INCOMPLETE)


@rule("KHO214", Severity.FATAL, _DAMAGE, Need.TRUSTED)
def chunk_header(case: Case) -> Iterator[Found]:
    """The chunks of a kho-v1 map have a possible order and number of elements.

    Matters: the next kernel trusts both and reads past the chunk, or shifts by the order.
    Causes: memory corruption.
    Enforced by: nobody: ``kho_mem_deserialize()`` takes them as they are.
    """
    return case.found(FaultKind.CHUNK_COUNT, FaultKind.CHUNK_ORDER)


@rule("KHO215", Severity.ERROR, _DAMAGE, Need.TRUSTED)
def bitmap_start(case: Case) -> Iterator[Found]:
    """The bitmaps of a kho-v1 map cover memory that is aligned to their chunk's order.

    Matters: every bit of it names a page that starts no block of that order.
    Causes: memory corruption.
    Enforced by: nobody: ``deserialize_bitmap()`` takes it as it is.
    """
    return case.found(FaultKind.CHUNK_START)


@rule("KHO216", Severity.WARNING, "if the handover really is that large: the option that is named")
def over_budget(case: Case) -> Iterator[Found]:
    """The handover is no larger than any honest one.

    Matters: what lies beyond the budget was not read, and is not judged.
    Causes: memory corruption, junk in place of the tree; or a machine larger than was thought of.
    Enforced by: nobody; it concerns this tool.
    """
    return case.found(FaultKind.LIMIT, FaultKind.LUO_LIMIT)
