"""Progress bars: on a terminal's stderr, and only when the work is long."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONG_WORK = 64 << 20
"""Bytes from which a progress bar is shown."""


@contextmanager
def progress_bar(
    what: str, total: int, *, beside_output: bool = True
) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of bytes done, out of ``total`` in all.

    Without ``beside_output`` there is no bar where stdout is the same terminal.
    """
    quiet = not beside_output and sys.stdout.isatty()
    if total < LONG_WORK or quiet or not sys.stderr.isatty():
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda size: bar.advance(task, size)
