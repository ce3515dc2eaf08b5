"""``python -m kho_inspect`` and the ``kho-inspect`` console script."""

from __future__ import annotations

import sys

from kho_inspect.cli.main import run


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run())


if __name__ == "__main__":
    main()
