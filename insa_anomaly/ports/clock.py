"""The clock: the time of day, and the time that passes."""

from typing import Protocol


class Clock(Protocol):
    """The clock of the system. Any thread may call."""

    def now(self) -> int:
        """Return the time of day in microseconds since the epoch; it may be set back."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; they never go back."""

    def sleep(self, seconds: float, /) -> None:
        """Wait for so many seconds."""
