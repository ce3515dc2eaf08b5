"""What a kernel in the dump printed of the handover that it was given."""

from typing import NamedTuple

from kho_inspect.units import PhysAddr


class Printed(NamedTuple):
    """One line of a kernel's log that says what became of a handover."""

    release: str
    """Of the kernel that printed it."""
    takes: str | None
    """The root string that this kernel takes, by its own words, else by its release."""
    text: str
    """As it stands in the log, without time."""
    accepted: bool
    """False: this kernel refused it, or panicked."""
    panicked: bool
    fdt: PhysAddr | None
    """The root FDT that the line names."""
    before: str | None
    """Release of the kernel that ran before, where known."""
    writes: str | None
    """The root string that the kernel before writes, by its release."""
    last: bool
    """Of the kernels in the dump it is the last that ran, and another one ran before."""
