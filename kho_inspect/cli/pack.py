"""``pack``: a small ELF core that holds just the handover."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kho_inspect.cli.exit_codes import CANNOT_JUDGE, handover_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_handover, takes_mode
from kho_inspect.cli.output import binary_stdout, complain
from kho_inspect.cli.progress import progress_bar
from kho_inspect.errors import LostHandoverError, NotAHandoverError
from kho_inspect.render.safe import safe
from kho_inspect.units import human_size

if TYPE_CHECKING:
    from kho_inspect.inspection import Opened
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.model.contents import Item
    from kho_inspect.model.handover import Handover


@click.command("pack", cls=Command)
@reads_handover
@click.option(
    "-o",
    "--output",
    metavar="FILE.elf",
    type=click.Path(path_type=Path),
    required=True,
    help="ELF core to write. -: to stdout.",
)
@click.option("--content", is_flag=True, help="Add all preserved pages: files and regions.")
@click.option(
    "--scratch/--no-scratch",
    "pointers",
    default=True,
    show_default=True,
    help="Add the scratch table, what points to root FDTs, and the kernels' logs.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.elf if it exists; write to a terminal.")
@takes_mode
def command(
    given: Input, output: Path, content: bool, pointers: bool, force: bool, mode: int
) -> int:
    """Pack the handover into a small ELF core, to attach to a bug report."""
    from kho_inspect.carve.carver import carve_widely
    from kho_inspect.inspection import inspect_opened, inspect_others
    from kho_inspect.memory.recording import Recorder
    from kho_inspect.recover.atomic import require_absent, require_replaceable
    from kho_inspect.recover.pack import plan, stream_packed, write_packed

    out = binary_stdout(force) if str(output) == "-" else None
    if out and given.json:
        raise click.UsageError("-o - leaves no room for --json")
    if not out:
        require_absent(output, force)
        require_replaceable(output, given.inputs())
    memory = given.open_memory()
    recorder = Recorder(memory)
    opened, lost = _open(given, recorder, pointers)
    handover = inspect_opened(opened, given.options) if opened else None
    others: list[Handover] = []
    carved: list[Item] = []
    if pointers and not given.options.live:
        others += inspect_others(opened, given.options) if opened else ()
        carved += carve_widely(recorder, given.options.limits)
    if lost and not (carved or isinstance(lost, LostHandoverError)):
        raise lost
    packed = plan(
        memory,
        handover,
        content=content,
        pointers=pointers,
        others=others,
        carved=carved,
        read=recorder if pointers else None,
    )
    with progress_bar("pack", packed.size) as advance:
        if out:
            stream_packed(memory, packed, out, advance)
            return _status(handover, lost)
        size = write_packed(memory, packed, output, advance, mode)
    if given.json:
        from kho_inspect.render.json import SCHEMA_VERSION

        given.write_json(
            {
                "schema_version": SCHEMA_VERSION,
                "file": str(output),
                "size": size,
                "stored_bytes": packed.size,
                "content": content,
            }
        )
    else:
        share = 100 * size / max(memory.size, 1)
        part = f"{share:.0f}" if share >= 1 else f"{share:.2g}"
        whole = human_size(memory.size)
        click.echo(f"{safe(str(output))}: {human_size(size)}, {part} % of {whole}")
    return _status(handover, lost)


def _open(
    given: Input, memory: PhysicalMemory, survey: bool
) -> tuple[Opened | None, NotAHandoverError | None]:
    """The handover, or why there is none and the one that a kernel prepares, where there is one."""
    from kho_inspect.inspection import open_root

    options = given.options
    try:
        return open_root(memory, given.dtb, options, survey=survey), None
    except NotAHandoverError as error:
        if not survey or given.dtb or options.live or options.root != "auto":
            raise
        lost = error
    try:
        return open_root(memory, None, options._replace(root="outgoing"), survey=True), lost
    except NotAHandoverError:
        return None, lost


def _status(handover: Handover | None, lost: NotAHandoverError | None) -> int:
    if lost is None:
        assert handover is not None
        return handover_status(handover)
    complain(f"caution: {lost.message}")
    return CANNOT_JUDGE
