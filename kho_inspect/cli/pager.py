"""Output that is longer than a screen, on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def paged(console: Console) -> Iterator[Console]:
    """What is printed within goes through $PAGER on a terminal, elsewhere straight to stdout."""
    if not sys.stdout.isatty():
        yield console
        return
    os.environ.setdefault("LESS", "FRX")  # as git does: colours, and no pager for a single screen
    with console.pager(styles=console.color_system is not None):
        yield console
