"""From two files to a case: the handover, and what else the rules can use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kho_inspect import fdt
from kho_inspect.abi import Abi
from kho_inspect.errors import FdtError
from kho_inspect.inspection import Options, inspect_memory, open_inputs
from kho_inspect.limits import DEFAULT_LIMITS, Limits
from kho_inspect.locate.scan import Located, locate
from kho_inspect.locate.scratch import boot_dtb_pointer, read_scratch
from kho_inspect.memory import PhysicalMemory
from kho_inspect.memory.files import read_head
from kho_inspect.model.handover import Handover, Scratch
from kho_inspect.ownership.account import account
from kho_inspect.ownership.claims import ClaimLog
from kho_inspect.rules.case import Case
from kho_inspect.rules.expectations import Expectation
from kho_inspect.units import Extent, PhysAddr

MAX_SCANNED = 4 << 30
"""Bytes of stored memory that are searched for the FDT, and for what points to it."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What is known besides dump and DTB."""

    target: Abi | None = None
    target_name: str = ""
    scratch: tuple[Extent, ...] = ()
    """Given areas; without them the table is looked for."""
    boot_dtb: str | None = None
    """A boot DTB whose /chosen names the scratch table."""
    expectations: Sequence[Expectation] | None = None


def open_case(
    dump: str,
    dtb: str | None,
    options: Options,
    check: CheckOptions,
    progress: Callable[[int], None] = lambda size: None,
) -> Case:
    """Read everything that can be judged.

    What the next kernel would refuse becomes part of the case. Raises KhoError for what no
    verdict can be given on: files that cannot be read, or are no device tree, or not KHO's.
    """
    options = replace(options, lenient=True)
    try:
        memory, root = open_inputs(dump, dtb, options, progress)
    except FdtError as error:
        size = fdt.total_size(read_head(error.source, fdt.START_SIZE) if error.source else b"")
        if size is None or size > options.limits.fdt:  # our limit, not the kernel's
            raise
        return Case(None, error, check.target, check.target_name)
    return build_case(memory, inspect_memory(memory, root, options), check, options.limits)


def build_case(
    memory: PhysicalMemory,
    handover: Handover,
    check: CheckOptions,
    limits: Limits = DEFAULT_LIMITS,
) -> Case:
    """The case of a handover that was read already."""
    boot_dtb = check.boot_dtb or handover.fdt.boot_dtb
    located = Located((), ())
    if handover.fdt.paddr is None or not (check.scratch or boot_dtb):
        located = locate(memory, limit=MAX_SCANNED)
    if handover.fdt.paddr is None:
        # Not where kho_init would have it: unpreserved, or claimed by somebody else.
        copies = (found.paddr for found in located.fdts if found.data == handover.fdt.data)
        handover = _with_fdt(handover, next(copies, None))
    if check.scratch:
        entries = tuple((extent.start, extent.size) for extent in check.scratch)
        scratch: Scratch | None = Scratch(entries, "--scratch", None)
    elif boot_dtb:
        pointer = boot_dtb_pointer(boot_dtb, limits.fdt)
        scratch = read_scratch(memory, [pointer] if pointer else [])
    else:
        named = [one for one in located.pointers if one.fdt == handover.fdt.paddr]
        scratch = read_scratch(memory, named)
    return Case(handover, None, check.target, check.target_name, scratch, check.expectations)


def _with_fdt(handover: Handover, paddr: PhysAddr | None) -> Handover:
    """The same with its root FDT at ``paddr``, which then is the FDT's own memory."""
    if paddr is None:
        return handover
    claims = ClaimLog(handover.geometry.shift)
    claims.add("KHO", "root FDT", paddr, handover.geometry.page_size)
    everything = (*handover.claims, *claims.claims)
    return replace(
        handover,
        fdt=replace(handover.fdt, paddr=paddr),
        claims=everything,
        ownership=account(handover.preserved, everything),
    )
