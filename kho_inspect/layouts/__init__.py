"""Construct declarations of every on-memory layout, and nothing else.

One module per ABI header. ``numpy_view`` holds the two bridges to numpy.
"""
