"""KHO2xx: the radix tree of preserved memory."""

from collections.abc import Hashable, Iterator

import numpy as np

from kho_inspect import intervals
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.identity import Step, StepKind
from kho_inspect.model.map import MapNodes
from kho_inspect.model.radix_tree import RadixTree, entry_path, node_path
from kho_inspect.rules.base import (
    ERROR,
    FATAL,
    WARNING,
    About,
    Decision,
    Evidence,
    Need,
    Observation,
    Subject,
)
from kho_inspect.rules.case import Case
from kho_inspect.rules.catalogue import Catalogue
from kho_inspect.rules.map_view import MAX_LIKELY_ORDER
from kho_inspect.units import human_size, plural

CATALOGUE = Catalogue((Need.FDT, Need.ABI))
fault_rule = CATALOGUE.fault_rule
node_rule = CATALOGUE.needing(Need.TRUSTED).fault_rule
_TREE = CATALOGUE.needing(Need.TREE, Need.TRUSTED)
tree_rule, key_rule = _TREE.rule, _TREE.fault_rule

_EARLIER = (
    "take the dump at the jump into the next kernel, or in it before memblock_free_all(); "
    "kho/in/fdt outlives the memory behind it"
)
_TOGETHER = (
    "do dump and DTB belong together, and does RAM start at 0 (else --base or --map)? If so: "
)
_OTHER_ABI = "use 4K or 64K pages, or a kernel with kho-v3: the ABI itself is broken here"
_RAISE = "if the handover really is that large: the option that is named"
_TAKE_AGAIN = "take the dump again: the file is cut short or damaged"
_DAMAGE = "memory corruption in the old kernel, or a wild write between the two: see what owns it"


@CATALOGUE.rule("KHO201", FATAL, _EARLIER, About.CAPTURE)
def late_dump(case: Case) -> Iterator[Observation]:
    """The pages of the tree still hold the tree.

    Matters: once the next kernel has freed its boot memory, tree pages are recycled. The FDT is
    whole but points at junk: that is one cause, and nothing behind it is judged.
    Causes: a dump taken after boot; dump and DTB of different boots.
    Enforced by: no kernel; it concerns the capture.
    """
    if not case.map.is_late:
        return
    tree = case.handover.tree
    assert tree is not None
    bad = case.map.bad_pointers
    state = f"{bad:,} of {plural(tree.pointers, 'pointer')} bad"
    if not bad:
        state = "its bitmaps make no sense" if tree.pointers else "no entry at all"
    yield Observation(
        f"tree at {tree.root:#x} holds recycled memory ({state}), should hold the preserved map: "
        "the dump was taken too late",
        tree.root,
        (Step(StepKind.TREE_NODE),),
    )


@node_rule(
    "KHO202", FATAL, _TOGETHER + _DAMAGE, FaultKind.NODE_OUTSIDE, Subject.RADIX, Evidence.RAM
)
def node_outside() -> None:
    """Tree pointers lead into RAM.

    Matters: the next kernel dereferences them without a check and crashes or reads other data.
    Causes: memory corruption; for the root also a dump that belongs to another DTB, or --base.
    Enforced by: no kernel checks this (7.1 to 7.3.4). A bad pointer does not make the walk fail,
    after which every subsystem finds nothing (KHO108): reading through it is a page fault before
    the console is up (seen in 7.3.4, of the root), in ``kho_extend_scratch()`` of 7.3, in
    ``kho_mem_retrieve()`` of 7.1 and 7.2.
    """


@CATALOGUE.needing(Need.TRUSTED).not_stored(
    "KHO203", "tree", FaultKind.NODE_NOT_STORED, Subject.RADIX
)
def node_not_stored() -> None:
    """Every node of the tree is stored in the dump.

    Matters: the handover may be sound, but what that subtree preserves is unknown.
    Causes: a filtered or cut dump.
    Enforced by: no kernel; it concerns the capture.
    """


@node_rule("KHO204", FATAL, _DAMAGE, FaultKind.NODE_MISALIGNED, Subject.RADIX)
def node_misaligned() -> None:
    """Tree pointers are page-aligned.

    Matters: every node is exactly one page; the next kernel would read across two.
    Causes: memory corruption, or a wrong --page-size.
    Enforced by: no kernel checks this (7.1 to 7.3.4): ``__kho_radix_walk_tree()`` reads there, and
    a junk entry is a page fault before the console is up (seen in 7.3.4: hangs or resets).
    """


@node_rule("KHO205", FATAL, _DAMAGE, FaultKind.NODE_ALIASED, Subject.RADIX)
def node_aliased() -> None:
    """Every node is reached by one path.

    Matters: an aliased leaf preserves memory that no user asked for, at twice the addresses.
    Causes: memory corruption.
    Enforced by: no kernel checks this (7.1 to 7.3.4): keys decode to other addresses. What has
    struct pages is reserved, the rest is a page fault before the console is up.
    """


@node_rule("KHO206", FATAL, _DAMAGE, FaultKind.NODE_CYCLE, Subject.RADIX)
def node_cycle() -> None:
    """No node is its own ancestor.

    Matters: the next kernel takes tables for bitmaps and preserves junk.
    Causes: memory corruption.
    Enforced by: no kernel checks this (7.1 to 7.3.4): the depth is fixed, so the walk ends, but
    reads tables as bitmaps: junk keys, and a page fault before the console is up (seen in 7.3.4:
    hangs or resets).
    """


@key_rule("KHO207", FATAL, _DAMAGE, FaultKind.KEY_NO_ORDER, Subject.RADIX)
def key_without_order() -> None:
    """Every key has an order bit.

    Matters: key 0 names no page; the next kernel computes order 53 from it at 4K pages. 7.2 and
    7.3 with CONFIG_DEFERRED_STRUCT_PAGE_INIT initialize 2^53 struct pages and hang or fault; 7.1
    marks and reserves page 0.
    Causes: a stray bit in the leaf of the lowest keys.
    Enforced by: no kernel checks this (7.1 to 7.3.4): ``kho_preserved_memory_reserve()`` decodes
    any key, and never makes the walk fail.
    """


@key_rule("KHO208", FATAL, _DAMAGE, FaultKind.KEY_ORDER_TOO_HIGH, Subject.RADIX)
def key_above_order0() -> None:
    """No key has a bit above the order-0 bit.

    Matters: the order is negative and the next kernel shifts by it. 7.2 and 7.3 with
    CONFIG_DEFERRED_STRUCT_PAGE_INIT hang; any kernel marks a page that may head a real block,
    which then restores with the wrong order.
    Causes: a stray entry high in the tree, or a wrong --page-size.
    Enforced by: no kernel checks this on the walk (7.1 to 7.3.4). ``kho_radix_add_key()`` of the
    writer (7.3.4): -ERANGE.
    """


@fault_rule("KHO209", FATAL, _OTHER_ABI, FaultKind.ORDER0_LOST, Decision.ACCEPTS, Subject.RADIX)
def order0_lost() -> None:
    """The tree is deep enough for order-0 keys.

    Matters: with kho-v2 and 16K pages the order-0 bit is masked off on insert, so each single
    page comes back with a wrong order and address: the wrong memory is preserved.
    Causes: KHO_TREE_MAX_DEPTH of kho-v2 does not count the order bit; fixed in kho-v3.
    Enforced by: no kernel checks this; no release has kho-v2, and 7.1 (kho-v3) to 7.3.4 (kho-v4)
    count the order bit.
    """


def _node(nodes: MapNodes, at: int, words: str, cause: Hashable = None) -> Observation:
    paddr, path = int(nodes.paddr[at]), nodes.path(at)
    return Observation(f"{nodes.what} {paddr:#x} lies in {words}", paddr, path, cause=cause)


@tree_rule("KHO210", FATAL, _DAMAGE, Need.SCRATCH, Need.SOUND_SCRATCH)
def node_in_scratch(case: Case) -> Iterator[Observation]:
    """No node of the tree lies in a scratch area.

    Matters: the next kernel allocates from scratch first and overwrites the tree it is to read.
    Causes: the old kernel took tree pages from scratch memory.
    Enforced by: no kernel checks this (7.1 to 7.3.4): an early allocation may overwrite the node
    before ``kho_mem_retrieve()`` reads it, and then as for KHO202.
    """
    for area in case.scratch.areas:
        for nodes in case.map.nodes():
            inside = (nodes.paddr >= area.start) & (nodes.paddr <= area.end - 1)
            for at in np.flatnonzero(inside).tolist():
                yield _node(nodes, at, f"scratch area {area}", area)


@tree_rule("KHO211", ERROR, _DAMAGE)
def node_preserved(case: Case) -> Iterator[Observation]:
    """No node of the tree lies in a preserved block.

    Matters: node pages are the old kernel's own; a block over one was restored, handed to a
    user and written to, or a stray bit claims it.
    Causes: a stray bit in a leaf; a tree page freed and preserved by another user.
    Enforced by: no kernel checks this (7.1 to 7.3.4): nodes are only read, and their pages are not
    marked preserved. A block over one stays reserved.
    """
    preserved, shift = case.map.preserved, np.uint64(case.handover.geometry.shift)
    reported: set[int] = set()
    for nodes in case.map.nodes():
        pfns = (nodes.paddr >> shift).astype(np.int64)
        for at in np.flatnonzero(intervals.contains(preserved.merged, pfns)).tolist():
            block = preserved.blocks_at(int(nodes.paddr[at]))[-1]
            if block.paddr not in reported:
                reported.add(block.paddr)
                yield _node(nodes, at, f"a preserved block of order {block.order}")


@tree_rule("KHO212", FATAL, "a stray bit in the tree, or a wrong --page-size")
def order_implausible(case: Case) -> Iterator[Observation]:
    """Orders are ones that a writer would use.

    Matters: above order 18 there is no folio, not even a 1 GiB one: such a block is a stray bit.
    The next kernel reserves all memory under it and has none left to boot with.
    Causes: a flipped bit in a table or leaf; a wrong --page-size.
    Enforced by: no kernel checks this: ``kho_preserved_memory_reserve()`` (7.1 to 7.3.4) calls
    ``memblock_reserve()`` with any size, and never makes the walk fail.
    """
    geometry, preserved = case.handover.geometry, case.handover.preserved
    for order, (starts, _) in preserved.runs.items():
        if order > MAX_LIKELY_ORDER:
            paddr = int(starts[0]) << geometry.shift
            size = human_size(geometry.page_size << order)
            yield Observation(
                f"{plural(preserved.orders[order], 'block')} of order {order} ({size}) from "
                f"{paddr:#x}, should be order {MAX_LIKELY_ORDER} at the most",
                paddr,
                entry_path(geometry, geometry.encode(paddr, order), 0),
            )


@fault_rule("KHO213", WARNING, _TAKE_AGAIN, FaultKind.DUMP_INCOMPLETE, About.CAPTURE)
def dump_incomplete() -> None:
    """The dump file is whole, and says one thing only of each piece of memory.

    Matters: what it lacks, or gives twice with different contents, cannot be judged.
    Causes: a full disk, an interrupted copy; damaged segment headers.
    Enforced by: no kernel; it concerns the capture.
    """


@node_rule("KHO214", FATAL, _DAMAGE, FaultKind.CHUNK_COUNT, FaultKind.CHUNK_ORDER, Subject.CHUNKS)
def chunk_header() -> None:
    """The chunks of a kho-v1 map have a possible order and number of elements.

    Matters: the next kernel takes both unchecked and reads past the chunk, or shifts by the order.
    Causes: memory corruption.
    Enforced by: no kernel checks this: ``kho_mem_deserialize()`` (7.0) takes both as they are.
    """


@node_rule("KHO215", ERROR, _DAMAGE, FaultKind.CHUNK_START, Subject.CHUNKS)
def bitmap_start() -> None:
    """The bitmaps of a kho-v1 map cover memory that is aligned to their chunk's order.

    Matters: every bit of it names a page that starts no block of that order.
    Causes: memory corruption.
    Enforced by: no kernel checks this: ``deserialize_bitmap()`` (7.0) takes it as it is.
    """


@fault_rule("KHO216", WARNING, _RAISE, FaultKind.LIMIT, FaultKind.LUO_LIMIT, About.CAPTURE)
def over_budget() -> None:
    """The handover stays within the budgets for reading it.

    Matters: what lies beyond the budget was not read, and is not judged.
    Causes: memory corruption, junk in place of the tree; or a machine larger than expected.
    Enforced by: no kernel; it concerns this tool.
    """


@tree_rule("KHO217", WARNING, _DAMAGE)
def node_unreachable(case: Case) -> Iterator[Observation]:
    """No entry stands where no key leads.

    Matters: keys end with the order-0 bit, but the next kernel reads every entry of a table. What
    is set behind such an entry is KHO208's; with nothing set, nothing is lost.
    Causes: memory corruption, or a wrong --page-size.
    Enforced by: no kernel checks this: ``__kho_radix_walk_tree()`` (7.1 to 7.3.4) visits all
    entries.
    """
    tree, geometry = case.handover.tree, case.handover.geometry
    if not isinstance(tree, RadixTree) or any(case.faults(FaultKind.KEY_ORDER_TOO_HIGH)):
        return
    for level in tree.levels[1:2]:
        for at in np.flatnonzero(level.key >= 2 << geometry.order0_bit)[:1].tolist():
            path, paddr = node_path(geometry, int(level.key[at]), level.level), int(level.paddr[at])
            yield Observation(
                f"no key leads to node {paddr:#x}, its entry should be 0", paddr, path
            )
