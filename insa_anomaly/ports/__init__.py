"""Ports: small Protocols for everything that the daemon needs from outside, a file a part.

Each port has a real body in `adapters` and an in-memory body in `testing`; a single suite in
`tests/contracts` holds both. Times are integer microseconds since the Unix epoch (`int`), unless a
name says otherwise.
"""
