"""Blob bytes → model: what the sub-nodes of the root FDT point to."""
