"""From two files to a case: the handover, and what else the rules can use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kho_inspect import fdt
from kho_inspect.abi import Abi
from kho_inspect.errors import FdtError
from kho_inspect.expectations import Expectation
from kho_inspect.inspection import Options, inspect_memory
from kho_inspect.locate import find_bytes
from kho_inspect.memory import PhysicalMemory, open_memory
from kho_inspect.memory.files import read_head
from kho_inspect.model import Handover, RootFdt, Scratch
from kho_inspect.root_fdt import read_root_fdt
from kho_inspect.rules.case import Case
from kho_inspect.scratch import MAX_SCANNED, scratch_from_boot_dtb, scratch_from_setup_data
from kho_inspect.units import Extent, PhysAddr


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


def open_case(dump: str, dtb: str, options: Options, check: CheckOptions) -> Case:
    """Read everything that can be judged.

    What the next kernel would refuse becomes part of the case. Raises KhoError for what no
    verdict can be given on: files that cannot be read, or are no device tree, or not KHO's.
    """
    options = replace(options, lenient=True)
    memory = open_memory(dump, format_name=options.format, base=options.base, blocks=options.blocks)
    try:
        root = read_root_fdt(dtb, memory, options.assume_abi, accept_unknown=True)
    except FdtError as error:
        if fdt.total_size(read_head(dtb, 8)) is None:
            raise
        return Case(None, error, check.target, check.target_name)
    return build_case(memory, inspect_memory(memory, root, options), check)


def build_case(memory: PhysicalMemory, handover: Handover, check: CheckOptions) -> Case:
    """The case of a handover that was read already."""
    if handover.fdt.paddr is None:
        paddr = _find_elsewhere(memory, handover.fdt)
        handover = replace(handover, fdt=replace(handover.fdt, paddr=paddr))
    return Case(
        handover,
        None,
        check.target,
        check.target_name,
        _find_scratch(memory, handover.fdt.paddr, check),
        check.expectations,
    )


def _find_elsewhere(memory: PhysicalMemory, root: RootFdt) -> PhysAddr | None:
    """The root FDT in memory that is not preserved, or claimed by somebody else."""
    hits = list(zip(range(16), find_bytes(memory, root.data, limit=MAX_SCANNED), strict=False))
    addresses = [paddr for _, paddr in hits]
    return next((paddr for paddr in addresses if paddr % 4096 == 0), None)


def _find_scratch(
    memory: PhysicalMemory, fdt_paddr: PhysAddr | None, check: CheckOptions
) -> Scratch | None:
    if check.scratch:
        entries = tuple((extent.start, extent.size) for extent in check.scratch)
        return Scratch(entries, "--scratch", None)
    if check.boot_dtb is not None:
        return scratch_from_boot_dtb(memory, check.boot_dtb)
    return None if fdt_paddr is None else scratch_from_setup_data(memory, fdt_paddr)
