"""What follows from the findings: capture, decision and integrity, each with what it rests on."""

from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import NamedTuple

from kho_inspect import intervals
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.identity import Message
from kho_inspect.model.luo import Luo
from kho_inspect.rules.base import About, Decision, Evidence, Finding, Need, Severity
from kho_inspect.rules.case import Case
from kho_inspect.units import human_size

MAX_REASONS = 8
"""Reasons that a statement lists; the findings have them all."""


class CaptureState(Enum):
    """How far dump and DTB are what the next kernel saw."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """Something that a structure points to was not saved."""
    RECYCLED = "recycled"
    """Taken after the next kernel had freed its boot memory."""
    MISMATCH = "mismatch"
    """Dump, DTB, base, map or page size do not fit together."""


class Capture(NamedTuple):
    """What the dump is worth as evidence."""

    state: CaptureState
    reasons: tuple[Message, ...] = ()
    """Of a complete capture: where the root FDT was found, if not in its file."""
    suggestion: str | None = None
    """Options or an input that would fit, where the dump shows it."""

    @property
    def fits(self) -> bool:
        """Whether the map of the dump reads as one: else nothing follows from it."""
        return self.state in (CaptureState.COMPLETE, CaptureState.INCOMPLETE)

    def leaves(self, finding: Finding) -> bool:
        """Whether a finding stands whatever the capture lacks."""
        of_fdt = finding.evidence in (Evidence.FDT, Evidence.READER, Evidence.LOG)
        if self.state is CaptureState.COMPLETE or of_fdt:
            return True
        return (
            self.state is CaptureState.INCOMPLETE
            and finding.about is About.HANDOVER
            and finding.evidence is not Evidence.RAM
        )


class Conclusion(NamedTuple):
    """What the next kernel would do."""

    state: Decision
    target: str
    """The kernel or ABI that the decision is for."""
    reasons: tuple[str, ...] = ()
    """Codes of the findings that decide."""
    unjudged: tuple[Need, ...] = ()
    """What the old kernel has not written yet: it was accepted without."""


class Integrity(Enum):
    """Whether what was handed over is as its writers left it."""

    NO_DEFECT = "no-defect"
    SUSPICIOUS = "suspicious"
    DAMAGED = "damaged"
    UNDECIDED = "undecided"


class Met(Enum):
    """Whether the handover is the expected one."""

    MET = "met"
    DIFFER = "differ"
    NONE = "none"
    """Nothing was expected."""


def capture_of(case: Case) -> Capture:
    """What the dump is worth, whichever rules are run."""
    if case.lost is not None:
        return Capture(CaptureState.INCOMPLETE, (case.lost.message, *_accepted(case)))
    if case.opened is None:
        return Capture(CaptureState.INCOMPLETE, ("the root FDT cannot be read",))
    root = case.handover.fdt
    misfit = _misfit(case)
    if misfit is not None:
        first, then = (root.notes, misfit.reasons)[:: 1 if root.start else -1]
        return misfit._replace(reasons=(*first, *_accepted(case), *then))
    unread = (fault.message for fault in case.faults(*_NOT_READ))
    reasons = tuple(dict.fromkeys((*_beyond_the_file(case), *unread)))
    if reasons or root.start:
        return Capture(CaptureState.INCOMPLETE, (*root.notes, *reasons)[:MAX_REASONS])
    return Capture(CaptureState.COMPLETE, (*filter(None, [root.recovery]), *root.notes))


def _accepted(case: Case) -> list[str]:
    """What the first kernel printed that took the handover."""
    lines = (one for one in case.printed if one.accepted)
    return [f'Linux {one.release} took it: "{one.text}"' for one in islice(lines, 1)]


def _beyond_the_file(case: Case) -> Iterator[Message]:
    """What a raw file lacks: it has no header that says what RAM the machine has.

    Memory that the map preserves and a structure points to is there, whatever the file holds.
    """
    handover, ram = case.handover, case.map.ram
    outside = intervals.subtract(handover.preserved.merged, ram)
    if not handover.source.format.startswith("raw") or not len(outside[0]):
        return
    claimed = intervals.merge(handover.claims.starts, handover.claims.ends)
    lacking = intervals.intersect(outside, claimed)
    if len(lacking[0]):
        size = human_size(handover.ownership.size(lacking))
        where = next(handover.ownership.extents(lacking))
        yield (
            f"{size} from {where.start:#x} on, preserved and pointed to, lie outside the dump: the "
            "file is cut short, or --map names too little"
        )


def _misfit(case: Case) -> Capture | None:
    """The state of a capture whose map does not read as one; None where it does."""
    handover, tree = case.handover, case.handover.tree
    if case.fit is not None:
        return Capture(CaptureState.MISMATCH, case.fit.evidence, case.fit.option)
    cut = handover.fdt.start is not None
    late = case.map.is_late or (cut and case.misreads)
    if tree is None or not (case.root_outside or late):
        return None
    where = f"the map's root {tree.root:#x} does not lead to a map of this handover"
    if cut or case.printed:
        reused = "a kernel that ran since has reused the memory"
        return Capture(CaptureState.RECYCLED, (where, reused))
    if case.root_outside:
        held = ", ".join(map(str, handover.source.declared[:3])) or "none"
        outside = f"the map's root {tree.root:#x} is outside the dump's memory ({held})"
        return Capture(CaptureState.MISMATCH, (outside, _ANOTHER))
    if not tree.pointers and not handover.preserved.bytes:
        why = "cleared in the old kernel, or left out by what wrote the dump"
        zero = f"the map's root page {tree.root:#x} is zero: {why}"
        return Capture(CaptureState.INCOMPLETE, (zero,))
    held = "" if handover.fdt.paddr is None else "the root FDT"
    if any(blob.fdt is not None or isinstance(blob.content, Luo) for blob in handover.blobs):
        held = held or "a blob"
    if held:
        rest = f"{held} is in the dump: the rest was overwritten after the jump"
        return Capture(CaptureState.RECYCLED, (where, rest))
    return Capture(CaptureState.MISMATCH, (where, f"{_ANOTHER}; or the dump was taken after boot"))


def conclude(case: Case, capture: Capture, findings: Sequence[Finding]) -> Conclusion:
    """What the next kernel does: the gravest of what the findings that stand make it do."""
    refused = next((one for one in case.printed if not one.accepted), None)
    codes = dict.fromkeys(one.code for one in findings if one.evidence is Evidence.LOG)
    if refused is not None and case.target is None and codes:
        state = Decision.PANICS if refused.panicked else Decision.REFUSES
        return Conclusion(state, f"Linux {refused.release}", tuple(codes))
    target = case.target_name or "a kernel of the same ABI"
    fatal = [
        finding
        for finding in findings
        if finding.severity is Severity.FATAL
        and finding.evidence is not Evidence.LOG
        and capture.leaves(finding)
    ]
    # In the order in which it happens; what nobody can tell comes last.
    for state in (Decision.REFUSES, Decision.PANICS, Decision.UNKNOWN):
        codes = dict.fromkeys(finding.code for finding in fatal if finding.decision is state)
        if codes:
            return Conclusion(state, target, tuple(codes))
    if capture.state is not CaptureState.COMPLETE or case.opened is None or case.foreign:
        return Conclusion(Decision.UNKNOWN, target)
    unwritten = tuple(need for need in (Need.MAP, Need.SESSIONS) if need in case.missing)
    return Conclusion(Decision.ACCEPTS, target, (), unwritten)


def integrity_of(case: Case, capture: Capture, findings: Sequence[Finding], ran: int) -> Integrity:
    """Whether the memory is as it was written; decided by what stands whatever is lacking."""
    worst = max(
        (
            finding.severity
            for finding in findings
            if finding.about is About.HANDOVER
            and finding.evidence not in (Evidence.READER, Evidence.LOG)
            and capture.leaves(finding)
        ),
        default=Severity.INFO,
    )
    if worst >= Severity.ERROR:
        return Integrity.DAMAGED
    if capture.state is not CaptureState.COMPLETE or not ran or case.foreign:
        return Integrity.UNDECIDED
    return Integrity.SUSPICIOUS if worst is Severity.WARNING else Integrity.NO_DEFECT


def expectations_of(case: Case, findings: Sequence[Finding]) -> Met:
    """Whether the expectation file was met."""
    if case.expectations is None:
        return Met.NONE
    differ = any(finding.about is About.EXPECTATION for finding in findings)
    return Met.DIFFER if differ else Met.MET


_ANOTHER = "another machine's dump, another base or map (--base, --map), or another boot's DTB"
_NOT_READ = (
    FaultKind.NODE_NOT_STORED,
    FaultKind.BLOB_NOT_STORED,
    FaultKind.VMALLOC_CHUNK_NOT_STORED,
    FaultKind.BLOCK_NOT_STORED,
    FaultKind.LUO_ARRAY_NOT_STORED,
    FaultKind.MEMFD_NOT_STORED,
    FaultKind.KHO_TEST_NOT_STORED,
    FaultKind.DUMP_INCOMPLETE,
    FaultKind.LIMIT,
    FaultKind.LUO_LIMIT,
)
"""What was not read, in the order in which a handover is."""
