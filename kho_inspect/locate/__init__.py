"""What the command line does not give: root FDTs, pointers to them, scratch table, page size."""
