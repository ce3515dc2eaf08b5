"""What the kernels of a dump printed of the handovers that they were given."""

import re
from collections.abc import Collection, Iterator, Sequence

from kho_inspect.abi import find_target
from kho_inspect.kernel_log.kernel import Kernel
from kho_inspect.kernel_log.messages import Outcome, known_message
from kho_inspect.model.handover import RootFdt
from kho_inspect.model.printed import Printed
from kho_inspect.units import PhysAddr

_FDT = re.compile(r"handover FDT \(0x([0-9a-f]{1,16})\)")
_TAKES = re.compile(r"is incompatible with '([^']+)'")
_DECIDES = (Outcome.ACCEPTED, Outcome.REFUSED, Outcome.PANICKED)


def printed_by(kernels: Sequence[Kernel]) -> Iterator[Printed]:
    """Each line that says whether a handover was taken, in the order in which it was printed."""
    last = max((kernel.order or 0 for kernel in kernels), default=0)
    for kernel in kernels:
        before = next(
            (one.release for one in kernels if one.order and one.order + 1 == kernel.order), None
        )
        for entry in kernel.entries:
            known = known_message(entry.text)
            if known is None or known.outcome not in _DECIDES:
                continue
            fdt, takes = _FDT.search(entry.text), _TAKES.search(entry.text)
            yield Printed(
                release=kernel.release,
                takes=takes[1] if takes and fdt else root_of(kernel.release),
                text=entry.text,
                accepted=known.outcome is Outcome.ACCEPTED,
                panicked=known.outcome is Outcome.PANICKED,
                fdt=int(fdt[1], 16) if fdt else None,
                before=before,
                writes=root_of(before) if before else None,
                last=last > 1 and kernel.order == last,
            )


def printed_of(
    printed: Sequence[Printed], root: RootFdt | None, named: Collection[PhysAddr], *, late: bool
) -> tuple[Printed, ...]:
    """The lines on one handover, whose root FDT stands or stood at one of ``named``.

    By the address that they name; of those that name none, the ones of the kernel that ran last,
    in a dump that is ``late``: something else stands where this handover stood.
    """
    strings = root.root.strings("compatible") if root else ()
    return tuple(
        one
        for one in printed
        if named
        and (
            one.last and late if one.fdt is None else one.fdt in named and one.takes not in strings
        )
    )


def writer_of(strings: Collection[str], outgoing: bool, kernels: Sequence[Kernel]) -> Kernel | None:
    """The kernel that wrote a root FDT with these strings, as far as releases and order tell."""
    able = [kernel for kernel in kernels if root_of(kernel.release) in strings]
    if len(able) > 1:
        last = max(kernel.order or 0 for kernel in kernels)
        able = [one for one in able if one.order and (one.order == last) == outgoing]
    return able[0] if len(able) == 1 else None


def root_of(release: str) -> str | None:
    """The root string that a release writes and takes; None of one that is not known."""
    kernel = find_target(release)
    return kernel.root if kernel else None
