"""``locate`` on the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kho_inspect.kernel_log.kernels import Kernel
from kho_inspect.locate.scan import Located
from kho_inspect.model.handover import Scratch
from kho_inspect.render.console import grid, plain
from kho_inspect.render.log import boot_words, kernel_words
from kho_inspect.units import human_size, plural

MAX_LISTED = 20


def print_located(console: Console, path: str, located: Located, scratch: Scratch | None) -> None:
    """Candidates best first, each with the reason; then the scratch areas."""
    if not located.fdts:
        console.print(plain(f"no KHO root FDT in {path}", "bold red"))
    for number, found in enumerate(located.fdts[:MAX_LISTED]):
        mark = Text("✔", "green") if number == 0 and found.valid_tree else Text(" ")
        words = f"{found.paddr:#x}  {found.compatible}, {found.size_words}"
        console.print(Text.assemble(mark, " ", plain(words, "bold" if number == 0 else "")))
        console.print(grid([("", plain(found.why, "dim"))], 4))
    if len(located.fdts) > MAX_LISTED:
        left = len(located.fdts) - MAX_LISTED
        console.print(Text(f"… {plural(left, 'more candidate')}: --json lists them", "dim"))
    if scratch is not None:
        areas = ", ".join(f"{area} ({human_size(area.size)})" for area in scratch.areas)
        console.print(grid([("scratch", plain(f"{areas}; from {scratch.source}"))]))


def print_kernels(console: Console, kernels: Sequence[Kernel]) -> None:
    """The kernels of the dump, in the order in which they ran."""
    for number, kernel in enumerate(kernels, 1):
        console.print(grid([(f"kernel {number}", plain(kernel_words(kernel), "bold"))]))
        details = [boot_words(kernel), *filter(None, (kernel.version, kernel.command_line))]
        console.print(grid([("", plain(line, "dim")) for line in details], 4))
