"""Comparisons of arrays under atheris, whose own tracing never lets go of their results."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

_SHIFT = {11: 0, 12: 4}.get(sys.version_info.minor, 5)
"""Where the bytecode of this Python has the number of a comparison."""
_COMPARISONS = (operator.lt, operator.le, operator.eq, operator.ne, operator.gt, operator.ge)


def leave_arrays_alone(atheris: Any) -> None:
    """Have arrays compared past atheris: a handover would leak some hundred kilobytes.

    To be called for every input, for atheris puts its own function in place when it starts.
    """
    trace: Callable[..., Any] = atheris._trace_cmp
    if isinstance(trace, FunctionType):
        return

    def compare(left: Any, right: Any, number: int, *rest: Any) -> Any:
        if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
            return _COMPARISONS[number >> _SHIFT](left, right)
        return trace(left, right, number, *rest)

    atheris._trace_cmp = compare
