"""Kernel images: what is packed where, and what the kernel in it accepts."""
