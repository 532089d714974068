"""Orders to the training child and its replies, as lines between two processes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from subprocess import Popen, TimeoutExpired
from threading import Lock, Timer
from typing import TypeVar

import msgspec

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.instrumentation.models import trainer_restarted

FINISH_SECONDS = 10.0
_PROGRESS = b'{"progress":'


class TrainingOrder(msgspec.Struct, frozen=True, omit_defaults=True, tag="one"):
    """Order to train a series, or the metrics of a device together.

    `window_days` limits the history. A refit continues from the serving model.
    """

    device_id: str
    metric_name: str
    window_days: float | None = None
    metrics: tuple[str, ...] = ()
    refit: bool = False

    @property
    def key(self) -> SeriesKey:
        """Key of the series or device."""
        return SeriesKey(self.device_id, self.metric_name)


class FleetTrainingOrder(msgspec.Struct, frozen=True, omit_defaults=True, tag="many"):
    """Order to train series and devices at once, in processes of the child: a reply for each."""

    keys: tuple[SeriesKey, ...]
    window_days: float | None = None
    processes: int | None = None  # None: as the settings say


class TrainingProgress(msgspec.Struct, frozen=True):
    """Progress of an order in percent."""

    progress: int


Order = TrainingOrder | FleetTrainingOrder
OnProgress = Callable[[int], None]
Reply = TypeVar("Reply")


def unheard(_: int) -> None:
    """Ignore the progress of an automatic training."""


class TrainingReply(msgspec.Struct, frozen=True):
    """Reply to an order: a new model, or a reason, which is no fault of the series if `away`."""

    seconds: float
    model_id: str | None = None
    reason: str = ""
    away: bool = False


class FleetTrainingReply(msgspec.Struct, frozen=True):
    """Reply for one key of a fleet order."""

    key: SeriesKey
    answer: TrainingReply


Replies = list[FleetTrainingReply]
OnReply = Callable[[FleetTrainingReply], None]


class _Lost(Exception):
    """The child replies no more; the message says why."""


class Child:
    """The training process, started at the first order and again after it was lost."""

    def __init__(self, start: Callable[[], "Popen[bytes]"], deadline: float) -> None:
        self._start = start
        self._deadline = deadline
        self._process: Popen[bytes] | None = None
        self.closed = False
        self._lock = Lock()
        self._one_at_a_time = Lock()

    def ask(self, order: TrainingOrder, tell: OnProgress = unheard) -> TrainingReply:
        """Send an order and return its reply, within the deadline.

        A child that takes longer is killed, which ends the read. `tell` receives the progress. Any
        thread may ask; orders wait for each other.
        """
        try:
            with self._one_at_a_time:
                [answer] = self._answers(order, 1, TrainingReply, tell)
        except _Lost as lost:
            return TrainingReply(0.0, None, str(lost))
        return answer

    def ask_many(
        self, order: FleetTrainingOrder, hear: OnReply, tell: OnProgress = unheard
    ) -> None:
        """Send a fleet order and pass on a reply for each key, in any order, within the deadline.

        Replies are missing where the child was lost.
        """
        with self._one_at_a_time, suppress(_Lost):
            for answer in self._answers(order, len(order.keys), FleetTrainingReply, tell):
                hear(answer)

    def interrupt(self) -> None:
        """End the training under way; its order gets no model."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def finish(self) -> None:
        """Let the child and its processes end by themselves; no reply is waited for."""
        with self._lock:
            process = self._process
        if process is not None:
            with suppress(OSError, TimeoutExpired):
                assert process.stdin is not None  # noqa: S101 - it is a pipe by the start
                process.stdin.close()
                process.wait(FINISH_SECONDS)
        self.close()

    def close(self) -> None:
        """End the child for good."""
        with self._lock:
            self.closed = True
        self._end()

    def _running(self) -> "Popen[bytes]":
        """Return the process, started if need be, never after the end: it raises _Lost then."""
        with self._lock:
            if self.closed:
                raise _Lost("no more is trained: the end has come")
            self._process = self._process or self._start()
            return self._process

    def _answers(
        self, order: Order, count: int, kind: type[Reply], tell: OnProgress
    ) -> Iterator[Reply]:
        """Yield so many replies. Raises _Lost where a reply is missing."""
        try:
            process = self._running()
            with self._killed_in_time(process):
                _write(process, msgspec.json.encode(order) + b"\n")
                for _ in range(count):
                    yield msgspec.json.decode(_line(process, tell), type=kind)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            self._end()
            trainer_restarted(str(error))
            raise _Lost("the training process ended, or took too long") from error

    @contextmanager
    def _killed_in_time(self, process: "Popen[bytes]") -> Iterator[None]:
        killer = Timer(self._deadline, process.kill)
        killer.daemon = True
        killer.start()
        try:
            yield
        finally:
            killer.cancel()

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


def _write(process: "Popen[bytes]", line: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe by the start, as is the other
    process.stdin.write(line)
    process.stdin.flush()


def _line(process: "Popen[bytes]", tell: OnProgress) -> bytes:
    """Return the next line that is a reply."""
    assert process.stdout is not None  # noqa: S101
    while (line := process.stdout.readline()).startswith(_PROGRESS):
        tell(msgspec.json.decode(line, type=TrainingProgress).progress)
    return line
