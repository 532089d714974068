"""The three mains: the daemon, its admin port, and the process that trains."""
