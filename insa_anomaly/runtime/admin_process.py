"""The process of the admin port: started, restarted if it ended by itself, adjusted, and ended."""

from collections.abc import Callable
from contextlib import suppress
from subprocess import Popen, TimeoutExpired
from threading import Lock

from insa_anomaly.core.operations.backoff import BackoffPolicy, backoff
from insa_anomaly.instrumentation.admin_port import admin_process_ended
from insa_anomaly.ports.clock import Clock
from insa_anomaly.runtime.step import Step
from insa_anomaly.settings.load import Settings

TURN_SECONDS = 0.5
FINISH_SECONDS = 5.0
STEADY_SECONDS = 60.0  # a process that ran so long had no part in earlier failures
RETRY = BackoffPolicy(first=1.0, last=60.0)


class AdminProcess(Step):
    """Supervision of a single process, which `start` starts.

    A line on its standard input is the settings to put in force; the end of the input ends it.
    """

    def __init__(
        self, start: Callable[[Settings], "Popen[bytes]"], settings: Settings, clock: Clock
    ) -> None:
        self._start = start
        self._settings = settings
        self._clock = clock
        self._process: Popen[bytes] | None = None
        self._began_at = 0.0
        self._restart_at = 0.0
        self._failures = 0
        self._lock = Lock()

    @property
    def trouble(self) -> str | None:
        """Reason why no process answers on the port; None while a process runs or starts."""
        process = self._process
        status = None if process is None else process.poll()
        ended = f"the process of the admin port ended with status {status}"
        return None if status is None else ended

    def begin(self) -> None:
        """Start the process. The calling thread must live as long as the process."""
        with self._lock:
            self._end()
            self._process = self._start(self._settings)
            self._began_at = self._clock.monotonic()
            self._restart_at = 0.0

    def step(self, _: float) -> float:
        """Restart the process where it ended, after a pause that grows."""
        if self.trouble is None:
            return TURN_SECONDS
        now = self._clock.monotonic()
        if not self._restart_at:
            self._failures = 1 if now - self._began_at > STEADY_SECONDS else self._failures + 1
            self._restart_at = now + backoff(self._failures, RETRY, 0.0)
            admin_process_ended(self.trouble or "", self._restart_at - now)
        elif now >= self._restart_at:
            self.begin()
        return TURN_SECONDS

    def adjust(self, settings: Settings) -> None:
        """Put these settings in force, also for a process that is started later."""
        with self._lock, suppress(OSError):  # the process has just ended: the next is started so
            self._settings = settings
            if self._process is not None:
                assert self._process.stdin is not None  # noqa: S101 - a pipe by the start
                self._process.stdin.write(settings.model_dump_json().encode() + b"\n")
                self._process.stdin.flush()

    def finish(self) -> None:
        """End the process once it has answered its open requests."""
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
