"""``locate`` on the console."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kho_inspect.kernel_log.handed import writer_of
from kho_inspect.kernel_log.kernel import Kernel
from kho_inspect.locate.scan import FoundFdt, Located
from kho_inspect.model.handover import Role, Scratch
from kho_inspect.render.console import grid, most, plain
from kho_inspect.render.log import boot_words, kernel_words
from kho_inspect.units import human_size, plural

MAX_LISTED = 20


def print_located(
    console: Console, located: Located, scratch: Scratch | None, kernels: Sequence[Kernel] = ()
) -> None:
    """Candidates best first, each with the reason; then the scratch areas."""
    listed = [
        (found.paddr, f"{found.role}: {found.compatible}, {found.size_words}", _why(found, kernels))
        for found in located.fdts
    ]
    listed += [
        (place.paddr, f"{Role.STALE}: no root FDT stands there any more", place.why)
        for place in located.vacated
    ]
    for number, (paddr, words, why) in enumerate(shown := most(listed, MAX_LISTED)):
        best = number == 0 and bool(located.fdts)
        mark = Text("✔", "green") if best and located.fdts[0].valid_tree else Text(" ")
        line = plain(f"{paddr:#x}  {words}", "bold" if best else "")
        console.print(Text.assemble(mark, " ", line))
        console.print(grid([("", plain(why, "dim"))], 4))
    if left := len(listed) - len(shown):
        console.print(Text(f"… {plural(left, 'more candidate')}: --json lists them", "dim"))
    if scratch is not None and scratch.areas:
        areas = ", ".join(f"{area} ({human_size(area.size)})" for area in scratch.areas)
        console.print(grid([("scratch", plain(f"{areas}; from {scratch.source}"))]))
    if located.passed_over:
        words = "places more that may be a root FDT were not looked at: too many for a sound dump"
        console.print(plain(f"{located.passed_over:,} {words}"))


def _why(found: FoundFdt, kernels: Sequence[Kernel]) -> str:
    writer = writer_of(found.root.strings("compatible"), found.role is Role.OUTGOING, kernels)
    return found.why + (f", written by Linux {writer.release}" if writer else "")


def print_none(console: Console, path: str, kernels: Sequence[Kernel]) -> None:
    """That there is no root FDT, and what else the dump may still tell."""
    console.print(plain(f"no KHO root FDT in {path}", "bold red"))
    log = "log prints what its kernels said; " if any(one.entries for one in kernels) else ""
    console.print(grid([("try", plain(f"{log}carve looks for files by their contents"))]))


def print_kernels(console: Console, kernels: Sequence[Kernel]) -> None:
    """The kernels of the dump, in the order in which they ran."""
    for number, kernel in enumerate(kernels, 1):
        console.print(grid([(f"kernel {number}", plain(kernel_words(kernel), "bold"))]))
        details = [boot_words(kernel), *filter(None, (kernel.version, kernel.command_line))]
        console.print(grid([("", plain(line, "dim")) for line in details], 4))
