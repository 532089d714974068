"""Answers for repeated requests."""

from typing import Protocol


class Cache(Protocol):
    """Answers for repeated requests, shared by all daemons; losable."""

    def get(self, name: str) -> bytes | None:
        """Return the stored value while it is valid.

        Never raises, never waits beyond its deadline.
        """

    def put(self, name: str, value: bytes, seconds: int) -> None:
        """Store a value for some seconds. Never raises, never waits beyond its deadline."""
