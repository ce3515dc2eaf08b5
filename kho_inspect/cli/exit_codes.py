"""Exit statuses. Of a signal that ends the process: 128 plus its number."""

CLEAN = 0
FINDINGS = 1
USAGE = 2
UNREADABLE = 3
INTERRUPTED = 130
BROKEN_PIPE = 141
