"""What KHO, LUO and their consumers print, and what each line means: one row a message.

The texts are those of 6.18 to 7.3: ``kernel/liveupdate/``, ``mm/memblock.c``, ``mm/memfd_luo.c``,
``lib/test_kho.c``, ``lib/tests/liveupdate.c``, ``arch/x86/kernel/setup.c``.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What a message implies for the handover."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """The kernel boots without the handover."""
    PANICKED = "panicked"
    LOST = "lost"
    """Part of the data does not reach its user."""
    OFF = "off"
    """This kernel can hand nothing over, or takes nothing."""
    WARNING = "warning"
    INFO = "info"


class KnownMessage(NamedTuple):
    """A message that is worth finding."""

    pattern: re.Pattern[str]
    """Matches at the start of a line."""
    outcome: Outcome
    meaning: str


def _known(pattern: str, outcome: Outcome, meaning: str) -> KnownMessage:
    return KnownMessage(re.compile(pattern), outcome, meaning)


_SETUP = r"KHO: setup: "

MESSAGES = (
    # kexec_handover.c, taking over
    _known(
        r"KHO: found kexec handover data", Outcome.ACCEPTED, "root FDT and scratch are accepted"
    ),
    _known(
        r"KHO: exec from: \S+ \(count \d+\)",
        Outcome.INFO,
        "the release of the kernel before, and how many live updates led here",
    ),
    _known(
        _SETUP + r"handover FDT \(0x[0-9a-f]+\) is incompatible with '",
        Outcome.REFUSED,
        "the root FDT is of another KHO ABI than this kernel's",
    ),
    _known(
        _SETUP + r"handover FDT \(0x[0-9a-f]+\) is invalid: ",
        Outcome.REFUSED,
        "the root FDT has no valid header: it was overwritten, or its address is wrong",
    ),
    _known(
        _SETUP + r"failed to memremap ",
        Outcome.REFUSED,
        "an address or size that the kernel was handed cannot be mapped",
    ),
    _known(
        r"KHO: failed to mark the scratch region ",
        Outcome.REFUSED,
        "a scratch area could not be recorded",
    ),
    _known(r"KHO: disabling KHO revival", Outcome.REFUSED, "the kernel boots without the handover"),
    _known(
        r"KHO: failed to get preserved (memory map|memory bitmaps|KHO memory tree)",
        Outcome.REFUSED,
        "the root FDT names no map of preserved memory: all data is lost",
    ),
    _known(
        r"KHO: Failed to extend scratch: ",
        Outcome.WARNING,
        "no memory besides scratch for the early boot; it goes on with KHO",
    ),
    _known(
        r"KHO: broken KHO subnode '.*': missing or invalid blob-size",
        Outcome.LOST,
        "the data of that subsystem is not given to it",
    ),
    _known(
        r"KHO: node .* (missing or invalid .* property|prop .* has invalid length)",
        Outcome.WARNING,
        "debugfs leaves out a sub-node whose properties are not as they should be",
    ),
    _known(
        r"KHO: kexec-metadata (blob too small|version \d+ not supported)",
        Outcome.WARNING,
        "the release of the kernel before is not known; nothing else depends on it",
    ),
    _known(
        r"Passed KHO data, but CONFIG_KEXEC_HANDOVER not set",
        Outcome.REFUSED,
        "this kernel is built without KHO",
    ),
    # kexec_handover.c, preparing the next one
    _known(
        r"KHO: disabled in the kdump kernel", Outcome.OFF, "a crash kernel takes and gives nothing"
    ),
    _known(
        r"KHO: Failed to reserve scratch area, disabling kexec handover",
        Outcome.OFF,
        "no memory for scratch: this kernel can hand nothing over",
    ),
    _known(
        r"KHO: Failed to reserve (scratch array|(lowmem|global|nid \d+) scratch buffer)",
        Outcome.OFF,
        "memory for scratch could not be reserved; kho_scratch= sets its size",
    ),
    _known(r"KHO: scratch (areas: |scale is )", Outcome.INFO, "size of the scratch of this kernel"),
    _known(
        r"KHO: failed to initialize kexec-metadata subtree",
        Outcome.WARNING,
        "the next kernel will not know the release of this one",
    ),
    # luo_*.c
    _known(
        r"luo: Retrieved live update data, liveupdate number: ",
        Outcome.ACCEPTED,
        "the state of LUO is accepted",
    ),
    _known(
        r"(Kernel panic - not syncing: )?The incoming tree failed to initialize properly \[",
        Outcome.PANICKED,
        "what LUO was handed cannot be read: the kernel panics",
    ),
    _known(
        r"luo: failed to retrieve (LUO state|FDT) '.*' from KHO: ",
        Outcome.PANICKED,
        "the sub-node of LUO is there, but cannot be had: a panic follows",
    ),
    _known(
        r"luo: (LUO state|FDT '.*'|FLB node) is incompatible with '",
        Outcome.PANICKED,
        "the state is of another LUO ABI: a panic follows",
    ),
    _known(
        r"luo: LUO state is too small \(",
        Outcome.PANICKED,
        "the blob is cut short: a panic follows",
    ),
    _known(
        r"luo: Unable to get (live update number|session header|session node|FLB node|FLB header)",
        Outcome.PANICKED,
        "the FDT of LUO lacks a node or property: a panic follows",
    ),
    _known(
        r"luo: Session node incompatible \[",
        Outcome.PANICKED,
        "the sessions are of another ABI: a panic follows",
    ),
    _known(
        r"(luo|kho_block): Block set is corrupted",
        Outcome.LOST,
        "the chain of blocks leads in a circle, or is too long",
    ),
    _known(
        r"(luo|kho_block): Block contains invalid entry count: ",
        Outcome.LOST,
        "a block counts more records than it has room for",
    ),
    _known(
        r"luo: Failed to (allocate|insert) session \[",
        Outcome.LOST,
        "a session is not restored, nor those after it",
    ),
    _known(
        r"luo: Failed to deserialize files for session \[",
        Outcome.LOST,
        "files of that session are not restored, nor the sessions after it",
    ),
    _known(
        r"luo: No registered handler for compatible '",
        Outcome.LOST,
        "this kernel has nothing that restores files of that kind",
    ),
    _known(r"luo: File count mismatch: ", Outcome.LOST, "a session counts other files than it has"),
    _known(
        r"luo: Disabling liveupdate because KHO is disabled",
        Outcome.OFF,
        "without KHO there is no live update",
    ),
    _known(
        r"luo: failed to (prepare|allocate/preserve) (LUO|FDT)",
        Outcome.OFF,
        "no memory for the state of LUO: this kernel can hand no files over",
    ),
    _known(
        r"luo: Freeze failed for token\[",
        Outcome.LOST,
        "a file refused to be handed over: no kexec",
    ),
    _known(
        r"luo: Unable to finish session \[",
        Outcome.WARNING,
        "memory of that session stays preserved",
    ),
    # consumers
    _known(
        r"memfd_luo: .*Unable to restore folio at physical address",
        Outcome.LOST,
        "the memfd names memory that is not preserved",
    ),
    _known(
        r"memfd_luo: (shmem: failed|failed to (setup file|add seals))",
        Outcome.LOST,
        "the memfd cannot be put together again",
    ),
    _known(r"memfd_luo: failed to pin folios", Outcome.LOST, "the memfd cannot be handed over"),
    _known(
        r"Revived memory reservation '.*' from KHO",
        Outcome.ACCEPTED,
        "that reserve_mem= area keeps its content",
    ),
    _known(
        r"KHO reserve-mem '.*' has wrong (alignment|size)",
        Outcome.LOST,
        "reserve_mem= differs from the kernel's before: the area starts empty",
    ),
    _known(
        r"failed to retrieve FDT 'memblock' from KHO",
        Outcome.INFO,
        "no reserve_mem= was handed over",
    ),
    _known(
        r"FDT 'memblock' (is incompatible|has no child)|Node '.*' is incompatible with 'reserve",
        Outcome.LOST,
        "reserve_mem= areas are not found again: they start empty",
    ),
    _known(
        r"failed to prepare memblock FDT for KHO",
        Outcome.LOST,
        "reserve_mem= areas are not handed over",
    ),
    _known(r"test_kho: KHO restore succeeded", Outcome.ACCEPTED, "kho_test has all its data"),
    _known(r"test_kho: KHO restore failed", Outcome.LOST, "the data of kho_test differs"),
    _known(
        r"test_kho: failed to retrieve .* FDT", Outcome.LOST, "no data of kho_test was handed over"
    ),
    _known(
        r"liveupdate test: .*found flb data from the previous boot",
        Outcome.ACCEPTED,
        "the FLB of the test has its data",
    ),
    _known(
        r"liveupdate test: .*ERROR - incorrect data handle",
        Outcome.LOST,
        "the FLB of the test has other data than it was handed",
    ),
)
"""The first that matches counts."""

_SUBSYSTEM = re.compile(
    r"(KHO|luo|luo_\w+|kho_\w+|test_kho|memfd_luo|liveupdate|liveupdate test|kho): ", re.ASCII
)
"""How every line of theirs begins, known or not."""


def known_message(text: str) -> KnownMessage | None:
    """What a line of a log says of the handover; None for any other."""
    return next((one for one in MESSAGES if one.pattern.match(text)), None)


def of_handover(text: str) -> bool:
    """Whether KHO, LUO or a consumer of theirs printed this."""
    return _SUBSYSTEM.match(text) is not None or known_message(text) is not None
