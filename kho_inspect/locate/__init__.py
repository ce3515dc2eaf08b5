"""What nobody handed over: root FDTs, what points to them, the scratch table, the page size."""
