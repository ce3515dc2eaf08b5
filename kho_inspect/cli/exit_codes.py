"""What the shell gets to see. Of a signal that ends the process: 128 and its number."""

CLEAN = 0
FINDINGS = 1
USAGE = 2
UNREADABLE = 3
INTERRUPTED = 130
BROKEN_PIPE = 141
