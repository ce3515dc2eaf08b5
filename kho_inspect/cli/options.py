"""Arguments and options that all commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kho_inspect.abi import ABIS, Kernel
from kho_inspect.cli.door import document_stream
from kho_inspect.cli.exit_codes import hint_of
from kho_inspect.cli.layout import Common
from kho_inspect.cli.live import LIVE_FDT, LIVE_MEMORY, take_live
from kho_inspect.cli.output import complain
from kho_inspect.cli.params import Address, Area, DumpFormat, Mode, RamMap, Root, Target
from kho_inspect.cli.process import exit_when_cut_short
from kho_inspect.cli.progress import progress_bar
from kho_inspect.errors import KhoError, SelectorError
from kho_inspect.geometry import PAGE_SHIFTS
from kho_inspect.limits import BUDGETS, Limits

if TYPE_CHECKING:
    from rich.console import Console

    from kho_inspect.inspection import Opened, Options
    from kho_inspect.memory import PhysicalMemory
    from kho_inspect.model.carved import Carving
    from kho_inspect.model.handover import Handover
    from kho_inspect.rules.engine import Verdict
    from kho_inspect.units import PhysAddr

REPORTS = ("text", "line", "json", "junit", "sarif", "github")
"""Forms of output: of ``check`` all, of the other commands the first two."""
_BEGUN = "kho_inspect.begun"
"""Key in the context of a command whose output was begun."""


class Input(NamedTuple):
    """What the user named, and ways to open it and to answer."""

    dump: str
    dtb: str | None
    """None: look for it in the dump."""
    options: Options
    """How to read both."""
    form: str
    """One of REPORTS."""
    color: str

    @property
    def json(self) -> bool:
        """Whether one JSON document is wanted."""
        return self.form == "json"

    def open_memory(self) -> PhysicalMemory:
        """Open the dump alone; what its file lacks goes to stderr."""
        from kho_inspect.inspection import open_dump

        with self.opening() as advance:
            memory = open_dump(self.dump, self.options, advance)
        for note in memory.notes:
            complain(f"caution: {memory.path}: {note}")
        return memory

    def open(self) -> Opened:
        """Open both files, or the running kernel."""
        from kho_inspect.inspection import open_inputs

        with self.opening() as advance:
            return open_inputs(self.dump, self.dtb, self.options, advance)

    def inspect(self) -> Handover:
        """Read the whole handover."""
        from kho_inspect.inspection import inspect_opened

        return inspect_opened(self.open(), self.options)

    def opening(self) -> AbstractContextManager[Callable[[int], None]]:
        """A context to open the dump in: with a progress bar where it is to be unpacked.

        From then on, a dump that shrinks ends the process with a message.
        """
        exit_when_cut_short(self.dump)
        path = Path(self.dump)
        packed = not self.options.live and path.suffix in (".gz", ".xz", ".zst", ".zstd")
        return progress_bar("unpack", path.stat().st_size if packed and path.exists() else 0)

    def inputs(self) -> tuple[str, ...]:
        """Paths of the files that are read."""
        named = (self.dump, self.dtb, self.options.boot_dtb)
        return tuple(path for path in named if path)

    def console(self) -> Console:
        """The console on stdout."""
        from kho_inspect.render.console import make_console

        return make_console(self.color)

    def write_json(self, document: dict[str, Any]) -> None:
        """One JSON document on stdout."""
        from kho_inspect.render.json import stream

        write_document(stream(document))

    def write_verdict(
        self, verdict: Verdict, fail_on: int = 0, error: KhoError | None = None
    ) -> None:
        """A verdict in the form that was asked for; ``error`` is why nothing could be judged."""
        if self.form == "json":
            from kho_inspect.render.check_json import check_document

            self.write_json(check_document(verdict, self.dump, self.dtb, error))
        elif self.form == "junit":
            from kho_inspect.render.junit import junit

            write_document(junit(verdict, self.dump, fail_on, error))
        elif self.form == "sarif":
            from kho_inspect.render.sarif import sarif

            write_document(sarif(verdict, self.dump, error))
        elif self.form == "github":
            from kho_inspect.render.github import github

            write_document(github(verdict, self.dump, error))
        elif self.form == "line":
            from kho_inspect.render.lines import finding_lines

            write_text(finding_lines(verdict))
        elif error is None:  # which is on stderr
            from kho_inspect.render.findings import print_verdict

            print_verdict(self.console(), verdict)

    def write_error(self, error: KhoError, target: str) -> None:
        """The document of a command that could not read its input; none where one was begun."""
        if self.form == "text" or _BEGUN in click.get_current_context().meta:
            return
        from kho_inspect.rules.engine import unread

        self.write_verdict(unread(error.message, target), error=error)
        sys.stdout.flush()


def write_text(pieces: Iterable[str]) -> None:
    """Strings to stdout as they come, without click and Rich: for output of any length."""
    click.get_current_context().meta[_BEGUN] = True
    sys.stdout.writelines(pieces)


def write_lines(pieces: Iterable[str]) -> None:
    """The same for lines that people read: in the width of a terminal, where stdout is one."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        from kho_inspect.render.console import folded_lines

        pieces = folded_lines(pieces)
    write_text(pieces)


def write_document(pieces: Iterable[str]) -> None:
    """The same for JSON and other documents, which have escapes of their own."""
    click.get_current_context().meta[_BEGUN] = True
    document_stream().writelines(pieces)


def carved(given: Input, sessions: PhysAddr | None) -> tuple[PhysicalMemory, Carving]:
    """The memory, and what it yields by contents; DTB and map are not read."""
    from kho_inspect.carve.carver import carve

    memory = given.open_memory()
    options = given.options
    total = 0 if sessions is not None else sum(extent.size for extent in memory.stored)
    with progress_bar("scan", total) as advance:
        return memory, carve(
            memory,
            page_size=options.page_size,
            limits=options.limits,
            sessions=sessions,
            progress=advance,
        )


_DUMP = click.argument("dump", required=False)
_DTB = click.argument("dtb")
_OPTIONAL_DTB = click.argument("dtb", required=False)

_common = partial(click.option, cls=Common)

_DUMP_OPTIONS = (
    _common(
        "--base", type=Address(), default=0, help="Physical address of a raw dump's first byte."
    ),
    _common(
        "--map",
        "maps",
        type=RamMap(),
        multiple=True,
        help="A RAM block in a raw dump, PADDR:OFFSET:SIZE; repeat for each.",
    ),
    _common("--json", is_flag=True, help="One JSON document instead of text."),
    _common(
        "--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour."
    ),
)

_PAGE_SIZES = ("auto", *PAGE_SHIFTS)

_OPTIONS = (
    _common(
        "--page-size",
        type=click.Choice(_PAGE_SIZES, case_sensitive=False),
        metavar=f"[{'|'.join(_PAGE_SIZES)}]",  # click from 8.2 on would say 4k
        default="auto",
        help="Page size of the kernel that wrote the handover.",
    ),
    _common(
        "--assume-abi",
        type=click.Choice([abi.compatible for abi in ABIS]),
        help="Read the FDT as this ABI, whatever it says.",
    ),
    _common(
        "--root",
        type=Root(),
        default="auto",
        help="Which root FDT of a dump without DTB; auto: the incoming one, if any.",
    ),
)

_BUDGETS = {
    name: _common(
        f"--max-{name}",
        type=Address(),
        metavar="N",
        default=default,
        help=f"{text} Default: {default >> 20}M.",
    )
    for name, default, text in BUDGETS
}

_DUMP_FORMAT = _common(
    "--dump-format",
    "format",
    type=DumpFormat(),
    default="auto",
    help="raw, elf, lime, kdump, …; auto finds out.",
)


def reads_handover(
    function: Callable[..., int], more_arguments: bool = False, needs_dtb: bool = True
) -> Callable[..., int]:
    """Give a command the shared arguments; the function gets them as its first one, an Input.

    DTB may be left out, but for commands with ``more_arguments`` behind it; ``auto`` always does.
    Without ``needs_dtb`` there is none.
    """
    dtb = (_DTB if more_arguments else _OPTIONAL_DTB,) if needs_dtb else ()
    budgets = _BUDGETS.values()
    options = (*_OPTIONS, *LIVE_MEMORY, *LIVE_FDT, *_DUMP_OPTIONS, _DUMP_FORMAT, *budgets)
    return _with_input(function, (_DUMP, *dtb, *options))


_TARGET = click.option(
    "--target",
    type=Target(),
    help="Kernel to decide for: kho-v4, linux-7.1, a kernel image or package.",
)
_SCRATCH = (
    click.option(
        "--scratch", type=Area(), multiple=True, help="A scratch area, START+LEN; repeat for each."
    ),
    click.option("--boot-dtb", type=click.Path(), help="Boot DTB whose /chosen names the scratch."),
)


def takes_scratch(function: Callable[..., int]) -> Callable[..., int]:
    """The options that say where scratch is; they go into ``Input.options``."""
    for decorator in reversed(_SCRATCH):
        function = decorator(function)
    return function


def judged(function: Callable[..., int]) -> Callable[..., int]:
    """The options of commands that judge; the function gets ``question`` for ``target``."""

    @wraps(function)
    def wrapper(given: Input, target: tuple[str, Kernel] | None, **params: Any) -> int:
        from kho_inspect.inspection import Question

        name, kernel = target or ("", None)
        return function(given, question=Question(kernel, name), **params)

    decorated: Callable[..., int] = _TARGET(takes_scratch(wrapper))
    return decorated


takes_mode = click.option(
    "--mode",
    type=Mode(),
    metavar="OCTAL",
    default=0o600,
    help="Permissions of what is written; of directories with x.  [default: 600]",
)


def reads_dump(function: Callable[..., int]) -> Callable[..., int]:
    """The same for a command that needs no DTB."""
    options = (*LIVE_MEMORY, *_DUMP_OPTIONS, _DUMP_FORMAT, _BUDGETS["unpacked"])
    return _with_input(function, (_DUMP, *options))


def _with_input(
    function: Callable[..., int], decorators: tuple[Callable[[Any], Any], ...]
) -> Callable[..., int]:
    @wraps(function)
    def wrapper(**params: Any) -> int:
        dump, dtb = params.pop("dump"), params.pop("dtb", None)
        if live := take_live(params):
            dump, dtb = live
        if dump is None:
            raise click.UsageError("Missing argument 'DUMP'.")
        _require_one_stdin(dump, {**params, "dtb": dtb})
        given = Input(
            dump=dump,
            dtb=None if dtb == "auto" else dtb,
            form=_take_form(params),
            options=_take_options(params),
            color=params.pop("color"),
        )
        target, _ = params.get("target") or ("", None)
        try:
            return function(given, **params)
        except MemoryError as memory_error:
            error = KhoError(
                "out of memory", hint="a summary needs less: --json, or ranges --limit"
            )
            given.write_error(error, target)
            raise error from memory_error
        except SelectorError:
            raise
        except KhoError as error:
            error.hint = hint_of(error)
            given.write_error(error, target)
            raise

    decorated: Callable[..., int] = wrapper
    for decorator in reversed(decorators):
        decorated = decorator(decorated)
    return decorated


_STDIN = {"dtb": "DTB", "boot_dtb": "--boot-dtb", "expect": "--expect"}
"""Parameters for which ``-`` is stdin, as any PLACE of addr, and what people call them."""


def _require_one_stdin(dump: str, params: dict[str, Any]) -> None:
    """Raises click.UsageError where stdin is to be several inputs, or DUMP."""
    if dump == "-":
        raise click.UsageError("DUMP cannot be stdin: it is mapped, so copy it to a file first")
    users = [words for name, words in _STDIN.items() if params.get(name) == "-"]
    users += ["PLACE"] * params.get("places", ()).count("-")
    if len(users) > 1:
        hint = ", or auto for a DTB in the dump" if "DTB" in users else ""
        words = " and ".join(users)
        raise click.UsageError(f"- is stdin, which cannot be both {words}: name a file{hint}")


def _take_form(params: dict[str, Any]) -> str:
    """The form of output, removed from the parameters. Raises click.UsageError for two."""
    form, json = params.pop("form", None), params.pop("json")
    if json and form not in (None, "json"):
        raise click.UsageError(f"--json or --format {form}?")
    return "json" if json else form or "text"


def _take_options(params: dict[str, Any]) -> Options:
    """The reading options, removed from the parameters of a command."""
    from kho_inspect.inspection import Options
    from kho_inspect.memory import RamBlock

    budgets = {name: params.pop(f"max_{name}", default) for name, default, _ in BUDGETS}
    blocks = tuple(RamBlock(*parts) for parts in params.pop("maps"))
    named = params.keys() & set(Options._fields)
    taken = {name: params.pop(name) for name in named}
    return Options(blocks=blocks, limits=Limits(**budgets), **taken)
