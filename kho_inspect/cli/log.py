"""``log``: the kernel log of a dump, without debug information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_dump, write_text
from kho_inspect.cli.progress import progress_bar
from kho_inspect.errors import UnreadableInputError
from kho_inspect.render.safe import safe

if TYPE_CHECKING:
    from kho_inspect.kernel_log.kernel import Kernel


@click.command("log", cls=Command)
@reads_dump
@click.option(
    "--kernel",
    "wanted",
    metavar="N|RELEASE|BUILD-ID",
    help="Which kernel: its number, release or build id. Default: the last that was booted.",
)
@click.option("--kho", is_flag=True, help="Lines of KHO, LUO and their consumers, explained.")
@click.option("-x", "--levels", is_flag=True, help="Facility and level before each line.")
def command(given: Input, wanted: str | None, kho: bool, levels: bool) -> int:
    """The log of a kernel in the dump, as dmesg prints it."""
    from kho_inspect.kernel_log.kernels import find_kernels, scan_traces
    from kho_inspect.kernel_log.messages import of_handover

    memory = given.open_memory()
    with progress_bar("scan", sum(extent.size for extent in memory.stored)) as advance:
        kernels = find_kernels(memory, scan_traces(memory, advance))
    kernel = _choose(kernels, wanted, memory.path)
    entries = (entry for entry in kernel.entries if not kho or of_handover(entry.text))
    if given.json:
        from kho_inspect.render.log import log_document

        given.write_json(log_document(memory, kernels, kernel, entries))
        return exit_codes.CLEAN
    from kho_inspect.render.log import boot_words, kernel_words, log_lines

    carved = kernel.lost or any(entry.carved for entry in kernel.entries)
    if len(kernels) > 1 or carved:
        for number, one in enumerate(kernels, 1):
            mark = "▶" if one is kernel else " "
            click.echo(safe(f"{mark} {number} {kernel_words(one)}; {boot_words(one)}"), err=True)
    write_text(log_lines(entries, levels=levels, meanings=kho))
    return exit_codes.CLEAN


def _choose(kernels: Sequence[Kernel], wanted: str | None, path: str) -> Kernel:
    """The kernel that ``--kernel`` names, by default the last one; one that has a log."""
    if wanted is not None:
        known = [
            kernel
            for number, kernel in enumerate(kernels, 1)
            if wanted in (str(number), kernel.release)
            or (len(wanted) >= 6 and (kernel.build_id or "").startswith(wanted.lower()))
        ]
        if not known:
            there = ", ".join(f"{number}: {one.release}" for number, one in enumerate(kernels, 1))
            raise click.UsageError(f"no kernel {wanted!r} in the dump, which has {there or 'none'}")
        kernels = known
    logs = [kernel for kernel in kernels if kernel.entries]
    if not logs:
        raise UnreadableInputError(
            f"{path}: no kernel log, neither through VMCOREINFO nor by the banner of a kernel",
            hint="it is in the kernel's own memory: was that dumped, is --base right?",
            source=path,
        )
    return max(logs, key=lambda kernel: kernel.order or 0)
