"""The process around the command line: its standard files, and the signals that end it.

Imports no other module of the package at its top: Ctrl-C must be handled from the first import on.
"""

import os
import signal
import sys
from types import FrameType
from typing import Any

LEAST_MEMORY = 96 << 20
"""Address space that numpy's libraries take; with less, OpenBLAS ends the process with 1."""

_handlers: list[Any] = []
"""Keeps alive what C code calls."""


class Stopped(BaseException):
    """A signal asks the process to end: raised in the main thread, so that files are cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def prepare() -> None:
    """Make sure of the standard files, and turn SIGINT and SIGTERM into Stopped."""
    # No linear algebra is done here: numpy's OpenBLAS would start a thread for each processor.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # With one of the first three closed (``>&-``), the next file opened would get its number:
    # a message for stderr would be written into a dump's copy.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        if number == 1:  # what is written there fails, as it should: it reaches no reader
            os.close(number)
            os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    for fd, name in (1, "stdout"), (2, "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w", closefd=False))  # noqa: SIM115  # for good
    # Each thread of numpy's OpenBLAS reserves memory at import, and aborts where there is none.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for one in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(one) is not signal.SIG_IGN:  # by nohup, or a shell's ``&``
            signal.signal(one, _stop)


def need_memory() -> None:
    """Raises OSError (ENOMEM) where a limit leaves too little for the imports."""
    import mmap
    import resource

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        mmap.mmap(-1, LEAST_MEMORY).close()


def _stop(number: int, frame: FrameType | None) -> None:
    # A second Ctrl-C must not interrupt the cleaning up.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise Stopped(number)


def exit_when_cut_short(path: str) -> None:
    """From now on, exit with a message when the mapped file ``path`` shrinks while it is read.

    Touching a page that is no more raises SIGBUS, which kills the process. Python's own handlers
    run between two instructions of its interpreter, but the one that reads would only fault again.
    So C code is called, through ctypes, and does not return. It may run Python, for a fault in
    reading a mapping leaves no lock of the interpreter's behind; ctypes takes the GIL where zlib or
    another library had released it.
    """
    import ctypes

    from kho_inspect.cli.exit_codes import UNREADABLE
    from kho_inspect.recover.atomic import remove_unfinished
    from kho_inspect.render.safe import no_command, safe

    message = (
        f"kho-inspect: {no_command(safe(path))} was cut short while it was read, "
        "or its disk failed\n"
        "  try: inspect a copy that nobody writes to\n"
    ).encode(errors="backslashreplace")

    def leave(number: int) -> None:
        try:
            remove_unfinished()
            if os.isatty(2):  # a progress bar may stand there, with the cursor hidden
                os.write(2, b"\r\x1b[K\x1b[?25h")
            os.write(2, message)
        finally:
            os._exit(UNREADABLE)

    handler_type = ctypes.CFUNCTYPE(None, ctypes.c_int)
    _handlers[:] = [handler_type(leave)]
    # Python's own wrapper of sigaction, whose struct differs between platforms.
    set_signal = ctypes.pythonapi.PyOS_setsig
    set_signal.argtypes = (ctypes.c_int, handler_type)
    set_signal.restype = ctypes.c_void_p
    set_signal(signal.SIGBUS, _handlers[0])
