"""Fuzzing: entries that take any bytes, and a script that runs them; see README.md here."""
