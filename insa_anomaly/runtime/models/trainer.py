"""Models for the stream: series are trained in a child process, active models are swapped in.

The index of models is the target, the log is the fact. The child or a command writes the index;
this thread sees the difference and writes model swaps into the log. The child is the only process
of the daemon that ever loads scikit-learn; it takes an order a line on standard input and replies
with a line for each series.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from functools import partial
from subprocess import Popen
from threading import Lock
from typing import Literal

from insa_anomaly.core.device.detector import FEWEST_METRICS
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import ModelFileError
from insa_anomaly.instrumentation import models as instruments
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.log import Swap
from insa_anomaly.ports.models import ModelIndex, ModelRow
from insa_anomaly.runtime.models import child
from insa_anomaly.runtime.models.child import OnProgress, TrainingOrder, TrainingReply
from insa_anomaly.runtime.step import Step
from insa_anomaly.settings.sections import TrainingSettings

INDEX_POLL_SECONDS = 1.0
DEVICE_RETRY_SECONDS = 3600.0  # before a device whose metrics do not make a model is tried again
OnTrained = Callable[[ModelRow, Literal["train", "retrain"], float], None]
OnFailed = Callable[[SeriesKey, str, str], None]


class Admission:
    """Token bucket of new series that may be trained by now; times are monotonic seconds."""

    def __init__(self, burst: int, a_minute: float, now: float) -> None:
        self._tokens = float(burst)
        self._most = float(burst)
        self._rate = a_minute / 60.0
        self._then = now

    def admit(self, now: float) -> bool:
        """Take a token if there is one."""
        self._tokens = min(self._most, self._tokens + (now - self._then) * self._rate)
        self._then = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


@dataclass(eq=False)
class Trainer(Step):
    """Training of series that ask for it, in a single child process, a series at a time.

    `on_trained` receives every model trained without a request, whether it is the first of its
    series, and the seconds its training took; `on_failed` receives every model that could not be
    refitted, and the reason.
    """

    models: ModelIndex
    swap: Callable[[list[Swap]], None]
    start_child: Callable[[], "Popen[bytes]"]
    training: TrainingSettings
    clock: Clock
    _: KW_ONLY
    on_trained: OnTrained = lambda _row, _kind, _seconds: None
    on_failed: OnFailed = lambda _key, _model_id, _reason: None

    def __post_init__(self) -> None:
        self._child = child.Child(self.start_child, self.training.deadline)
        self._waiting: dict[SeriesKey, float] = {}  # when it may be tried
        self._lock = Lock()
        self._swapped: dict[SeriesKey, Swap] = {}
        self._disabled: set[SeriesKey] = set()  # these train no more by themselves
        self._devices_next: dict[str, float] = {}  # when a device may be tried again
        training, now = self.training, self.clock.monotonic()
        self._admission = Admission(training.burst, training.a_minute, now)
        self._revision: object = None
        self._next_look = 0.0
        self._urgent = 0  # orders given by hand, which go before the automatic ones
        self._under_way: object = None

    def adjust(self, training: TrainingSettings) -> None:
        """Set whether and when series train themselves; the pace and the deadline stay."""
        self.training = training

    def train(self, order: TrainingOrder, name: object, tell: OnProgress) -> TrainingReply:
        """Train a requested series next; `interrupt` knows the training by its name."""
        with self._by_hand():
            return self._child.ask(order, partial(self._heard, name, tell))

    def train_many(self, order: child.FleetTrainingOrder, name: object) -> child.Replies:
        """Train several at once; return the replies before an interruption or the deadline."""
        found: child.Replies = []
        with self._by_hand():
            self._child.ask_many(order, found.append, partial(self._heard, name, child.unheard))
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
        """Whether the end has come, which is then the reason for a missing model."""
        return self._child.closed

    def interrupt(self, name: object) -> None:
        """End the training of this name, if it is under way."""
        with self._lock:
            if self._under_way == name:
                self._child.interrupt()

    def _heard(self, name: object, tell: OnProgress, percent: int) -> None:
        with self._lock:
            self._under_way = name
        tell(percent)

    def request(self, keys: list[SeriesKey]) -> None:
        """Queue series for training; a series without room asks again."""
        if keys and self.training.automatic:
            with self._lock:
                for key in keys:
                    if len(self._waiting) < self.training.waiting and key not in self._disabled:
                        self._waiting.setdefault(key, 0.0)

    def follow_index(self, known: dict[SeriesKey, str]) -> None:
        """Swap in active models that are not `known`, at the start and after a change."""
        self._swapped.update({key: Swap(*key, model_id) for key, model_id in known.items()})
        self._follow()

    def step(self, timeout_s: float) -> float:
        """Train the next waiting series and follow the index; return seconds to the next step."""
        if self.clock.monotonic() >= self._next_look:
            self._look()
        key = None if self._urgent else self._next()
        if key is None:
            return min(timeout_s, INDEX_POLL_SECONDS)
        self._train(key)
        self._look()
        self._try_device(key.device_id)
        return 0.0

    def close(self) -> None:
        """End the child, and with it a training under way."""
        self._child.close()

    def _look(self) -> None:
        """Look at the index; while it is unreadable, the stream keeps its models."""
        self._next_look = self.clock.monotonic() + INDEX_POLL_SECONDS
        try:
            if self.models.revision != self._revision:
                self._follow()
        except ModelFileError as error:
            instruments.index_unreadable(str(error))

    def _follow(self) -> None:
        self._revision = self.models.revision
        self._disabled = self.models.disabled()
        thresholds, shadows = self.models.thresholds(), self.models.shadows()
        active = {
            key: Swap(*key, one, thresholds.get(one), shadows.get(key))
            for key, one in self.models.active().items()
        }
        swaps = [swap for key, swap in active.items() if self._swapped.get(key) != swap]
        swaps += [Swap(*key, None) for key in self._swapped.keys() - active.keys()]
        if swaps:
            self.swap(swaps)
            before, self._swapped = self._swapped, active
            for swap in swaps:
                _say(swap, before.get(swap.key, Swap(*swap.key, None)))

    def _next(self) -> SeriesKey | None:
        """Return the first series that may be trained now; with a model it needs no admission."""
        now = self.clock.monotonic()
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
        if answer.model_id is not None:
            instruments.model_trained(*key, answer.model_id, answer.seconds)
            self._tell(key, answer.model_id, answer.seconds)
            return
        instruments.training_failed(*key, answer.reason)
        self._note_failure(key, answer)
        if not key.is_device:  # a device is asked for again by its metrics, or by its rows
            with self._lock:
                self._waiting[key] = self.clock.monotonic() + self.training.retry_after

    def _note_failure(self, key: SeriesKey, answer: TrainingReply) -> None:
        serving = self._swapped.get(key, Swap(*key, None)).model_id
        if serving is not None and not (answer.away or self.closed):
            self.on_failed(key, serving, answer.reason)

    def _tell(self, key: SeriesKey, model_id: str, seconds: float) -> None:
        with suppress(ModelFileError):  # the next look at the index says what is wrong with it
            row = self.models.row(model_id)
            self.on_trained(row, "retrain" if key in self._swapped else "train", seconds)

    def _order(self, key: SeriesKey) -> TrainingOrder:
        metrics = self._metrics(key.device_id) if key.is_device else ()
        return TrainingOrder(*key, metrics=metrics, refit=key in self._swapped)

    def _metrics(self, device_id: str) -> tuple[str, ...]:
        """Return the metrics of a device that have a model."""
        own = (key for key in self._swapped if key.device_id == device_id and not key.is_device)
        return tuple(sorted(key.metric_name for key in own))

    def _try_device(self, device_id: str) -> None:
        """Queue a device if several of its metrics have models and the device has none."""
        now, key = self.clock.monotonic(), SeriesKey.of_device(device_id)
        if not self.training.devices or now < self._devices_next.get(device_id, 0.0):
            return
        if key not in self._swapped and len(self._metrics(device_id)) >= FEWEST_METRICS:
            self._devices_next[device_id] = now + DEVICE_RETRY_SECONDS
            self.request([key])


def _say(swap: Swap, before: Swap) -> None:
    """Log the changes of a swap."""
    if swap.shadow_id != before.shadow_id:
        instruments.shadow_swapped(*swap.key, swap.shadow_id)
    if (swap.model_id, swap.threshold) != (before.model_id, before.threshold):
        instruments.model_swapped(*swap.key, swap.model_id)
