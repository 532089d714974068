"""What decides: readings, windows, forests, verdicts; no I/O, no clock, no threads."""
