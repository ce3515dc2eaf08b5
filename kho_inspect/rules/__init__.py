"""Handover → findings: one function per rule, whose docstring is what ``explain`` prints."""
