"""What was found, as frozen values: no I/O, nothing decided."""
