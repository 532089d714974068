"""Disk space held back for a full disk."""

from typing import Protocol


class Reserve(Protocol):
    """Disk space held back for a full disk. Any thread may call; no call raises."""

    @property
    def held(self) -> bool:
        """Whether the space is held."""

    def hold(self) -> bool:
        """Hold the space if the disk has enough of it; return whether the space is held."""

    def release(self) -> None:
        """Release the space, because the disk is full."""
