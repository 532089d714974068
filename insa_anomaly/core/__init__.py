"""Decisions: readings, windows, forests, episodes; no I/O, no clock, no threads."""
