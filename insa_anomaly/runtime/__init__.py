"""The moving parts: the readers of the log, the trainer, the daemon that runs them."""
