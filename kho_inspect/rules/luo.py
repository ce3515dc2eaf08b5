"""KHO50x to KHO51x: the Live Update Orchestrator's sessions and files."""

from collections.abc import Iterator
from dataclasses import replace

from kho_inspect.layouts.luo import luo_compatible
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import text_of
from kho_inspect.model.identity import ClaimKind, Owner, Place, Step, StepKind
from kho_inspect.model.luo import LUO, Luo
from kho_inspect.rules.base import (
    ERROR,
    FATAL,
    INFO,
    WARNING,
    About,
    Evidence,
    Need,
    Observation,
    Subject,
)
from kho_inspect.rules.case import Case, in_blob, repeated, subnode
from kho_inspect.rules.catalogue import Catalogue
from kho_inspect.rules.claims_view import is_sessions
from kho_inspect.units import human_size, plural

CATALOGUE = Catalogue((Need.FDT, Need.ABI, Need.TRUSTED), hides_owners=True, subject=Subject.LUO)
rule, fault_rule = CATALOGUE.rule, CATALOGUE.fault_rule

_PANIC = "the next kernel panics on this: boot it with liveupdate=0 to get at the rest"
_STALE = "one of the two folio tables is stale"
_LOST = "userspace cannot retrieve this: look at who wrote the session"
_DAMAGE = "memory corruption in the old kernel: look up who owns the page with addr"


@fault_rule("KHO501", FATAL, _PANIC, FaultKind.LUO_SHORT)
def luo_short() -> None:
    """The LUO blob is as long as its struct.

    Matters: LUO panics rather than go on without state that it cannot read.
    Causes: a wrong blob-size; an ABI mix-up.
    Enforced by: ``luo_early_startup()`` of 7.2 and 7.3.4: "LUO state is too small (… < 32)", panic.
    7.1 reads the FDT by its own size, whatever blob-size is.
    """


@rule("KHO502", FATAL, _PANIC)
def luo_incompatible(case: Case) -> Iterator[Observation]:
    """The LUO blob is of the version that kernels of this ABI (or the target) accept.

    Matters: LUO panics rather than go on without state that it cannot read.
    Causes: a live update across a LUO version; damage to the blob.
    Enforced by: ``luo_early_startup()``: 7.2 and 7.3 print "LUO state is incompatible with
    'luo-v5'", 7.1 "FDT 'LUO' is incompatible with 'luo-v1' [1]", and ``luo_restore_fail()`` panics
    (seen in 7.3.4 and 7.1.13).
    """
    kernel = case.consumer
    if not kernel.luo or case.writer_unknown:
        return
    for blob in case.handover.blobs:
        if blob.name != "LUO" or not blob.stored:
            continue
        name = blob.fdt.string("compatible") if blob.fdt is not None else None
        if isinstance(blob.content, Luo):
            name = blob.content.compatible
            if case.takes_unreleased(name):
                continue
            features = blob.content.features
            missing = features and kernel.missing(name, features.required)
            if features and missing and name in kernel.luo:
                words = f"LUO requires {features.words(missing)}, which {kernel.name} has not"
                yield in_blob(blob, f"{words}: the next kernel panics")
        elif name is None:
            name = text_of(luo_compatible(blob.data))
        if name not in kernel.luo:
            wanted = f"{' or '.join(kernel.luo)} for {kernel.name}"
            words = f"LUO compatible is {name!r}, should be {wanted}: the next kernel panics"
            yield in_blob(blob, words)


@fault_rule("KHO503", FATAL, _PANIC, FaultKind.LUO_PROPERTY)
def luo_property() -> None:
    """A luo-v1 FDT has the nodes luo-session and luo-flb, and their properties of 8 bytes each.

    Matters: LUO panics rather than go on without state that it cannot read. A node that is missing
    does not mean that nothing was serialized: then its header counts nothing.
    Causes: damage to the blob; a writer of another version.
    Enforced by: ``luo_session_setup_incoming()`` and ``luo_flb_setup_incoming()`` up to 7.1:
    "Unable to get FLB node [luo-flb]", "FLB node is incompatible with 'luo-flb-v1' [1]", "Unable to
    get FLB header property …", and ``luo_early_startup()`` panics (all seen in 7.1.13). 7.2 and
    7.3.4 have no such FDT.
    """


@fault_rule("KHO504", FATAL, _DAMAGE, FaultKind.BLOCK_CYCLE)
def chain_cycle() -> None:
    """Chains of kho_blocks end.

    Matters: of sessions 7.2 and 7.3 panic; of files every session is lost, as /dev/liveupdate
    cannot be opened. luo-v1 (up to 7.1) has no chains.
    Causes: a block's link overwritten.
    Enforced by: ``kho_block_set_is_cyclic()`` of 7.2 and 7.3.4: "Block set is corrupted", -EINVAL
    (of files seen in 7.3.4: data lost).
    """


@fault_rule(
    "KHO505",
    FATAL,
    _DAMAGE,
    FaultKind.BLOCK_OUTSIDE,
    FaultKind.BLOCK_MISALIGNED,
    FaultKind.LUO_ARRAY_MISSING,
    Evidence.RAM,
)
def chain_unreadable() -> None:
    """Pointers to session, file and FLB blocks or arrays lead into RAM, to a page.

    Matters: the next kernel dereferences them without a check.
    Causes: a pointer overwritten.
    Enforced by: no kernel checks this (7.1 to 7.3.4): "unable to handle page fault" and panic (seen
    in 7.3.4 of sessions and FLBs, in 7.1.13 of sessions). Off a page, junk is read: all sessions
    were lost in 7.1.13.
    """


@CATALOGUE.not_stored(
    "KHO506",
    "structure",
    FaultKind.BLOCK_NOT_STORED,
    FaultKind.LUO_ARRAY_NOT_STORED,
    FaultKind.MEMFD_NOT_STORED,
    About.CAPTURE,
)
def luo_not_stored() -> None:
    """LUO's structures are stored in the dump.

    Matters: the handover may be sound, but sessions and files cannot be judged.
    Causes: a filtered or cut dump.
    Enforced by: no kernel; it concerns the capture.
    """


@rule("KHO507", FATAL, _DAMAGE, FaultKind.BLOCK_COUNT, FaultKind.LUO_COUNT, FaultKind.BLOCK_EMPTY)
def count_over_capacity(case: Case) -> Iterator[Observation]:
    """Counts are no larger than the block or array has room for, and those of blocks not zero.

    Matters: of a block of sessions 7.2 and 7.3 panic; of a block of files every session is lost,
    as /dev/liveupdate cannot be opened. Of an array 7.1 reads entries out of the memory behind it,
    and any kernel does of FLBs.
    Causes: a count overwritten.
    Enforced by: ``kho_block_set_restore()`` of 7.2 and 7.3.4: "Block contains invalid entry count:
    …", -EINVAL (of sessions seen in 7.3.4). No kernel checks arrays and FLBs: 7.1.13 was seen to
    print "Failed to insert session [] -17" or "No registered handler for compatible ''", and to
    lose all.
    """
    yield from case.observed(FaultKind.BLOCK_COUNT, FaultKind.LUO_COUNT)
    for found in case.observed(FaultKind.BLOCK_EMPTY):
        of_files = any(step.kind is StepKind.SESSION for step in found.path)
        yield replace(found, severity=ERROR if of_files else None)


@rule("KHO508", ERROR, _LOST, Need.SESSIONS)
def session_name_empty(case: Case) -> Iterator[Observation]:
    """Sessions have names.

    Matters: userspace asks for a session by its name. Of two without one the second is refused,
    and with it all: every open of /dev/liveupdate fails.
    Causes: an entry overwritten with zeros, or a count too high.
    Enforced by: ``luo_session_insert()`` (7.1 to 7.3.4): "Failed to insert session [] -17", for the
    second. No kernel checks the first.
    """
    for session in case.sessions():
        if not session.name:
            yield Observation("session name is empty, should be 1 to 63 bytes", None, session.path)


@rule("KHO509", ERROR, _LOST, Need.SESSIONS)
def session_name_unterminated(case: Case) -> Iterator[Observation]:
    """Session names end within their field.

    Matters: the next kernel cuts the name to 63 bytes: userspace does not find the session.
    Causes: an entry overwritten.
    Enforced by: ``luo_session_alloc()`` (7.1 to 7.3.4) copies with ``strscpy()``, and prints
    nothing. Seen in 7.3.4 and 7.1.13: -ENOENT for the session by its name.
    """
    for session in case.sessions():
        if b"\0" not in session.raw_name and session.path not in case.memfds.broken:
            size = f"{len(session.raw_name)} bytes without a NUL, should be 63 at the most"
            yield Observation(f"session name {session.name!r} is {size}", None, session.path)


@rule("KHO510", ERROR, _LOST, Need.SESSIONS)
def session_name_duplicate(case: Case) -> Iterator[Observation]:
    """Session names are unique.

    Matters: the second of a name is refused, and then all sessions are lost: every open of
    /dev/liveupdate fails with -EIO.
    Causes: an entry overwritten with a copy of another.
    Enforced by: ``luo_session_insert()`` (7.1 to 7.3.4): "Failed to insert session […] -17". All
    sessions were seen to be lost in 7.3.4.
    """
    named = [session for session in case.sessions() if session.name]
    for session, _ in repeated(named, lambda session: session.name):
        yield Observation(f"several sessions are called {session.name!r}", None, session.path)


@rule("KHO511", ERROR, _LOST, Need.SESSIONS)
def file_count(case: Case) -> Iterator[Observation]:
    """A session has as many files as it counts.

    Matters: 7.2 and 7.3 compare the two, and lose all sessions: every open of /dev/liveupdate fails
    with -EIO. 7.1 goes by the count alone and loses what lies behind it.
    Causes: a count overwritten; a chain that ends early.
    Enforced by: ``luo_file_deserialize()`` of 7.2 and 7.3.4: "File count mismatch: expected …,
    found …", -EINVAL. No kernel up to 7.1 compares them. A list at address 0 with a count is an
    empty session, behind a WARN_ON (seen in 7.3.4 and 7.1.13).
    """
    for session in case.sessions():
        listed, counted = len(session.files), plural(session.count, "file")
        if listed != session.count and session.path not in case.memfds.broken:
            words = f"session {session.name!r} counts {counted}, its list has {listed:,}"
            yield Observation(words, session.files_pa or None, session.path)


@rule("KHO512", ERROR, _LOST, Need.SESSIONS)
def token_duplicate(case: Case) -> Iterator[Observation]:
    """Tokens are unique within a session.

    Matters: userspace asks for a file by its token and gets the first.
    Causes: an entry overwritten with a copy of another.
    Enforced by: ``luo_retrieve_file()`` (7.1 to 7.3.4) takes the first, and prints nothing.
    ``luo_preserve_file()`` of the old kernel: -EEXIST.
    """
    for _, luo in case.contents(Luo):
        for session in luo.sessions_with_twins():
            for file, _ in repeated(session.files, lambda file: file.token):
                words = f"several files of session {session.name!r} have token {file.token:#x}"
                yield Observation(words, None, file.path)


@rule("KHO513", ERROR, "load the handler's module in the next kernel, or update it", Need.SESSIONS)
def handler_unknown(case: Case) -> Iterator[Observation]:
    """Kernels of this ABI (or the target) have a handler for every file.

    Matters: all sessions are lost, not only this one: every open of /dev/liveupdate fails with
    -EIO. 6.19 loses the rest of this session only.
    Causes: a handler that the next kernel does not have; damage to the string.
    Enforced by: ``luo_file_deserialize()`` (7.1; ``luo_file_deserialize_one()`` in 7.2 and 7.3.4):
    "No registered handler for compatible '…'", -ENOENT (seen in 7.1.13; all was lost in 7.3.4 too).
    """
    kernel = case.consumer
    if kernel is case.image and not kernel.luo:
        return  # KHO116
    for session, file in case.files_of(lambda one: one.compatible not in kernel.files):
        which = f"file {file.token:#x} of session {session.name!r}"
        features = file.content.features if file.content is not None else None
        if file.compatible not in kernel.files:
            if file.known and case.takes_unreleased(file.compatible):
                continue
            # Another kernel may have handlers that no release has: only known names are errors.
            # Those of an image may come with a module, but for memfd's.
            known = case.target is not case.image or file.compatible.startswith("memfd-")
            who = f"{kernel.name} has" if case.image else f"kernels of {kernel.name} have"
            yield Observation(
                f"{which} is {file.compatible!r}, {who} {', '.join(kernel.files) or 'no handler'}",
                file.data or None,
                file.path,
                None if known and not case.writer_unknown else WARNING,
                cause=file.compatible,
            )
        elif features and (missing := kernel.missing(file.compatible, features.required)):
            words = f"{which} requires {features.words(missing)}, which {kernel.name} has not"
            yield Observation(words, file.data or None, file.path, cause=file.compatible)


@rule("KHO514", FATAL, _STALE, Need.TREE, Need.SESSIONS, FaultKind.LUO_SHARED)
def page_under_two_files(case: Case) -> Iterator[Observation]:
    """No page belongs to two files.

    Matters: the file that is retrieved second fails: of a folio with -EIO, behind a warning that
    with panic_on_warn is a panic. Of a descriptor, a table or a list of files it reads memory that
    the first has freed; 7.2 and 7.3 write to it too (``kho_block_set_shrink()``).
    Causes: a folio table entry overwritten with a copy of another.
    Enforced by: ``kho_restore_page()`` (7.1 to 7.3.4): WARN_ON_ONCE and NULL, as the page has no
    magic any more. Two files with one descriptor were seen in 7.1.13: -EOPNOTSUPP for the second.
    """
    yield from case.observed(*page_under_two_files.faults)
    # A list or descriptor with two owners takes all that it leads to with it: one finding.
    found: dict[tuple[Owner, Owner], tuple[int, Observation]] = {}
    for extent, places in case.claims.shared():
        first_of: dict[Owner, Place] = {}
        for place in places:
            first_of.setdefault(place.owner, place)
        if len(first_of) < 2 or not all(is_sessions(owner) for owner in first_of):
            continue
        first, second = list(first_of.values())[:2]
        sessions = LUO.of(first.owner.parts[0]), LUO.of(second.owner.parts[0])
        key = sessions if sessions[0] != sessions[1] else (first.owner, second.owner)
        rank = _DEPTH.get(first.kind, len(_DEPTH))
        if key not in found or rank < found[key][0]:
            kind = "sessions" if rank == 0 else "files"
            words = f"{human_size(extent.size)} at {extent} belongs to two {kind}: "
            found[key] = rank, Observation((words, first, "; ", second), extent.start, first.path)
    yield from (finding for _, finding in found.values())


_DEPTH = {
    ClaimKind.FILE_BLOCK: 0,
    ClaimKind.FILE_ARRAY: 0,
    ClaimKind.MEMFD_DESCRIPTOR: 1,
    ClaimKind.FOLIO_TABLE: 2,
}
"""Structures of a file, from the one that leads to the others down."""


@rule("KHO515", ERROR, _DAMAGE, FaultKind.LUO_FLB)
def flb_malformed(case: Case) -> Iterator[Observation]:
    """FLB entries have unique, terminated names, in an array of a few pages.

    Matters: the handler does not find its data. In 7.1 to 7.3 the only one is the kernel's own
    liveupdate test. The number of pages is never read.
    Causes: an entry or the header overwritten.
    Enforced by: ``luo_flb_retrieve_one()`` (7.1 to 7.3.4) compares names: -ENOENT, and prints
    nothing.
    """
    for _, luo in case.contents(Luo):
        named = []
        for flb in luo.flbs:
            if flb.name and b"\0" in flb.raw_name:
                named.append(flb)
            else:
                words = f"FLB name is {flb.name!r}, should be 1 to 47 bytes and a NUL"
                yield Observation(words, None, flb.path)
        for flb, _ in repeated(named, lambda flb: flb.name):
            yield Observation(f"several FLBs are called {flb.name!r}", None, flb.path)
    yield from case.observed(*flb_malformed.faults)


@rule("KHO516", FATAL, _DAMAGE, Need.TREE)
def luo_unpreserved(case: Case) -> Iterator[Observation]:
    """The memory of sessions, file lists and file descriptors is preserved.

    Matters: it is overwritten before LUO reads it: pointers and counts are then junk, and following
    them is a page fault. Of a memfd's descriptor only the file is lost.
    Causes: a bit lost in the tree.
    Enforced by: no kernel checks it before reading: ``kho_restore_free()`` (7.1 to 7.3.4) warns
    afterwards. Panics were seen of a file block and the FLB page in 7.3.4, of the session array and
    the FLB page in 7.1.13; of a descriptor -EOPNOTSUPP in 7.3.4.
    """
    yield from case.claims.unpreserved(
        ClaimKind.SESSION_ARRAY,
        ClaimKind.FILE_ARRAY,
        ClaimKind.SESSION_BLOCK,
        ClaimKind.FILE_BLOCK,
        ClaimKind.FLB_ARRAY,
    )
    for found in case.claims.unpreserved(ClaimKind.MEMFD_DESCRIPTOR):
        yield replace(found, severity=ERROR)


@rule("KHO517", INFO, "normal before reboot; dump at the jump to see sessions")
def not_serialized(case: Case) -> Iterator[Observation]:
    """LUO has written its sessions.

    Matters: it does so only at reboot; before that a dump shows none, and their memory unowned.
    With users of FLBs, which are counted at reboot too, sessions were lost. The header of luo-v1 is
    always there: 7.1 reads one at address 0 without a check.
    Causes: a dump taken before the jump; no live update session at all; a pointer overwritten.
    Enforced by: no kernel checks this (7.1 to 7.3.4): no sessions is a valid state.
    ``luo_session_setup_incoming()`` returns 0 for a pointer of 0 in 7.2 and 7.3, and reads through
    it in 7.1.
    """
    for blob, luo in case.contents(Luo):
        if any(blob is early for early in case.unserialized):
            yield in_blob(blob, "LUO has no sessions: not serialized (yet)")
        elif luo.complete() or (*subnode(blob.name), Step(StepKind.SESSIONS)) in case.memfds.broken:
            continue
        elif luo.flbs:
            words = (
                f"LUO has no sessions, but {plural(len(luo.flbs), 'FLB')} in use: they were lost"
            )
            yield replace(in_blob(blob, words), severity=ERROR)
        elif not any(case.faults(FaultKind.LUO_PROPERTY)):
            words = "LUO's session header is at address 0, should be a page"
            yield replace(in_blob(blob, words), severity=FATAL)


@fault_rule("KHO532", ERROR, _DAMAGE, FaultKind.RECORD_UNCOUNTED)
def record_uncounted() -> None:
    """No session, file, FLB or folio stands right behind the last one that is counted.

    Matters: the next kernel goes by the count: what stands behind it is lost without a message.
    Writers fill zeroed memory from the start on, and clear what they take back.
    Causes: a count overwritten.
    Enforced by: no kernel checks this (7.1 to 7.3.4): sessions behind a low count were seen to be
    lost in 7.3.4 and 7.1.13, with nothing printed.
    """


@fault_rule("KHO535", ERROR, _DAMAGE, FaultKind.FEATURES)
def features_contradict() -> None:
    """A feature header agrees with itself, and with the fields that stand behind it.

    Matters: what is not active is not read; what is required and not supported is refused.
    Causes: a header overwritten.
    Enforced by: no kernel checks this (none up to 7.3.4 has such headers): they are a proposal.
    """
