"""The clock of the system; every other module takes the time as an argument."""

import time


def now() -> int:
    """Return the microseconds since the epoch."""
    return time.time_ns() // 1000
