"""The running kernel's own root FDT, in debugfs; its memory is ``memory.kcore``'s. Read-only."""

from __future__ import annotations

from pathlib import Path

from kho_inspect.errors import NotAHandoverError, UnreadableInputError

DEBUGFS = "/sys/kernel/debug"
FDTS = ("kho/in/fdt", "kho/out/fdt")
"""What this kernel was handed, else what it is about to hand over."""


def live_fdt(debugfs: str = DEBUGFS) -> str:
    """The FDT to look at: the incoming one, where this kernel was handed one."""
    root = Path(debugfs)
    try:
        found = next((root / name for name in FDTS if (root / name).is_file()), None)
        mounted = root.is_dir() and any(root.iterdir())
        known = (root / "kho").is_dir()
    except PermissionError as error:
        raise UnreadableInputError(
            f"cannot look into {debugfs}: Permission denied",
            hint="run it as root: sudo kho-inspect --live",
            source=debugfs,
        ) from error
    if found is not None:
        return str(found)
    if not mounted:
        raise UnreadableInputError(
            f"debugfs is not mounted at {debugfs}",
            hint=f"mount -t debugfs none {debugfs}",
            source=debugfs,
        )
    if not known:
        raise NotAHandoverError(
            f"{debugfs} has no kho: this kernel has no Kexec HandOver, or it is off",
            hint="boot with kho=on, on a kernel with CONFIG_KEXEC_HANDOVER and "
            "CONFIG_KEXEC_HANDOVER_DEBUGFS",
            source=debugfs,
        )
    raise NotAHandoverError(
        f"{debugfs}/kho has neither in/fdt nor out/fdt: nothing was handed over, and nothing is "
        "ready to be",
        source=debugfs,
    )
