"""What rules need, and what they find."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from kho_inspect.model.identity import Message, Path
from kho_inspect.units import PhysAddr


class Severity(IntEnum):
    """How bad a finding is, worst last."""

    INFO = 0
    WARNING = 1
    """Suspicious."""
    ERROR = 2
    """A consumer loses data."""
    FATAL = 3
    """The next kernel refuses, panics or corrupts."""

    @property
    def label(self) -> str:
        """``fatal``, ``error``, ``warning`` or ``info``."""
        return self.name.lower()


INFO, WARNING, ERROR, FATAL = Severity


class Need(Enum):
    """What a rule cannot do without; the value says how to provide it, or what spoils it."""

    FDT = "the root FDT could not be read"
    ABI = "the ABI is unknown (--assume-abi)"
    TREE = "the preserved-memory map could not be read"
    TRUSTED = "the dump was taken too late: memory has been recycled (KHO201)"
    SCRATCH = "no scratch table: --scratch START+LEN, or --boot-dtb FILE"
    SOUND_SCRATCH = "the scratch table is malformed (KHO304)"
    TARGET = "no --target given"
    FDT_IN_MEMORY = "the root FDT was not found in the dump"
    ALL_CLAIMS = (
        "what some memory is for is hidden: damage, unknown content, or sessions not serialized"
    )
    EXPECTATIONS = "no --expect given"


@dataclass(frozen=True, slots=True)
class Observation:
    """What a rule's function yields: the message, the place, and a milder severity if any."""

    message: Message
    paddr: PhysAddr | None = None
    path: Path = ()
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a handover."""

    code: str
    severity: Severity
    message: Message
    paddr: PhysAddr | None
    path: Path
    hint: str
