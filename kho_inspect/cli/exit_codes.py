"""Exit statuses. Of a signal that ends the process: 128 plus its number."""

CLEAN = 0
FINDINGS = 1
USAGE = 2
UNREADABLE = 3
CANNOT_JUDGE = 4
INTERNAL = 70
"""An error of the program itself, as EX_SOFTWARE of sysexits.h."""
INTERRUPTED = 130
BROKEN_PIPE = 141
