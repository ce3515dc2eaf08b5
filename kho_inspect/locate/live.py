"""The running kernel's root FDTs and scratch areas, in debugfs. Read-only.

``kernel/liveupdate/kexec_handover_debugfs.c`` [6.16 to 7.3]; the memory is ``memory.kcore``'s.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kho_inspect.abi import MAP_PROPERTY
from kho_inspect.errors import KhoError, NotAHandoverError, UnreadableInputError
from kho_inspect.limits import DEFAULT_LIMITS
from kho_inspect.locate.root_fdt import locate_root_fdt, read_root_fdt
from kho_inspect.locate.scan import FoundFdt, Located, locate
from kho_inspect.locate.scratch import MAX_ENTRIES
from kho_inspect.memory import PhysicalMemory
from kho_inspect.memory.files import read_head
from kho_inspect.memory.kcore import AS_ROOT, refusals_explained
from kho_inspect.model.handover import RootFdt, Scratch

DEBUGFS = "/sys/kernel/debug"
AREAS = {"scratch": "kho_scratch", "bootmem": "kho_bootmem"}
"""What scratch is called in debugfs, and the option that sizes it: until 7.3, from 7.4 on."""
MAX_LINE = 20
"""``0xffffffffffffffff`` and a newline."""
MAX_COMMAND_LINE = 1 << 16


class LiveHandover(NamedTuple):
    """Where the running kernel shows the handover that was asked for."""

    path: str
    """The root FDT, or the file that it would be in."""
    shown: bool
    """A kernel that was handed something shows no ``out/fdt``: ``kho_init()`` returns before."""
    incoming: bytes
    """``in/fdt``, where the FDT that is not shown has to be told from it."""
    outgoing: bool
    scratch: Scratch | None


def live_handover(
    debugfs: str = DEBUGFS, proc: str = "/proc", *, incoming: bool = False
) -> LiveHandover:
    """What stands ready for the next kernel; with ``incoming``, what this kernel was handed.

    ``proc``: a directory with ``cmdline``, and in a kdump kernel ``vmcore``.
    Raises UnreadableInputError and NotAHandoverError with the reason as far as it shows.
    """
    root, options = Path(debugfs), _command_line(proc)
    came, out = root / "kho/in/fdt", root / "kho/out/fdt"
    try:
        mounted = root.is_dir() and any(root.iterdir())
        known = (root / "kho").is_dir()
        handed, shown = came.is_file(), out.is_file()
    except PermissionError as error:
        raise _kdump(options, proc) or UnreadableInputError(
            f"cannot look into {debugfs}: Permission denied", hint=AS_ROOT, source=debugfs
        ) from error
    if not (handed if incoming else handed or shown):
        raise _kdump(options, proc) or _nothing(debugfs, options, mounted, known, shown)
    with refusals_explained():
        before = read_head(str(came), DEFAULT_LIMITS.fdt) if not (incoming or shown) else b""
        scratch = _scratch(root / "kho/out", options)
    return LiveHandover(
        str(came if incoming else out), incoming or shown, before, not incoming, scratch
    )


def read_live_root(
    memory: PhysicalMemory,
    live: LiveHandover,
    assume_abi: str | None = None,
    limit: int = DEFAULT_LIMITS.fdt,
) -> tuple[RootFdt, Located | None]:
    """The root FDT, from debugfs or else out of memory, and what a scan found if there was one.

    Raises as ``read_root_fdt`` does.
    """

    def is_own(found: FoundFdt) -> bool:
        # Neither what this kernel was handed, nor what is left of others.
        unwritten = found.memory_map == 0 and found.aligned
        return not live.incoming.startswith(found.data) and (found.preserved or unwritten)

    located: Located | None = None
    if live.shown:
        with refusals_explained():
            root = read_root_fdt(live.path, memory, assume_abi, limit)
    else:
        try:
            located = locate(memory)
            root = locate_root_fdt(memory, located, assume_abi, is_own)
        except NotAHandoverError as error:
            raise NotAHandoverError(
                f"{live.path} is not there, as this kernel was itself handed something, and its "
                f"memory shows no other root FDT than that",
                hint="what this kernel was handed: --incoming",
                source=memory.path,
            ) from error
    # Up to 7.0, kho_finalize() fills it in, which LUO calls at reboot.
    unwritten = live.outgoing and not root.abi.radix and root.root.prop(MAP_PROPERTY) == bytes(8)
    return root._replace(unwritten=unwritten), located


def _scratch(out: Path, options: Sequence[str]) -> Scratch | None:
    """The areas as ``out/scratch_phys`` and ``out/scratch_len`` have them, or 7.4's names."""
    for name, option in AREAS.items():
        addresses = out / f"{name}_phys"
        if addresses.is_file():
            lengths = out / f"{name}_len"
            starts, sizes = _numbers(addresses), _numbers(lengths)
            if len(starts) != len(sizes):
                words = f"{addresses} has {len(starts)} areas, {lengths} has {len(sizes)}"
                raise UnreadableInputError(words, source=str(lengths))
            given = [word for word in options if word.startswith(f"{option}=")][-1:]
            source = " ".join([f"debugfs {addresses.name}", *given])
            return Scratch(tuple(zip(starts, sizes, strict=True)), source, None)
    return None


def _numbers(path: Path) -> list[int]:
    """One number a line, ``0x%llx``."""
    text = read_head(str(path), MAX_ENTRIES * MAX_LINE).decode("latin-1")
    try:
        found = [int(line, 16) for line in text.splitlines()]
    except ValueError:
        found = [-1]
    if any(not 0 <= number < 1 << 64 for number in found):
        raise UnreadableInputError(f"{path} is not one address or size a line", source=str(path))
    return found


def _command_line(proc: str) -> list[str]:
    """The kernel's own words of its command line; none where it cannot be read."""
    try:
        text = read_head(str(Path(proc, "cmdline")), MAX_COMMAND_LINE).decode("latin-1")
    except UnreadableInputError:
        return []
    words = text.split()
    return words[: words.index("--")] if "--" in words else words


def _kdump(options: Sequence[str], proc: str) -> KhoError | None:
    """What to say in a kdump kernel, where ``kho_memory_init()`` disables KHO; None elsewhere."""
    vmcore = Path(proc, "vmcore")
    given = any(word.startswith("elfcorehdr=") for word in options)
    if not given and not vmcore.exists():
        return None
    evidence = "elfcorehdr= is on its command line" if given else f"it has {vmcore}"
    return NotAHandoverError(
        f"this is a kdump kernel ({evidence}): KHO is disabled in it",
        hint=f"the crashed kernel's handover is in {vmcore}: copy it, then check the copy",
        source=str(vmcore),
    )


def _nothing(
    debugfs: str, options: Sequence[str], mounted: bool, known: bool, shown: bool
) -> KhoError:
    """Why debugfs does not have the FDT, as far as mounts and the command line show it."""
    if not mounted:
        return UnreadableInputError(
            f"debugfs is not mounted at {debugfs}",
            hint=f"mount -t debugfs none {debugfs}",
            source=debugfs,
        )
    if shown:
        words, hint = f"{debugfs}/kho has no in/fdt: nothing was handed to this kernel", None
    elif known:
        words, hint = (
            f"{debugfs}/kho has neither in/fdt nor out/fdt: nothing was handed over, and nothing "
            "is ready to be",
            "the kernel log says why: dmesg | grep KHO",
        )
    else:
        words, hint = _no_kho(options)
        words = f"{debugfs} has no kho: {words}"
    return NotAHandoverError(words, hint=hint, source=debugfs)


def _no_kho(options: Sequence[str]) -> tuple[str, str]:
    """Why the kernel has no Kexec HandOver, or none to look at, and what to do."""
    given = next((word for word in reversed(options) if word.startswith("kho=")), None)
    built = "a kernel with CONFIG_KEXEC_HANDOVER and CONFIG_KEXEC_HANDOVER_DEBUGFS"
    if given is None:
        seen = "kho=on is not on the command line" if options else "it is off"
        return f"this kernel has no Kexec HandOver, or {seen}", f"boot with kho=on, on {built}"
    # As kstrtobool() reads it, by its first letters.
    value = given.removeprefix("kho=").lower()
    if value[:1] in ("y", "t", "1") or value[:2] == "on":
        return (
            f"{given} is on the command line, so this kernel has no Kexec HandOver, does not show "
            "it, or could not reserve its scratch areas",
            f"{built} is needed; the kernel log says more: dmesg | grep KHO",
        )
    return f"{given} on the command line switches it off", f"boot with kho=on, on {built}"
