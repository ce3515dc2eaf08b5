"""``python -m kho_inspect`` and the ``kho-inspect`` console script."""

from __future__ import annotations

import os
import sys

from kho_inspect.cli import process


def main() -> None:
    """Run the command line and exit with its status."""
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
