"""``check`` of several images in one process: which arguments are one image, and the answers."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.options import Input, write_document, write_text
from kho_inspect.cli.output import complain
from kho_inspect.errors import KhoError, UnreadableInputError
from kho_inspect.render.safe import safe

if TYPE_CHECKING:
    from kho_inspect.rules.engine import Verdict

MAX_LIST = 64 << 20
"""Bytes read of a file of arguments."""
_RANKS = (exit_codes.CLEAN, exit_codes.CANNOT_JUDGE, exit_codes.FINDINGS, exit_codes.UNREADABLE)
"""Statuses, the worst last."""


def images_of(given: Input, more: Sequence[str]) -> list[Input]:
    """One input for each image that the arguments name; none where they name one, as ever.

    Raises click.UsageError for options and arguments that mean no set of images, and
    UnreadableInputError for a list.
    """
    named = [given.dump, *([given.dtb or "auto"] if more or given.dtb else []), *more]
    if not more and not any(map(_is_list, named)):
        return []
    if given.options.live:
        raise click.UsageError("--live reads the running kernel: it takes no other images")
    if given.form in ("junit", "sarif"):
        raise click.UsageError(f"--format {given.form} is of one image; of several: json, github")
    return [given._replace(dump=dump, dtb=dtb) for dump, dtb in _pairs(_expanded(named))]


def check_all(
    images: Iterable[Input],
    judge: Callable[[Input], Verdict],
    status: Callable[[Verdict], int],
    target: str,
) -> int:
    """Judge one after the other, and answer each at once; returns the worst status.

    An image that cannot be read has its answer too, and costs no other one.
    """
    from kho_inspect.rules.engine import unread

    worst, count = exit_codes.CLEAN, 0
    for count, one in enumerate(images, 1):
        error = None
        try:
            verdict = judge(one)
            found = status(verdict)
        except KhoError as failure:
            error, verdict, found = failure, unread(failure.message, target), exit_codes.UNREADABLE
        worst = max(worst, found, key=_RANKS.index)
        if one.json:
            write_document(["[\n" if count == 1 else ",\n"])
        _answer(one, verdict, found, error)
        sys.stdout.flush()
        # An image is in cycles, and keeps its dump mapped; what is left is not looked at again.
        del verdict
        gc.collect()
        gc.freeze()
    if count and one.json:
        write_document(["]\n"])
    return worst


def _answer(one: Input, verdict: Verdict, status: int, error: KhoError | None) -> None:
    if one.form == "text":
        write_text([_summary(one.dump, verdict, status, error)])
    elif one.form == "line":
        from kho_inspect.render.lines import finding_lines

        write_text(f"{safe(one.dump)}\t{line}" for line in finding_lines(verdict))
        if error is not None:
            complain(error.message)
    else:
        one.write_verdict(verdict, error=error)


def _summary(dump: str, verdict: Verdict, status: int, error: KhoError | None) -> str:
    """Status, dump, the three statements and the worst finding, separated by tabs."""
    from kho_inspect.render.verdicts import counted

    decision = f"{verdict.decision.target} {verdict.decision.state.value}".lstrip()
    worst = "-"
    if error is not None:
        worst = error.message
    elif verdict.findings:
        first = verdict.findings[0]
        worst = f"{first.severity.label} {first.code}: {counted(first)}"
    words = dump, verdict.capture.state.value, decision, verdict.integrity.value, worst
    return "\t".join((str(status), *map(safe, words))) + "\n"


def _is_list(argument: str) -> bool:
    """Whether it is ``@FILE``, and not itself the name of a file."""
    return argument.startswith("@") and not os.path.lexists(argument)


def _expanded(arguments: Iterable[str]) -> Iterator[str]:
    """The arguments, in place of a list what stands in it: one a line."""
    from kho_inspect.memory.files import read_head

    for argument in arguments:
        if not _is_list(argument):
            yield argument
            continue
        data = read_head(argument[1:], MAX_LIST + 1)
        if len(data) > MAX_LIST:
            why = f"{argument[1:]} is no list of images: it has more than {MAX_LIST >> 20} MiB"
            raise UnreadableInputError(why, source=argument[1:])
        lines = (line.removesuffix("\r") for line in os.fsdecode(data).split("\n"))
        yield from filter(None, lines)


def _pairs(arguments: Iterable[str]) -> list[tuple[str, str | None]]:
    """Each dump with its device tree: behind it, or beside it, or (None) searched for in it."""
    pairs: list[tuple[str, str | None]] = []
    is_open = False
    for argument in arguments:
        if argument == "-":
            raise click.UsageError("of several images, none is read from stdin: name files")
        is_tree = argument == "auto" or _is_tree(argument)
        if is_tree and not is_open:
            raise click.UsageError(f"{argument} is a device tree, and no dump stands before it")
        if is_tree:
            pairs[-1] = pairs[-1][0], None if argument == "auto" else argument
        else:
            pairs.append((argument, _beside(argument)))
        is_open = not is_tree
    return pairs


def _is_tree(path: str) -> bool:
    from kho_inspect.layouts.fdt import FDT_MAGIC_BYTES
    from kho_inspect.memory.files import read_head

    try:
        return read_head(path, len(FDT_MAGIC_BYTES)) == FDT_MAGIC_BYTES
    except UnreadableInputError:  # as a dump it has a line that says so
        return False


def _beside(dump: str) -> str | None:
    """``A.dtb`` where it stands beside ``A.elf`` or ``A.elf.zst``."""
    stem = Path(dump)
    while stem.suffix:
        stem = stem.with_suffix("")
        tree = f"{stem}.dtb"
        if os.path.isfile(tree) and tree != dump:  # noqa: PTH113  # raises for no name
            return tree
    return None
