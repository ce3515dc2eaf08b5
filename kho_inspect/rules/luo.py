"""KHO50x to KHO51x: the Live Update Orchestrator's sessions and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kho_inspect import intervals
from kho_inspect.layouts.luo import luo_compatible
from kho_inspect.model.contents import Luo
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import text_of
from kho_inspect.rules.base import Catalogue, Found, Need, Severity
from kho_inspect.rules.case import Case, is_sessions
from kho_inspect.units import Extent, human_size, plural

CATALOGUE = Catalogue(Need.FDT, Need.ABI, Need.TRUSTED)
rule = CATALOGUE.rule

_PANIC = "the next kernel panics on this: boot it with liveupdate=0 to get at the rest"
_LOST = "userspace cannot retrieve this: look at who wrote the session"
_DAMAGE = "memory corruption in the old kernel: look up who owns the page with addr"


@rule("KHO501", Severity.FATAL, _PANIC)
def luo_short(case: Case) -> Iterator[Found]:
    """The LUO blob is as long as its struct.

    Matters: LUO cannot tell what it would lose, and panics.
    Causes: a wrong blob-size; an ABI mix-up.
    Enforced by: ``luo_early_startup()`` and ``luo_restore_fail()``: panic.
    """
    return case.found(FaultKind.LUO_SHORT)


@rule("KHO502", Severity.FATAL, _PANIC)
def luo_incompatible(case: Case) -> Iterator[Found]:
    """The LUO blob is of the version that kernels of this ABI (or the target) accept.

    Matters: LUO cannot tell what it would lose, and panics.
    Causes: a live update across a LUO version; damage to the blob.
    Enforced by: ``luo_early_startup()`` and ``luo_restore_fail()``: panic.
    """
    abi = case.consumer
    if not abi.luo:
        return
    for blob in case.there.blobs:
        if blob.name != "LUO" or not blob.stored:
            continue
        name = blob.kind if isinstance(blob.content, Luo) else None
        if name is None and blob.fdt is not None:
            name = blob.fdt.string("compatible")
        if name is None:
            name = text_of(luo_compatible(blob.data).split(b"\0")[0])
        if name not in abi.luo:
            yield Found(
                f"LUO compatible is {name!r}, should be {' or '.join(abi.luo)} for "
                f"{abi.compatible}: the next kernel panics",
                blob.paddr,
                f"/{blob.name}",
            )


@rule("KHO503", Severity.FATAL, _PANIC)
def luo_property(case: Case) -> Iterator[Found]:
    """The properties of a luo-v1 FDT are there and 8 bytes each.

    Matters: LUO cannot tell what it would lose, and panics.
    Causes: damage to the blob.
    Enforced by: ``luo_early_startup()``, ``luo_session_setup_incoming()``: panic.
    """
    return case.found(FaultKind.LUO_PROPERTY)


@rule("KHO504", Severity.FATAL, _DAMAGE)
def chain_cycle(case: Case) -> Iterator[Found]:
    """Chains of kho_blocks end.

    Matters: the next kernel restores each block it comes to: the second time it fails, or the
    walk never ends.
    Causes: a block's link overwritten.
    Enforced by: ``kho_block_restore()``, by way of the head that is gone.
    """
    return case.found(FaultKind.BLOCK_CYCLE)


@rule("KHO505", Severity.FATAL, _DAMAGE)
def chain_unreadable(case: Case) -> Iterator[Found]:
    """Pointers to session, file and FLB blocks or arrays lead into RAM, to a page.

    Matters: the next kernel dereferences them without a check.
    Causes: a pointer overwritten.
    Enforced by: nobody.
    """
    return case.found(
        FaultKind.BLOCK_OUTSIDE, FaultKind.BLOCK_MISALIGNED, FaultKind.LUO_ARRAY_MISSING
    )


@rule("KHO506", Severity.WARNING, "dump more memory: the structure is not in what was saved")
def luo_not_stored(case: Case) -> Iterator[Found]:
    """LUO's structures are stored in the dump.

    Matters: the handover may be sound, but sessions and files cannot be judged.
    Causes: a filtered or cut dump.
    Enforced by: nobody; it concerns the capture.
    """
    return case.found(
        FaultKind.BLOCK_NOT_STORED, FaultKind.LUO_ARRAY_NOT_STORED, FaultKind.MEMFD_NOT_STORED
    )


@rule("KHO507", Severity.FATAL, _DAMAGE)
def count_over_capacity(case: Case) -> Iterator[Found]:
    """Counts are no larger than the block or array has room for.

    Matters: the next kernel reads entries out of the memory behind it.
    Causes: a count overwritten.
    Enforced by: ``luo_session_deserialize()`` for sessions, with an error; nobody for the rest.
    """
    return case.found(FaultKind.BLOCK_COUNT, FaultKind.LUO_COUNT)


@rule("KHO508", Severity.ERROR, _LOST)
def session_name_empty(case: Case) -> Iterator[Found]:
    """Sessions have names.

    Matters: userspace asks for a session by its name.
    Causes: an entry overwritten with zeros, or a count too high.
    Enforced by: ``luo_session_deserialize()``: -EINVAL.
    """
    for session in case.sessions():
        if not session.name:
            yield Found("session name is empty, should be 1 to 63 bytes", None, session.path)


@rule("KHO509", Severity.ERROR, _LOST)
def session_name_unterminated(case: Case) -> Iterator[Found]:
    """Session names end within their field.

    Matters: the next kernel reads on into the next field, or cuts the name.
    Causes: an entry overwritten.
    Enforced by: ``luo_session_deserialize()`` copies with a bound: the name is cut.
    """
    for session in case.sessions():
        if b"\0" not in session.raw_name and session.path not in case.broken:
            yield Found(
                f"session name {session.name!r} is {len(session.raw_name)} bytes without a NUL, "
                "should be 63 at the most",
                None,
                session.path,
            )


@rule("KHO510", Severity.ERROR, _LOST)
def session_name_duplicate(case: Case) -> Iterator[Found]:
    """Session names are unique.

    Matters: the second of a name is refused, and its files are lost.
    Causes: an entry overwritten with a copy of another.
    Enforced by: ``luo_session_insert()``: -EEXIST.
    """
    counts = Counter(session.name for session in case.sessions() if session.name)
    for session in case.sessions():
        if counts.pop(session.name, 0) > 1:
            yield Found(f"several sessions are called {session.name!r}", None, session.path)


@rule("KHO511", Severity.ERROR, _LOST)
def file_count(case: Case) -> Iterator[Found]:
    """A session has as many files as it counts.

    Matters: retrieving the session fails, or loses the rest.
    Causes: a count overwritten; a chain that ends early.
    Enforced by: ``luo_file_deserialize()``.
    """
    for session in case.sessions():
        there = len(session.files)
        if there == session.count or session.path in case.broken:
            continue
        yield Found(
            f"session {session.name!r} counts {plural(session.count, 'file')}, its list has "
            f"{there:,}",
            session.files_pa or None,
            session.path,
        )


@rule("KHO512", Severity.ERROR, _LOST)
def token_duplicate(case: Case) -> Iterator[Found]:
    """Tokens are unique within a session.

    Matters: userspace asks for a file by its token and gets the first.
    Causes: an entry overwritten with a copy of another.
    Enforced by: ``luo_preserve_file()`` of the old kernel: -EEXIST; not by the next one.
    """
    for session in case.sessions():
        counts = Counter(file.token for file in session.files)
        for file in session.files:
            if counts.pop(file.token, 0) > 1:
                yield Found(
                    f"several files of session {session.name!r} have token {file.token:#x}",
                    None,
                    file.path,
                )


@rule("KHO513", Severity.ERROR, "load the handler's module in the next kernel, or update it")
def handler_unknown(case: Case) -> Iterator[Found]:
    """Kernels of this ABI (or the target) have a handler for every file.

    Matters: the session cannot be retrieved.
    Causes: a handler that the next kernel does not have; damage to the string.
    Enforced by: ``luo_file_deserialize()``: -ENOENT.
    """
    abi = case.consumer
    for session, file in case.files():
        if file.compatible not in abi.files:
            # Another kernel may have handlers that no release has: only known names are errors.
            known = case.target is not None or file.compatible.startswith("memfd-")
            yield Found(
                f"file {file.token:#x} of session {session.name!r} is {file.compatible!r}, "
                f"kernels of {abi.compatible} have {', '.join(abi.files) or 'no handler'}",
                file.data or None,
                file.path,
                None if known else Severity.WARNING,
            )


@rule("KHO514", Severity.FATAL, "one of the two folio tables is stale", Need.TREE)
def page_under_two_files(case: Case) -> Iterator[Found]:
    """No page belongs to two files.

    Matters: both files write to it, and it is freed twice.
    Causes: a folio table entry overwritten with a copy of another.
    Enforced by: ``kho_restore_folio()``: the second file fails, its folio has no head any more.
    """
    yield from case.found(FaultKind.LUO_SHARED)
    shift = case.there.geometry.shift
    pages = intervals.subtract(case.ownership.shared, case.doubtful)
    # A list or descriptor with two owners takes all that it leads to with it: told as one.
    found: dict[tuple[str, str], tuple[int, Found]] = {}
    for start, end in zip(*pages, strict=True):
        paddr = int(start) << shift
        claimants = case.index.owners(int(start), int(end))
        owners = list(dict.fromkeys(one.claim.owner for one in claimants))
        if len(owners) < 2 or not all(is_sessions(one.claim) for one in claimants):
            continue
        one, other = (next(c for c in claimants if c.claim.owner == name) for name in owners[:2])
        kind = "sessions" if one.claim.what.startswith("file ") else "files"
        sessions = tuple(name.partition(" / file ")[0] for name in owners[:2])
        key = (sessions[0], sessions[1]) if sessions[0] != sessions[1] else (owners[0], owners[1])
        rank = _DEPTH.get(one.claim.what, len(_DEPTH))
        extent = Extent(paddr, int(end) << shift)
        words = f"{human_size(extent.size)} at {extent} belongs to two {kind}: "
        chain = one.chain(paddr, shift)
        if key not in found or rank < found[key][0]:
            told = Found(f"{words}{chain}; {other.chain(paddr, shift)}", paddr, chain)
            found[key] = (rank, told)
    yield from (told for _, told in found.values())


_DEPTH = {"file block": 0, "file array": 0, "memfd descriptor": 1, "folio table": 2}
"""Structures of a file, from the one that leads to the others down."""


@rule("KHO515", Severity.ERROR, _DAMAGE)
def flb_malformed(case: Case) -> Iterator[Found]:
    """FLB entries have unique, terminated names, in an array of a few pages.

    Matters: the handler does not find its data.
    Causes: an entry or the header overwritten.
    Enforced by: ``luo_flb_setup_incoming()``, by name only.
    """
    for _, luo in case.luos():
        counts = Counter(flb.name for flb in luo.flbs)
        for flb in luo.flbs:
            if not flb.name or b"\0" not in flb.raw_name:
                yield Found(
                    f"FLB name is {flb.name!r}, should be 1 to 47 bytes and a NUL", None, flb.path
                )
            elif counts.pop(flb.name, 0) > 1:
                yield Found(f"several FLBs are called {flb.name!r}", None, flb.path)
    yield from case.found(FaultKind.LUO_FLB)


@rule("KHO516", Severity.ERROR, _DAMAGE, Need.TREE)
def luo_unpreserved(case: Case) -> Iterator[Found]:
    """The memory of sessions, file lists and file descriptors is preserved.

    Matters: it is overwritten before LUO reads it.
    Causes: a bit lost in the tree.
    Enforced by: ``kho_restore_free()`` and ``kho_block_restore()``, by way of the missing head.
    """
    return case.unpreserved(
        "session array",
        "file array",
        "session block",
        "file block",
        "FLB array",
        "memfd descriptor",
    )


@rule("KHO517", Severity.INFO, "normal before reboot; dump at the jump to see sessions")
def not_serialized(case: Case) -> Iterator[Found]:
    """LUO has written its sessions.

    Matters: it does so only at reboot; before that a dump shows none, and their memory unowned.
    Causes: a dump taken before the jump; no live update session at all.
    Enforced by: nobody: no sessions is a valid state.
    """
    for blob, luo in case.luos():
        if not luo.serialized:
            yield Found("LUO has no sessions: not serialized (yet)", blob.paddr, f"/{blob.name}")
