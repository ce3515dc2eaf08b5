"""``locate``: root FDTs, the scratch table and the kernels, out of the dump alone."""

from pathlib import Path

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_dump, takes_mode
from kho_inspect.cli.output import binary_stdout, complain
from kho_inspect.cli.progress import progress_bar


@click.command("locate", cls=Command)
@reads_dump
@click.option(
    "--write-dtb",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the best one there. -: to stdout, in place of the report.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists; write to a terminal.")
@takes_mode
def command(given: Input, write_dtb: Path | None, force: bool, mode: int) -> int:
    """Find root FDTs, the scratch table and the kernels in a dump, best candidate first."""
    from kho_inspect.kernel_log.kernels import find_kernels
    from kho_inspect.kernel_log.traces import Traces
    from kho_inspect.locate.scan import locate
    from kho_inspect.locate.scratch import read_scratch, read_sound_scratch
    from kho_inspect.recover.atomic import atomic_file, require_absent, require_replaceable

    out = binary_stdout(force) if str(write_dtb) == "-" else None
    if out and given.json:
        raise click.UsageError("--write-dtb - leaves no room for --json")
    if write_dtb is not None and not out:
        require_absent(write_dtb, force)
        require_replaceable(write_dtb, given.inputs())
    memory = given.open_memory()
    total = sum(extent.size for extent in memory.stored)
    traces = Traces()
    with progress_bar("scan", total) as advance:
        located = locate(memory, advance, also=traces.look)
    kernels = find_kernels(memory, traces)
    best = located.fdts[0] if located.fdts else None
    if best is None and write_dtb is not None:
        complain(f"no KHO root FDT in {memory.path}")
    pointers = [one for one in located.pointers if best is None or one.fdt == best.paddr]
    scratch = read_scratch(memory, pointers)
    if out:
        out.write(best.data if best else b"")
        return exit_codes.CLEAN if best is not None else exit_codes.UNREADABLE
    if not pointers:
        scratch = read_sound_scratch(memory, located.pointers)
    if write_dtb is not None and best is not None:
        with atomic_file(write_dtb, mode) as file:
            file.write(best.data)
    if given.json:
        from kho_inspect.render.located_json import locate_document
        from kho_inspect.render.log import kernels_document

        document = locate_document(memory, located, scratch, kernels)
        document["kernels"] = kernels_document(kernels)
        given.write_json({**document, "passed_over": located.passed_over})
    else:
        from kho_inspect.render.located import print_kernels, print_located, print_none

        print_located(given.console(), located, scratch, kernels)
        print_kernels(given.console(), kernels)
        if best is None:
            print_none(given.console(), memory.path, kernels)
    return exit_codes.CLEAN if best is not None else exit_codes.UNREADABLE
