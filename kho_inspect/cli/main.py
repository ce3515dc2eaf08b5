"""The command group: ``kho-inspect DUMP DTB`` is ``kho-inspect show DUMP DTB``."""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TextIO

import click

from kho_inspect import __version__
from kho_inspect.cli import exit_codes
from kho_inspect.cli.door import doors
from kho_inspect.errors import ExpectationError, KhoError, SelectorError
from kho_inspect.render.safe import safe

COMMANDS = {
    "show": "What it is, whether it is sound, and what to do (the default).",
    "check": "What the next kernel would do with this handover, and whether it is whole.",
    "tree": "The radix tree: nodes, addresses, what each leaf holds.",
    "ranges": "Preserved ranges: START-END (end exclusive), size, blocks per order.",
    "blobs": "Sub-node blobs, all or those called NAME (or that * and ? find).",
    "owners": "Who owns every preserved page; what nobody owns, and what dangles.",
    "addr": "Look addresses up: owner, block, map, sub-node, scratch.",
    "files": "List the files of all sessions: selector, bytes, folios, handler.",
    "read": "Show bytes of memory, or of one file, blob or region.",
    "find": "Find text or bytes in all stored memory: each place, and whose it is.",
    "extract": "Recover content: memfds, blobs, regions, ranges.",
    "locate": "Find root FDTs, the scratch table and the kernels in a dump, best candidate first.",
    "log": "The log of a kernel in the dump, as dmesg prints it.",
    "carve": "List what a dump yields by its contents alone: files, regions and blobs.",
    "pack": "Pack the handover into a small ELF core, to attach to a bug report.",
    "expect": "Write a starting file for check --expect from a good image.",
    "targets": "What each KERNEL accepts, and which can hand over to which.",
    "explain": "What a rule checks, why it matters, likely causes, who enforces it.",
}
"""Each is the command of that name in the module of that name beside this one; with the first
sentence of its help, so that ``--help`` imports none of them."""

DEFAULT = "show"
PROGRAM = "kho-inspect"


class LazyGroup(click.Group):
    """Imports a command's module when it is needed; without a command, it is ``show``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"kho_inspect.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {option for param in self.get_params(ctx) for option in param.opts}
        if args and args[0] == "help" and not Path("help").exists():
            asked = args[1:2]
            if asked and asked[0] not in {*COMMANDS, *own}:
                raise click.UsageError(f"no command {asked[0]!r}: --help lists them")
            args = [*asked, "--help"]
        if args and args[0] not in own and args[0] not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1, cutoff=0.75)
            if near and not Path(args[0]).exists():
                raise click.UsageError(f"no command or dump {args[0]!r}: did you mean {near[0]}?")
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 clean, 1 findings, 2 usage, 3 input unreadable or not a "
    "handover, 4 cannot judge, 70 an error of the program or of how it is installed, 71 out of "
    "memory or descriptors.",
    subcommand_metavar="[COMMAND] DUMP DTB [OPTIONS]",
)
@click.version_option(__version__, "-V", "--version", message="kho-inspect %(version)s")
def cli() -> None:
    """Look inside a Linux Kexec HandOver: a memory dump plus its root FDT.

    DUMP is physical memory (raw, ELF core, kdump, LiME; compressed or not), DTB the KHO root FDT
    (kho.dtb), from a file, a pipe, or stdin as -. Without a command the whole report is shown;
    without DTB, or with auto for it, the FDT is looked for in the dump.
    """


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line; every outcome is an exit code, none is a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with doors():
        return _run(sys.argv[1:] if args is None else list(args))


def _run(args: list[str]) -> int:
    try:
        code = _dispatch(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        _tell(shown.getvalue())
        return exit_codes.USAGE
    except BrokenPipeError:
        _abandon(sys.stdout)
        return exit_codes.BROKEN_PIPE
    except Exception as error:  # noqa: BLE001  one of ours must not pass for findings
        return _failed(error)
    return code if isinstance(code, int) else exit_codes.CLEAN


def _dispatch(args: list[str]) -> object:
    """What click's own ``main`` does, but it would make a closed pipe exit with 1: findings."""
    if f"_{PROGRAM.upper().replace('-', '_')}_COMPLETE" in os.environ:  # set by a shell
        return cli.main(args, prog_name=PROGRAM)
    if not args:  # click before 8.2 takes this for a question: stdout, and 0
        with cli.make_context(PROGRAM, args, resilient_parsing=True) as context:
            _tell(f"{context.get_help()}\n")
        return exit_codes.USAGE
    try:
        with cli.make_context(PROGRAM, args) as context:
            return cli.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code


def _failed(error: Exception) -> int:
    """Say what ended the run; its status."""
    status, message, hint = exit_codes.ending(error)
    lacking = status == exit_codes.EXHAUSTED
    if isinstance(error, KhoError):
        message, hint = error.message, exit_codes.hint_of(error)
        if not lacking:
            usage = isinstance(error, SelectorError | ExpectationError)
            status = exit_codes.USAGE if usage else exit_codes.UNREADABLE
    elif isinstance(error, OSError) and not lacking:
        _abandon(sys.stdout)
        status, hint = exit_codes.UNREADABLE, None
        message = f"cannot write the output: {error.strerror}"
    _tell(exit_codes.complaint(message, hint))
    return status


def _tell(text: str) -> None:
    """Write lines to stderr; where that fails too, the exit status remains."""
    try:
        # click's own messages repeat arguments.
        click.echo("\n".join(safe(line) for line in text.split("\n")), err=True, nl=False)
    except OSError:
        _abandon(sys.stderr)


def _abandon(stream: TextIO) -> None:
    """Keep the interpreter from flushing into the same broken file once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
