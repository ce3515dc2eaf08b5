"""Construct declarations of every on-memory layout, and nothing else.

One module per ABI header. ``views`` holds the two bridges to numpy.
"""
