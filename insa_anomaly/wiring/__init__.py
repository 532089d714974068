"""Factories: settings become parts, opened in order and closed in reverse.

Wiring, and the processes and commands above it, are the only modules that know concrete adapters.
"""
