"""Carving: what the structures of a handover yield by their contents, when no map leads to them."""
