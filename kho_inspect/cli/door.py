"""The door through which all text leaves: to stdout and stderr."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from kho_inspect.render.safe import ascii_marks, no_command


class Door:
    """A text stream in which no line is a workflow command, and marks fit the encoding."""

    encoding = "utf-8"
    """What may be written. (click would write around a stream that is ASCII.)"""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        """For documents, which have escapes of their own."""
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
        self._ascii = not encoding.startswith("utf")
        self._line = ""
        """The begun line, as far as it may be part of a command."""

    def write(self, text: str) -> int:
        """Write ``text``; a command is found even where it comes in pieces."""
        shown = no_command(self._line + text)[len(self._line) :]
        self.stream.write(ascii_marks(shown) if self._ascii else shown)
        begun = max(text.rfind("\n"), text.rfind("\r")) + 1
        line = text[begun:] if begun else self._line + text
        # Of a line that has begun otherwise, only the end counts.
        self._line = line if line.strip() in ("", ":") else f"-{line[-2:]}"
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def doors() -> Iterator[None]:
    """Within, stdout and stderr are doors."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Door(before[0]), Door(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def document_stream() -> TextIO:
    """stdout without the door."""
    stream = sys.stdout
    return stream.stream if isinstance(stream, Door) else stream
