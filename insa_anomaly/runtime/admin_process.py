"""The process of the admin port, as the daemon looks after it: begun, begun again where it ended by itself, told of new settings, ended."""

from collections.abc import Callable
from contextlib import suppress
from subprocess import Popen, TimeoutExpired
from threading import Lock
from time import monotonic

from insa_anomaly import instrumentation
from insa_anomaly.core.operations.backoff import BackoffPolicy, backoff
from insa_anomaly.runtime.step import Step
from insa_anomaly.settings.load import Settings

TURN_SECONDS = 0.5
FINISH_SECONDS = 5.0
STEADY_SECONDS = 60.0  # it ran so long: what made it end before is over
RETRY = BackoffPolicy(first=1.0, last=60.0)


class AdminProcess(Step):
    """One at a time. `start` begins it; a line on its standard input are settings to be in force, and the end of that is its end."""

    def __init__(self, start: Callable[[Settings], "Popen[bytes]"], settings: Settings) -> None:
        self._start = start
        self._settings = settings
        self._process: Popen[bytes] | None = None
        self._began = self._again_at = 0.0
        self._failures = 0
        self._lock = Lock()

    @property
    def trouble(self) -> str | None:
        """Why nobody answers on the port; None where somebody does, or soon will."""
        process = self._process
        status = None if process is None else process.poll()
        return (
            None if status is None else f"the process of the admin port ended with status {status}"
        )

    def begin(self) -> None:
        """Begin it. The thread that calls must live as long as it."""
        with self._lock:
            self._end()
            self._process, self._began, self._again_at = (
                self._start(self._settings),
                monotonic(),
                0.0,
            )

    def step(self, _: float) -> float:
        """Begin it again where it ended, after a pause that grows; answers how long to wait for the next look."""
        if self.trouble is None:
            return TURN_SECONDS
        now = monotonic()
        if not self._again_at:
            self._failures = 1 if now - self._began > STEADY_SECONDS else self._failures + 1
            self._again_at = now + backoff(self._failures, RETRY, 0.0)
            instrumentation.admin_process_ended(self.trouble or "", self._again_at - now)
        elif now >= self._again_at:
            self.begin()
        return TURN_SECONDS

    def adjust(self, settings: Settings) -> None:
        """Put these settings in force, also for a process that is begun later."""
        with self._lock, suppress(OSError):  # it has just ended: the next one knows
            self._settings = settings
            if self._process is not None:
                assert self._process.stdin is not None  # noqa: S101 - a pipe by the start
                self._process.stdin.write(settings.model_dump_json().encode() + b"\n")
                self._process.stdin.flush()

    def finish(self) -> None:
        """Let it answer what it was asked, and end it."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError, TimeoutExpired):
            assert process.stdin is not None  # noqa: S101 - a pipe by the start
            process.stdin.close()
            process.wait(FINISH_SECONDS)
        process.kill()
        process.wait()
