"""Models for the stream: trains the series that ask for it, in a child process, and swaps in what the index says is active.

The index of models is what should be; the log is what is. Whoever trains, this process's child or a command run by hand, writes
the index; this thread sees the difference and writes model swaps into the log. The child is the only process of the daemon that
ever loads scikit-learn; it takes an order a line on standard input and answers a line for each series.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from subprocess import Popen, TimeoutExpired
from threading import Lock, Timer
from time import monotonic
from typing import Literal, TypeVar

import msgspec

from insa_anomaly import instrumentation
from insa_anomaly.core.device.detector import FEWEST_METRICS, METRIC_NAME
from insa_anomaly.errors import ModelFileError
from insa_anomaly.ports import ModelRow, Models, SeriesKey, Swap
from insa_anomaly.settings import Training

INDEX_POLL_SECONDS = 1.0
DEVICE_RETRY_SECONDS = 3600.0  # before a device whose metrics do not make a model is tried again
FINISH_SECONDS = 10.0
_PROGRESS = b'{"progress":'


class Order(msgspec.Struct, frozen=True, omit_defaults=True, tag="one"):
    """What the child is asked: train this series; or, where the metric is `_device`, these metrics of the device together.

    On the last `window_days`, where that is said; as a refit, it is learnt on from where the serving model stands.
    """

    device_id: str
    metric_name: str
    window_days: float | None = None
    metrics: tuple[str, ...] = ()
    refit: bool = False


class FleetOrder(msgspec.Struct, frozen=True, omit_defaults=True, tag="many"):
    """The child is asked to train these series and devices at once, in processes of its own; it answers a line each."""

    keys: tuple[SeriesKey, ...]
    window_days: float | None = None
    processes: int | None = None  # None: as the settings say


class Progress(msgspec.Struct, frozen=True):
    """What the child says on the way to its answer: percent."""

    progress: int


Tell = Callable[[int], None]
Said = TypeVar("Said")
Told = Callable[[ModelRow, Literal["train", "retrain"], float], None]
Failed = Callable[[SeriesKey, str, str], None]


def _nobody(_: int) -> None:
    """Nobody asks how far an automatic training is."""


def _unheard(row: ModelRow, kind: Literal["train", "retrain"], seconds: float) -> None:
    """Nobody asks what an automatic training made."""


def _unnoticed(key: SeriesKey, model_id: str, reason: str) -> None:
    """Nobody counts the refits that fail."""


class Answer(msgspec.Struct, frozen=True):
    """What the child answers: the id of the new model, or why there is none; `away`: which is no fault of the series."""

    seconds: float
    model_id: str | None = None
    reason: str = ""
    away: bool = False


class FleetAnswer(msgspec.Struct, frozen=True):
    """What the child answers of one of many."""

    key: SeriesKey
    answer: Answer


class Admission:
    """A token bucket: how many new series may be trained by now. Times are monotonic seconds."""

    def __init__(self, burst: int, a_minute: float, now: float) -> None:
        self._tokens = float(burst)
        self._most = float(burst)
        self._rate = a_minute / 60.0
        self._then = now

    def admit(self, now: float) -> bool:
        """Take one token, where there is one."""
        self._tokens = min(self._most, self._tokens + (now - self._then) * self._rate)
        self._then = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class _Lost(Exception):
    """The child answers no more; says why."""


class Child:
    """The process that trains, started when it is first asked and again after it was lost."""

    def __init__(self, start: Callable[[], "Popen[bytes]"], deadline: float) -> None:
        self._start = start
        self._deadline = deadline
        self._process: Popen[bytes] | None = None
        self.closed = False
        self._lock = Lock()
        self._one_at_a_time = Lock()

    def ask(self, order: Order, tell: Tell = _nobody) -> Answer:
        """One question, one answer, within the deadline: a child that takes longer is killed, which ends the read.

        `tell` hears how far it is. Any thread may ask; one waits for the other.
        """
        try:
            with self._one_at_a_time:
                [answer] = self._answers(order, 1, Answer, tell)
        except _Lost as lost:
            return Answer(0.0, None, str(lost))
        return answer

    def ask_many(
        self, order: FleetOrder, hear: Callable[[FleetAnswer], None], tell: Tell = _nobody
    ) -> None:
        """One question, and an answer for each of its keys in any order, all within the deadline; fewer where the child was lost."""
        with self._one_at_a_time, suppress(_Lost):
            for answer in self._answers(order, len(order.keys), FleetAnswer, tell):
                hear(answer)

    def interrupt(self) -> None:
        """End the training under way: whoever asked for it has no model."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def finish(self) -> None:
        """Let it end by itself, and with it the processes it has; for who waits for no answer."""
        with self._lock:
            process = self._process
        if process is not None:
            with suppress(OSError, TimeoutExpired):
                assert process.stdin is not None  # noqa: S101 - it is a pipe by the start
                process.stdin.close()
                process.wait(FINISH_SECONDS)
        self.close()

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            self.closed = True
        self._end()

    def _running(self) -> "Popen[bytes]":
        """The process. Under the lock, so that none is started after the end. Raises _Lost once all is closed."""
        with self._lock:
            if self.closed:
                raise _Lost("no more is trained: the end has come")
            self._process = self._process or self._start()
            return self._process

    def _answers(
        self, order: Order | FleetOrder, count: int, kind: type[Said], tell: Tell
    ) -> Iterator[Said]:
        """So many answers. Raises _Lost where one does not come."""
        try:
            process = self._running()
            with self._killed_in_time(process):
                _write(process, msgspec.json.encode(order) + b"\n")
                for _ in range(count):
                    yield msgspec.json.decode(_line(process, tell), type=kind)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            self._end()
            instrumentation.trainer_restarted(str(error))
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


def _line(process: "Popen[bytes]", tell: Tell) -> bytes:
    """The next line that is an answer."""
    assert process.stdout is not None  # noqa: S101
    while (line := process.stdout.readline()).startswith(_PROGRESS):
        tell(msgspec.json.decode(line, type=Progress).progress)
    return line


class Trainer:
    """One thread, one child, one series at a time."""

    def __init__(
        self,
        models: Models,
        swap: Callable[[list[Swap]], None],
        start_child: Callable[[], "Popen[bytes]"],
        training: Training,
        told: Told = _unheard,
        failed: Failed = _unnoticed,
    ) -> None:
        """`told` hears of what is trained without being asked for: the model, whether it is the first, and how long it took.

        `failed` hears of models that could not be learnt on, and why.
        """
        self._models = models
        self._swap = swap
        self._training = training
        self._told = told
        self._failed = failed
        self._child = Child(start_child, training.deadline)
        self._waiting: dict[SeriesKey, float] = {}  # when it may be tried
        self._lock = Lock()
        self._swapped: dict[SeriesKey, Swap] = {}
        self._disabled: set[SeriesKey] = set()  # these train no more by themselves
        self._devices_next: dict[
            str, float
        ] = {}  # when a device that has no model may be tried again
        self._admission = Admission(training.burst, training.a_minute, monotonic())
        self._revision: object = None
        self._next_look = 0.0
        self._urgent = 0  # orders given by hand, which go before the automatic ones
        self._under_way: object = None

    def adjust(self, training: Training) -> None:
        """Whether and when series train themselves from now on; the pace and the deadline stay."""
        self._training = training

    def train(self, order: Order, name: object, tell: Tell) -> Answer:
        """Train what was asked for by hand, as the next one; `interrupt` knows it by its name."""
        with self._by_hand():
            return self._child.ask(order, partial(self._heard, name, tell))

    def train_many(self, order: FleetOrder, name: object) -> list[FleetAnswer]:
        """The same of several at once; answers those that came before it was interrupted, or its time was over."""
        found: list[FleetAnswer] = []
        with self._by_hand():
            self._child.ask_many(order, found.append, partial(self._heard, name, _nobody))
        return found

    @contextmanager
    def _by_hand(self) -> Iterator[None]:
        with self._lock:
            self._urgent += 1
        try:
            yield
        finally:
            with self._lock:
                self._urgent, self._under_way = self._urgent - 1, None

    @property
    def closed(self) -> bool:
        """Whether the end has come: what has no model now has none because of that."""
        return self._child.closed

    def interrupt(self, name: object) -> None:
        """End the training of this name, if it is under way."""
        with self._lock:
            if self._under_way == name:
                self._child.interrupt()

    def _heard(self, name: object, tell: Tell, percent: int) -> None:
        with self._lock:
            self._under_way = name
        tell(percent)

    def due(self, keys: list[SeriesKey]) -> None:
        """These series ask for training; what finds no room asks again."""
        if keys and self._training.automatic:
            with self._lock:
                for key in keys:
                    if len(self._waiting) < self._training.waiting and key not in self._disabled:
                        self._waiting.setdefault(key, 0.0)

    def follow_index(self, known: dict[SeriesKey, str]) -> None:
        """Swap in what is active and not `known`; called before the stream starts, and whenever the index changes."""
        self._swapped.update({key: Swap(*key, model_id) for key, model_id in known.items()})
        self._follow()

    def step(self, timeout: float) -> float:
        """Train the next series that waits and follow the index; answers how many seconds may pass before the next call."""
        if monotonic() >= self._next_look:
            self._look()
        key = None if self._urgent else self._next()
        if key is None:
            return min(timeout, INDEX_POLL_SECONDS)
        self._train(key)
        self._look()
        self._try_device(key[0])
        return 0.0

    def close(self) -> None:
        """End the child, and with it a training under way."""
        self._child.close()

    def _look(self) -> None:
        """An index that cannot be read now is looked at again; the stream goes on with the models it has."""
        self._next_look = monotonic() + INDEX_POLL_SECONDS
        try:
            if self._models.revision != self._revision:
                self._follow()
        except ModelFileError as error:
            instrumentation.index_unreadable(str(error))

    def _follow(self) -> None:
        self._revision = self._models.revision
        self._disabled = self._models.disabled()
        thresholds, shadows = self._models.thresholds(), self._models.shadows()
        active = {
            key: Swap(*key, one, thresholds.get(one), shadows.get(key))
            for key, one in self._models.active().items()
        }
        swaps = [swap for key, swap in active.items() if self._swapped.get(key) != swap]
        swaps += [Swap(*key, None) for key in self._swapped.keys() - active.keys()]
        if swaps:
            self._swap(swaps)
            before, self._swapped = self._swapped, active
            for swap in swaps:
                _say(
                    swap,
                    before.get(
                        (swap.device_id, swap.metric_name),
                        Swap(swap.device_id, swap.metric_name, None),
                    ),
                )

    def _next(self) -> SeriesKey | None:
        """The first that may be trained now: a series that has a model needs no admission, and waits for none that does."""
        now = monotonic()
        open_ = True
        with self._lock:
            for key, at in self._waiting.items():
                if at <= now and (
                    key in self._swapped or (open_ and (open_ := self._admission.admit(now)))
                ):
                    del self._waiting[key]
                    return key
        return None

    def _train(self, key: SeriesKey) -> None:
        if key in self._disabled:
            return  # while it waited
        answer = self._child.ask(self._order(key))
        if answer.model_id is None:
            instrumentation.training_failed(*key, answer.reason)
            self._note_failure(key, answer)
        else:
            instrumentation.model_trained(*key, answer.model_id, answer.seconds)
            self._tell(key, answer.model_id, answer.seconds)
        if key[1] == METRIC_NAME:
            return  # a device whose model fails is asked for again by its metrics, or by its rows
        if answer.model_id is None:
            with self._lock:
                self._waiting[key] = monotonic() + self._training.retry_after

    def _note_failure(self, key: SeriesKey, answer: Answer) -> None:
        serving = self._swapped.get(key)
        if (
            serving is not None
            and serving.model_id is not None
            and not (answer.away or self.closed)
        ):
            self._failed(key, serving.model_id, answer.reason)

    def _tell(self, key: SeriesKey, model_id: str, seconds: float) -> None:
        with suppress(ModelFileError):  # the next look at the index says what is wrong with it
            self._told(
                self._models.row(model_id), "retrain" if key in self._swapped else "train", seconds
            )

    def _order(self, key: SeriesKey) -> Order:
        metrics = self._metrics(key[0]) if key[1] == METRIC_NAME else ()
        return Order(*key, metrics=metrics, refit=key in self._swapped)

    def _metrics(self, device_id: str) -> tuple[str, ...]:
        """The metrics of a device that have a model."""
        return tuple(
            sorted(
                metric
                for device, metric in self._swapped
                if device == device_id and metric != METRIC_NAME
            )
        )

    def _try_device(self, device_id: str) -> None:
        """One of its metrics was trained: where that is not alone and there is no model of all yet, one is due."""
        now, key = monotonic(), (device_id, METRIC_NAME)
        if (
            not self._training.devices
            or key in self._swapped
            or now < self._devices_next.get(device_id, 0.0)
        ):
            return
        if len(self._metrics(device_id)) >= FEWEST_METRICS:
            self._devices_next[device_id] = now + DEVICE_RETRY_SECONDS
            self.due([key])


def _say(swap: Swap, before: Swap) -> None:
    """What is another than before."""
    if swap.shadow_id != before.shadow_id:
        instrumentation.shadow_swapped(swap.device_id, swap.metric_name, swap.shadow_id)
    if (swap.model_id, swap.threshold) != (before.model_id, before.threshold):
        instrumentation.model_swapped(swap.device_id, swap.metric_name, swap.model_id)
