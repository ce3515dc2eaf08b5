"""``python -m kho_inspect`` and the ``kho-inspect`` console script."""

from __future__ import annotations

import gc
import os
import sys

from kho_inspect.cli import process


def main() -> None:
    """Run the command line and exit with its status."""
    # A model of a million objects, none of them in a cycle, that lives until the end: collections
    # in between would only take their time, a third of all.
    gc.disable()
    try:
        process.prepare()
        # Late: it takes its time, and a Ctrl-C meanwhile is to be as quiet as any other.
        from kho_inspect.cli.main import run

        status = run()
        process.let_signals_kill()
    except process.Stopped as stopped:
        # Past whatever is buffered: who would read it was most likely stopped as well.
        os._exit(stopped.status)
    sys.exit(status)


if __name__ == "__main__":
    main()
