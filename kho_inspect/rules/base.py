"""What rules need, and what they find."""

from collections.abc import Hashable
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


class About(Enum):
    """What a finding is about."""

    HANDOVER = "handover"
    CAPTURE = "capture"
    """The dump or the DTB file, not the memory that the kernel will see."""
    EXPECTATION = "expectation"


class Decision(Enum):
    """What the next kernel does with a handover, or because of a fault in it."""

    ACCEPTS = "accepts"
    """It boots with the handover; a fault costs data."""
    REFUSES = "refuses"
    """It boots without the handover, or a subsystem without its part."""
    PANICS = "panics"
    """It stops: by panic(), by a page fault, or with nothing printed before its console is up."""
    UNKNOWN = "unknown"


class Evidence(Enum):
    """What a finding rests on: whether it stands on an incomplete capture follows from that."""

    MEMORY = "memory that the dump stores"
    RAM = "where the machine has memory"
    """A dump that lacks RAM makes such a finding too."""
    FDT = "the bytes of the root FDT alone"
    """It stands on any dump."""
    READER = "the root FDT, and which kernel reads it"
    """It stands on any dump, and is no defect of the handover."""
    LOG = "what a kernel in the dump printed"
    """It stands on any dump, and is no defect of the handover; of that kernel alone it is true."""


class Subject(Enum):
    """What a rule is about; where there is none, the rule does not apply."""

    LUO = "LUO"
    MEMFD = "memfd"
    MEMBLOCK = "memblock"
    KHO_TEST = "kho_test"
    METADATA = "kexec-metadata"
    VMALLOC = "vmalloc area"
    RADIX = "radix tree"
    CHUNKS = "kho-v1 chunk list"


class Need(Enum):
    """What a rule cannot do without; the value says how to provide it, or what spoils it."""

    FDT = "the root FDT could not be read"
    ABI = "the ABI is unknown (--assume-abi)"
    TREE = "the preserved-memory map could not be read"
    MAP = "the preserved-memory map is not written yet: the kernel does so at the jump"
    SESSIONS = "LUO is not serialized yet: its sessions cannot be judged"
    TRUSTED = "the tree's memory holds something else (KHO201)"
    SCRATCH = "no scratch table: --scratch START+LEN, or --boot-dtb FILE"
    SOUND_SCRATCH = "the scratch table is malformed (KHO304)"
    TARGET = "no --target given"
    FDT_IN_MEMORY = "the root FDT was not found in the dump"
    ALL_CLAIMS = (
        "what some memory is for is hidden: damage, unknown content, or sessions not serialized"
    )
    EXPECTATIONS = "no --expect given"


MAX_PLACES = 256
"""Places of one finding that are kept; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a rule's function yields: the message, the place, and a milder severity if any."""

    message: Message
    paddr: PhysAddr | None = None
    path: Path = ()
    severity: Severity | None = None
    cause: Hashable = None
    """Observations of one rule that have the same cause, other than None, are one finding."""
    count: int = 1
    """Above 1 where this is what is left of many places."""
    evidence: Evidence | None = None
    """What it rests on, where that is not the rule's."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a handover."""

    code: str
    severity: Severity
    message: Message
    paddr: PhysAddr | None
    path: Path
    hint: str
    about: About
    decision: Decision
    """What the next kernel does because of it."""
    evidence: Evidence
    places: tuple[Observation, ...]
    """Where it shows: the first place is the finding's own; at most ``MAX_PLACES``."""
    count: int
    """How many places there are."""
