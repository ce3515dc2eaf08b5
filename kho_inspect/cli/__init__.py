"""The command line: the only room with stdout, exit codes and progress bars."""
