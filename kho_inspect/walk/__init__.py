"""Following physical pointers, with guards. Damage is recorded, never raised."""
