"""Where physical bytes come from: one protocol, one module per file format."""

from kho_inspect.memory.base import PhysicalMemory, Presence, read_or_none, read_parts
from kho_inspect.memory.mapped import RamBlock
from kho_inspect.memory.probe import FORMATS, open_memory

__all__ = [
    "FORMATS",
    "PhysicalMemory",
    "Presence",
    "RamBlock",
    "open_memory",
    "read_or_none",
    "read_parts",
]
