"""The one exception tree.

An exception ends a run: there is nothing (left) to inspect. Damage *inside* a handover is
never an exception, it is a :class:`kho_inspect.model.faults.Fault`.
"""


class KhoError(Exception):
    """Base of everything kho-inspect raises on purpose.

    ``message`` says what is wrong and where, ``hint`` what to try. ``paddr`` and ``size``
    (bytes) name the physical memory concerned, ``source`` the input file, where there is one.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        paddr: int | None = None,
        size: int | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.paddr = paddr
        self.size = size
        self.source = source


class UnreadableInputError(KhoError):
    """A file that cannot be opened, or is not of a kind that we read."""


def unreadable(path: str, what: str, hint: str | None = None) -> UnreadableInputError:
    """The error that says ``what`` of a file: ``dump.bin is empty``."""
    return UnreadableInputError(f"{path} {what}", hint=hint, source=path)


class FdtError(KhoError):
    """A flattened device tree that fails validation; ``offset`` is the byte at fault."""

    data: bytes = b""
    """What was read of the file that is one, where there is a file."""

    def __init__(
        self, message: str, *, offset: int, hint: str | None = None, source: str | None = None
    ) -> None:
        super().__init__(message, hint=hint, source=source)
        self.offset = offset


class TruncatedFdtError(FdtError):
    """The header is sound but promises ``totalsize`` bytes of which only ``have`` are there."""

    def __init__(self, *, totalsize: int, have: int, source: str | None = None) -> None:
        words = f"its header says {totalsize} bytes, only {have} are here"
        super().__init__(f"the FDT is truncated: {words}", offset=4, source=source)
        self.totalsize = totalsize
        self.have = have


class NotAHandoverError(KhoError):
    """No KHO root FDT where one was looked for: file, dump, behind a boot DTB, debugfs."""


class LostHandoverError(NotAHandoverError):
    """Something points to a root FDT, at ``paddr``, of which nothing is left in the dump."""


class SelectorError(KhoError):
    """A selector that names nothing in this handover: an error of usage."""


class MissingMemoryError(KhoError):
    """Physical memory was asked for that the dump cannot give; see the subclasses for why."""


class OutsideMemoryError(MissingMemoryError):
    """The range is in no memory that the dump declares to exist."""


class NotStoredMemoryError(MissingMemoryError):
    """The range exists on the machine, but its bytes are not in the dump."""


class ExcludedMemoryError(NotStoredMemoryError):
    """The range exists on the machine; the writer of the dump left it out on purpose."""


class ExpectationError(KhoError):
    """An expectation file that cannot be understood, or expects nothing."""
