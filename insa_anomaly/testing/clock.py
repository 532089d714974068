"""A clock that a test sets."""

from dataclasses import dataclass


@dataclass
class SettableClock:
    """The port `Clock`, which moves only when a test moves it.

    `time_us` is the time of day, `seconds` the monotonic time; `sleep` moves both.
    """

    time_us: int = 0
    seconds: float = 1000.0

    def now(self) -> int:
        """Return the time of day."""
        return self.time_us

    def monotonic(self) -> float:
        """Return the monotonic time."""
        return self.seconds

    def sleep(self, seconds: float, /) -> None:
        """Let the time pass at once."""
        self.time_us += round(seconds * 1e6)
        self.seconds += seconds
