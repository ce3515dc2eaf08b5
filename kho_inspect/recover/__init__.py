"""Taking content out of a dump: selectors, extraction, packing."""
