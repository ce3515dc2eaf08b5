"""``targets``: what kernels accept, and which of them can hand over to which."""

import os

import click

from kho_inspect.abi import find_target
from kho_inspect.cli import exit_codes
from kho_inspect.cli.layout import Command
from kho_inspect.cli.process import exit_when_cut_short
from kho_inspect.errors import KhoError
from kho_inspect.render.safe import safe


@click.command("targets", cls=Command)
@click.argument("kernels", metavar="KERNEL...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour."
)
def command(kernels: tuple[str, ...], as_json: bool, color: str) -> int:
    """What each KERNEL accepts, and which can hand over to which.

    KERNEL is a vmlinux, bzImage, arm64 Image or EFI zboot file, a Debian package or a directory
    that holds kernels, or a name as --target takes it.
    """
    from kho_inspect.kernels.accepts import read_kernels
    from kho_inspect.model.kernel_image import KernelImage, of_table

    read: list[KernelImage] = []
    errors: list[KhoError] = []
    for name in kernels:
        known = find_target(name)
        if known is not None:
            read.append(of_table(known))
            continue
        if os.sep not in name and not os.path.exists(name):  # noqa: PTH110  # Path may raise
            raise click.UsageError(
                safe(f"{name!r} is no kernel image, and no kernel that is known")
            )
        exit_when_cut_short(name)
        for one in read_kernels(name):
            if isinstance(one, KhoError):
                errors.append(one)
            else:
                read.append(one)
    for error in errors:
        click.echo(f"kho-inspect: {safe(error.message)}", err=True)
    if as_json:
        from kho_inspect.cli.options import write_document
        from kho_inspect.render.json import stream
        from kho_inspect.render.targets import targets_document

        write_document(stream(targets_document(read, errors)))
    elif read:
        from kho_inspect.render.console import make_console
        from kho_inspect.render.targets import print_targets

        print_targets(make_console(color), read)
    return exit_codes.UNREADABLE if errors else exit_codes.CLEAN
