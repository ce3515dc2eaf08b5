"""Exit statuses. Of a signal that ends the process: 128 plus its number.

Imports no library at its top: a start that fails has a status and words, too.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from kho_inspect.render.safe import safe
from kho_inspect.units import plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from kho_inspect.errors import KhoError
    from kho_inspect.model.handover import Handover
    from kho_inspect.rules.engine import Verdict

CLEAN = 0
FINDINGS = 1
USAGE = 2
UNREADABLE = 3
CANNOT_JUDGE = 4
INTERNAL = 70
"""An error of the program itself or of its installation, as EX_SOFTWARE of sysexits.h."""
EXHAUSTED = 71
"""Too little memory, or too few file descriptors, as EX_OSERR of sysexits.h."""
INTERRUPTED = 130
BROKEN_PIPE = 141

REMEDIES = {
    errno.ENOMEM: "raise ulimit -v, or take a machine with more memory",
    errno.EMFILE: "raise ulimit -n",
    errno.ENFILE: "raise fs.file-max",
}
"""What to do about each shortage that ends with EXHAUSTED."""
_NO_SEGMENT = "failed to map segment"
"""The dynamic linker's words for ENOMEM."""


def shortage(error: BaseException | None) -> int | None:
    """The key of REMEDIES that an error comes from; None for any other error."""
    while error is not None:
        if isinstance(error, MemoryError):
            return errno.ENOMEM
        if isinstance(error, OSError) and error.errno in REMEDIES:
            return error.errno
        if isinstance(error, ImportError):  # which has no errno
            text = str(error)
            if _NO_SEGMENT in text:
                return errno.ENOMEM
            for number in REMEDIES:
                if os.strerror(number) in text:
                    return number
        error = error.__cause__ or error.__context__
    return None


def hint_of(error: KhoError) -> str | None:
    """Its own, but for a file that a shortage kept from being opened."""
    lack = None if isinstance(error.__cause__, MemoryError) else shortage(error)
    return error.hint if lack is None else REMEDIES[lack]


def ending(error: BaseException) -> tuple[int, str, str | None]:
    """Status, message and hint of an exception that is no message in itself."""
    lack = shortage(error)
    if lack is not None:
        return EXHAUSTED, f"cannot go on: {os.strerror(lack)}", REMEDIES[lack]
    if isinstance(error, ImportError):
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        return INTERNAL, f"badly installed: {reason}", "pip install --force-reinstall kho-inspect"
    where = error.__traceback__
    while where and where.tb_next:
        where = where.tb_next
    place = f" in {where.tb_frame.f_code.co_name}() ({where.tb_lineno})" if where else ""
    message = f"internal error: {type(error).__name__}{place}: {error}"
    return INTERNAL, message, "report it, with the command and the two files if you can"


def complaint(message: str, hint: str | None) -> str:
    """The lines on stderr."""
    return f"kho-inspect: {safe(message)}\n" + (f"  try: {safe(hint)}\n" if hint else "")


def verdict_status(
    verdict: Verdict, threshold: int, required: Callable[[str], bool] = lambda code: False
) -> int:
    """The status that CI goes by: findings that stand, then whether anything can be said."""
    from kho_inspect.rules.base import Severity
    from kho_inspect.rules.engine import cannot_judge, standing

    if threshold > Severity.FATAL:
        return CLEAN
    if standing(verdict, threshold):
        return FINDINGS
    return CANNOT_JUDGE if cannot_judge(verdict, required) else CLEAN


def misfit_of(handover: Handover) -> str | None:
    """Why nothing follows from the map of this dump; None where its map reads as one."""
    from kho_inspect.inspection import case_of
    from kho_inspect.render.names import message_text
    from kho_inspect.rules.statements import capture_of

    capture = capture_of(case_of(handover))
    if not capture.fits:
        return f"capture {capture.state.value}: {message_text(capture.reasons[0])}"
    return None if handover.fdt.known else _foreign(handover)


def _foreign(handover: Handover) -> str | None:
    """What is said of an ABI that is not known, assumed or not; None of any other."""
    from kho_inspect.inspection import case_of
    from kho_inspect.render.names import message_text
    from kho_inspect.rules.root_fdt import compatible_unknown

    found = compatible_unknown.run(case_of(handover))
    return next((message_text(one.message) for one in found), None)


def handover_status(handover: Handover) -> int:
    """The status of commands that show: 1 for damage, 4 where nothing follows; stderr has why.

    That is where the map is none of this dump, or the ABI not known, assumed or not.
    """
    doubt = misfit_of(handover) or _foreign(handover)
    if doubt is None and not handover.faults:
        return CLEAN
    import click

    why = f"caution: {doubt}" if doubt else f"damaged: {plural(len(handover.faults), 'fault')}"
    click.echo(complaint(why, "kho-inspect check DUMP DTB"), nl=False, err=True)
    return CANNOT_JUDGE if doubt else FINDINGS
