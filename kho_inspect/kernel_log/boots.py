"""Which logs are of one kernel, and who booted whom."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from kho_inspect.kernel_log.kernel import UNKNOWN, Kernel, kernel_of
from kho_inspect.kernel_log.printk import Ring

EARLY = 10**9
"""Nanoseconds from its start within which a kernel has its own log buffer."""
_EXEC_FROM = re.compile(r"KHO: exec from: (\S+) \(count (\d{1,9})\)")
_LEFT = re.compile(r"(?:kexec_core: )?Starting new kernel")


def without_copies(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Without rings that another one begins with.

    ``setup_log_buf()`` copies the records of the first, static ring into a larger one, and goes on
    there.
    """

    def texts(kernel: Kernel) -> list[tuple[str, int | None]]:
        return [(entry.text, entry.ts_nsec) for entry in kernel.entries]

    kept: list[Kernel] = []
    for kernel in sorted(kernels, key=lambda one: len(one.entries), reverse=True):
        mine = texts(kernel)
        # Even two boots of one build differ in the times of their records.
        if kernel.info or not any(texts(one)[: len(mine)] == mine for one in kept):
            kept.append(kernel)
    return [kernel for kernel in kernels if kernel in kept]


def joined(kernels: Sequence[Kernel]) -> list[Kernel]:
    """With the records of a static ring put before those of the larger one that went on.

    That one may have lost the first of them since. Records that both have are the same; without
    any, those of the static ring are from the first second, and all older.
    """
    kept = list(kernels)
    for early in kernels:
        others = [one for one in kept if one is not early and _goes_on(early, one)]
        if early.info or len(others) != 1 or not any(one is early for one in kept):
            continue
        (late,) = others
        first = min(_by_seq(late))
        before = tuple(one for one in early.entries if one.seq is not None and one.seq < first)
        lost = late.lost + first - max(_by_seq(early).keys() - _by_seq(late).keys()) - 1
        whole = kernel_of(UNKNOWN, late.info, Ring((*before, *late.entries), lost, ()))
        kept = [one for one in kept if one is not early]
        kept[[one is late for one in kept].index(True)] = replace(
            whole,
            release=early.release if late.release == UNKNOWN else late.release,
            version=whole.version or late.version or early.version,
            build_id=late.build_id or early.build_id,
        )
    return kept


def _by_seq(kernel: Kernel) -> dict[int, tuple[int | None, str]]:
    """Time and text of its records that have a number."""
    return {one.seq: (one.ts_nsec, one.text) for one in kernel.entries if one.seq is not None}


def _goes_on(early: Kernel, late: Kernel) -> bool:
    """Whether the log of ``late`` begins within or behind that of ``early``."""
    if early.version and late.version and early.version != late.version:
        return False
    mine, others = _by_seq(early), _by_seq(late)
    if not mine or not others or min(mine) >= min(others):
        return False
    if both := mine.keys() & others.keys():
        return all(mine[seq] == others[seq] for seq in both) and max(mine) in both
    last, first = early.entries[-1].ts_nsec, late.entries[0].ts_nsec
    return max(mine) < min(others) and (last or 0) <= min(first or 0, EARLY)


# -- who booted whom


def ordered(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """The kernels by the boot they are of, as far as their logs say."""
    if len(kernels) == 1:
        return (replace(kernels[0], order=1, why="the only kernel in the dump"),)
    boots: dict[int, tuple[float, str]] = {}
    left: list[int] = []
    stayed: list[int] = []
    for at, kernel in enumerate(kernels):
        lines = [entry.text for entry in kernel.entries]
        origin = next(filter(None, map(_EXEC_FROM.match, lines)), None)
        if origin:
            boots[at] = int(origin[2]), f"booted from {origin[1]}, count {origin[2]}"
        elif lines:
            gone = any(map(_LEFT.match, lines))
            (left if gone else stayed).append(at)
    # One that another was booted from comes before it, the one that nothing followed at the end.
    if len(left) == 1:
        boots[left[0]] = -1, "it started another kernel"
    if len(stayed) == 1 and (left or boots):
        boots[stayed[0]] = float("inf"), "the only one that started no other kernel"
    ranks = Counter(rank for rank, _ in boots.values())
    known = sorted((rank, at) for at, (rank, _) in boots.items() if ranks[rank] == 1)
    placed = [
        replace(kernels[at], order=number, why=boots[at][1])
        for number, (_, at) in enumerate(known, 1)
    ]
    seen = {at for _, at in known}
    return (*placed, *(kernel for at, kernel in enumerate(kernels) if at not in seen))
