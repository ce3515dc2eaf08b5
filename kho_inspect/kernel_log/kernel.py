"""One kernel of a dump: what its log and VMCOREINFO say of it."""

import re
from dataclasses import dataclass, field

from kho_inspect.kernel_log.printk import Entry, Ring
from kho_inspect.kernel_log.vmcoreinfo import VmcoreInfo

UNKNOWN = "unknown"
"""Release of a kernel of which only the log is left, without its first lines."""

BANNER = re.compile(r"Linux version (\S+) \(.+\) \(.+\) #\d+ .+")
_HEADS = {"Booting Linux on physical CPU 0x": "arm64", "BIOS-provided physical RAM map:": "x86_64"}
"""How lines of a log begin that one architecture alone prints."""
_COMMAND_LINE = re.compile(r"(?:Kernel c|C)ommand line: (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel that ran in this memory, or whose image stands there."""

    release: str
    version: str | None = None
    """The banner: ``Linux version 7.3.4 (…) … #1 SMP …``."""
    build_id: str | None = None
    architecture: str | None = None
    command_line: str | None = None
    info: VmcoreInfo | None = None
    entries: tuple[Entry, ...] = field(default=(), repr=False)
    lost: int = 0
    """Records of which nothing could be read."""
    order: int | None = None
    """1: of the kernels in this dump the first that ran. None: not known."""
    why: str = ""
    """Where the order is from."""


def kernel_of(release: str, info: VmcoreInfo | None, ring: Ring | None) -> Kernel:
    """What a log and VMCOREINFO say of a kernel."""
    entries = ring.entries if ring else ()
    lines = [entry.text for entry in entries]
    version = next((text for text in lines if BANNER.fullmatch(text)), None)
    command = next(filter(None, map(_COMMAND_LINE.fullmatch, lines)), None)
    known = (name for text in lines for head, name in _HEADS.items() if text.startswith(head))
    architecture = (info.architecture if info else None) or next(known, None)
    return Kernel(
        release,
        version,
        info.build_id if info else None,
        architecture,
        command[1] if command else None,
        info,
        entries,
        ring.lost if ring else 0,
    )


def release_of(banner: str) -> str:
    """``Linux version 7.3.4 (…`` → ``7.3.4``"""
    return banner.split(" ", 3)[2]
