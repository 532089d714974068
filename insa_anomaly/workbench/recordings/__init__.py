"""Recordings in files: read, evaluated, plotted, replayed."""
