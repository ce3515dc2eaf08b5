"""What KHO, LUO and their consumers print, and what each line means: one row a message.

The texts are those of 6.18 to 7.3: ``kernel/liveupdate/``, ``mm/memblock.c``, ``mm/memfd_luo.c``,
``lib/test_kho.c``, ``lib/tests/liveupdate.c``, ``arch/x86/kernel/setup.c``.
"""

import re
from collections.abc import Iterator
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


def _rows(table: str) -> Iterator[KnownMessage]:
    lines = [line for line in table.splitlines() if line and not line.startswith("#")]
    for row, meaning in zip(lines[::2], lines[1::2], strict=True):
        outcome, pattern = row.split(maxsplit=1)
        yield KnownMessage(re.compile(pattern), Outcome(outcome), meaning.strip())


MESSAGES = tuple(
    _rows(r"""
# kexec_handover.c, taking over
accepted  KHO: found kexec handover data
          root FDT and scratch are accepted
info      KHO: exec from: \S+ \(count \d+\)
          the release of the kernel before, and how many live updates led here
refused   KHO: setup: handover FDT \(0x[0-9a-f]+\) is incompatible with '
          the root FDT is of another KHO ABI than this kernel's
refused   KHO: setup: handover FDT \(0x[0-9a-f]+\) is invalid:
          the root FDT has no valid header: it was overwritten, or its address is wrong
refused   KHO: setup: failed to memremap\s
          an address or size that the kernel was handed cannot be mapped
refused   KHO: failed to mark the scratch region\s
          a scratch area could not be recorded
refused   KHO: disabling KHO revival
          the kernel boots without the handover
refused   KHO: failed to get preserved (memory map|memory bitmaps|KHO memory tree)
          the root FDT names no map of preserved memory: all data is lost
warning   KHO: Failed to extend scratch:
          no memory besides scratch for the early boot; it goes on with KHO
lost      KHO: broken KHO subnode '.*': missing or invalid blob-size
          the data of that subsystem is not given to it
warning   KHO: node .* (missing or invalid .* property|prop .* has invalid length)
          debugfs leaves out a sub-node whose properties are not as they should be
warning   KHO: kexec-metadata (blob too small|version \d+ not supported)
          the release of the kernel before is not known; nothing else depends on it
refused   Passed KHO data, but CONFIG_KEXEC_HANDOVER not set
          this kernel is built without KHO
# kexec_handover.c, preparing the next one
off       KHO: disabled in the kdump kernel
          a crash kernel takes and gives nothing
off       KHO: Failed to reserve scratch area, disabling kexec handover
          no memory for scratch: this kernel can hand nothing over
off       KHO: Failed to reserve (scratch array|(lowmem|global|nid \d+) scratch buffer)
          memory for scratch could not be reserved; kho_scratch= sets its size
info      KHO: scratch (areas: |scale is )
          size of the scratch of this kernel
warning   KHO: failed to initialize kexec-metadata subtree
          the next kernel will not know the release of this one
# luo_*.c
accepted  luo: Retrieved live update data, liveupdate number:
          the state of LUO is accepted
panicked  (Kernel panic - not syncing: )?The incoming tree failed to initialize properly \[
          what LUO was handed cannot be read: the kernel panics
panicked  luo: failed to retrieve (LUO state|FDT) '.*' from KHO:
          the sub-node of LUO is there, but cannot be had: a panic follows
panicked  luo: (LUO state|FDT '.*'|FLB node) is incompatible with '
          the state is of another LUO ABI: a panic follows
panicked  luo: LUO state is too small \(
          the blob is cut short: a panic follows
panicked  luo: Unable to get (live update number|session header|session node|FLB node|FLB header)
          the FDT of LUO lacks a node or property: a panic follows
panicked  luo: Session node incompatible \[
          the sessions are of another ABI: a panic follows
lost      (luo|kho_block): Block set is corrupted
          the chain of blocks leads in a circle, or is too long
lost      (luo|kho_block): Block contains invalid entry count:
          a block counts more records than it has room for
lost      luo: Failed to (allocate|insert) session \[
          a session is not restored, nor those after it
lost      luo: Failed to deserialize files for session \[
          files of that session are not restored, nor the sessions after it
lost      luo: No registered handler for compatible '
          this kernel has nothing that restores files of that kind
lost      luo: File count mismatch:
          a session counts other files than it has
off       luo: Disabling liveupdate because KHO is disabled
          without KHO there is no live update
off       luo: failed to (prepare|allocate/preserve) (LUO|FDT)
          no memory for the state of LUO: this kernel can hand no files over
lost      luo: Freeze failed for token\[
          a file refused to be handed over: no kexec
warning   luo: Unable to finish session \[
          memory of that session stays preserved
# consumers
lost      memfd_luo: .*Unable to restore folio at physical address
          the memfd names memory that is not preserved
lost      memfd_luo: (shmem: failed|failed to (setup file|add seals))
          the memfd cannot be put together again
lost      memfd_luo: failed to pin folios
          the memfd cannot be handed over
accepted  Revived memory reservation '.*' from KHO
          that reserve_mem= area keeps its content
lost      KHO reserve-mem '.*' has wrong (alignment|size)
          reserve_mem= differs from the kernel's before: the area starts empty
info      failed to retrieve FDT 'memblock' from KHO
          no reserve_mem= was handed over
lost      FDT 'memblock' (is incompatible|has no child)|Node '.*' is incompatible with 'reserve
          reserve_mem= areas are not found again: they start empty
lost      failed to prepare memblock FDT for KHO
          reserve_mem= areas are not handed over
accepted  test_kho: KHO restore succeeded
          kho_test has all its data
lost      test_kho: KHO restore failed
          the data of kho_test differs
lost      test_kho: failed to retrieve .* FDT
          no data of kho_test was handed over
accepted  liveupdate test: .*found flb data from the previous boot
          the FLB of the test has its data
lost      liveupdate test: .*ERROR - incorrect data handle
          the FLB of the test has other data than it was handed
""")
)
"""Each with its outcome, and below what it means. The first that matches counts."""

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
