"""Exit statuses. Of a signal that ends the process: 128 plus its number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kho_inspect.render.safe import safe

if TYPE_CHECKING:
    from collections.abc import Callable

    from kho_inspect.model.handover import Handover
    from kho_inspect.rules.engine import Verdict

CLEAN = 0
FINDINGS = 1
USAGE = 2
UNREADABLE = 3
CANNOT_JUDGE = 4
INTERNAL = 70
"""An error of the program itself, as EX_SOFTWARE of sysexits.h."""
EXHAUSTED = 71
"""Too little memory, or too few file descriptors, as EX_OSERR of sysexits.h."""
INTERRUPTED = 130
BROKEN_PIPE = 141


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
    """The status of commands that show: 1 for damage, 4 and a caution where nothing follows.

    That is where the map is none of this dump, or the ABI not known, assumed or not.
    """
    doubt = misfit_of(handover) or _foreign(handover)
    if doubt is None:
        return FINDINGS if handover.faults else CLEAN
    caution = f"kho-inspect: caution: {doubt}\n  try: kho-inspect check DUMP DTB"
    click.echo("\n".join(map(safe, caution.split("\n"))), err=True)
    return CANNOT_JUDGE
