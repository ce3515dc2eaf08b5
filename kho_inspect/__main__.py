"""``python -m kho_inspect`` and the ``kho-inspect`` console script."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # ``-m`` puts the working directory first: a module beside a dump must not be run.
    del sys.path[0]

import gc
import os
from contextlib import suppress

from kho_inspect.cli import exit_codes, process


def main() -> None:
    """Run the command line and exit with its status."""
    # A model of a million objects, none of them in a cycle, is needed until the end: garbage
    # collections in between would take a third of all time, and free nothing.
    gc.disable()
    try:
        process.prepare()
        process.need_memory()
        # Imported here: that takes long enough for a Ctrl-C, which is handled from now on.
        from kho_inspect.cli.main import run

        status = run()
        # What was printed before an error may be left. All else is the system's to free: object
        # by object it would take as long as a small check.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status)
    except process.Stopped as stopped:
        # Without flushing what is buffered: its reader was most likely stopped as well.
        os._exit(stopped.status)
    except Exception as error:  # noqa: BLE001  what shows a traceback may be missing as well
        status, message, hint = exit_codes.ending(error)
        os.write(2, exit_codes.complaint(message, hint).encode(errors="backslashreplace"))
        os._exit(status)


if __name__ == "__main__":
    main()
