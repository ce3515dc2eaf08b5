"""Kernels and what they accept, and a table of which can hand over to which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from kho_inspect.errors import KhoError
from kho_inspect.model.kernel_image import KernelImage, Passing, can_hand_over
from kho_inspect.render.console import plain, table
from kho_inspect.render.json import SCHEMA_VERSION
from kho_inspect.units import human_size

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {Passing.YES: "green", Passing.PARTLY: "yellow", Passing.NO: "red"}


def print_targets(console: Console, kernels: Sequence[KernelImage]) -> None:
    """A row for each kernel; from two on, rows hand over to columns, with the reasons below."""
    made = table("", "kernel", "arch", "pages", "root", "LUO", "handlers", right=("", "pages"))
    without: dict[str, list[str]] = {}
    for at, kernel in enumerate(kernels, 1):
        if kernel.why_no_kho:
            without.setdefault(kernel.why_no_kho, []).append(str(at))
        made.add_row(
            str(at),
            plain(kernel.name),
            kernel.machine or "?",
            "?" if kernel.page_shift is None else human_size(1 << kernel.page_shift),
            plain(", ".join(kernel.roots) or "no KHO"),
            plain(", ".join(kernel.luo) or "-"),
            plain(", ".join(kernel.files) or "-"),
        )
    console.print(made)
    for why, numbers in without.items():
        console.print(f"no KHO: {', '.join(numbers)}: {why}")
    if any(kernel.release for kernel in kernels):
        console.print(Text("handlers: those in the image; modules may bring more", "dim"))
    if len(kernels) > 1:
        _print_matrix(console, kernels)


def _print_matrix(console: Console, kernels: Sequence[KernelImage]) -> None:
    numbers = [str(at) for at in range(1, len(kernels) + 1)]
    matrix = table("from \\ to", *numbers, right=("from \\ to",))
    reasons: dict[str, list[str]] = {}
    for old, number in zip(kernels, numbers, strict=True):
        cells = []
        for new, other in zip(kernels, numbers, strict=True):
            passing, why = can_hand_over(old, new)
            cells.append(Text(passing.value, _STYLES[passing]))
            if why and old.roots and new.roots:
                reasons.setdefault(f"{passing.value}: {why}", []).append(f"{number}→{other}")
        matrix.add_row(number, *cells)
    console.print(matrix)
    for why, pairs in reasons.items():
        console.print(plain(f"{', '.join(pairs)} {why}"))


def targets_document(kernels: Sequence[KernelImage], errors: Sequence[KhoError]) -> dict[str, Any]:
    """``targets --json``; ``handovers`` name kernels by their place in ``kernels``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kernels": [
            {
                "name": one.name,
                "release": one.release or None,
                "architecture": one.machine,
                "page_size": None if one.page_shift is None else 1 << one.page_shift,
                "root": list(one.roots),
                "luo": list(one.luo),
                "handlers": list(one.files),
                "others": list(one.others),
                "features": [
                    {
                        "name": feature.name,
                        "supported": f"{feature.supported:#x}",
                        "required": f"{feature.required:#x}",
                        "active": f"{feature.active:#x}",
                    }
                    for feature in one.table
                ],
                "no_kho": one.why_no_kho or None,
            }
            for one in kernels
        ],
        "handovers": [
            {"from": at, "to": to, "result": passing.value, "reason": why or None}
            for at, old in enumerate(kernels)
            for to, new in enumerate(kernels)
            if at != to
            for passing, why in (can_hand_over(old, new),)
        ],
        "unreadable": [{"path": error.source, "error": error.message} for error in errors],
    }
