"""The clock of the system, read nowhere else."""

import time


class SystemClock:
    """The real body of the port `Clock`."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def now(self) -> int:
        """Return microseconds since the epoch."""
        return time.time_ns() // 1000


clock = SystemClock()
