"""The newest result and the serving model of every series, for readers of Redis.

Results may be lost, so a slow Redis never holds up the stream.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from threading import Lock

import msgspec

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series.detector import Results
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.latest import Latest
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.runtime.step import Step

EVERY_SECONDS = 1.0
REPEAT_SECONDS = 1800.0  # a model is published again long before it expires


class LatestPublisher(Step):
    """Publishes the newest results of the series that changed, once a second.

    `model_of` returns the model that serves the series of an index.
    """

    def __init__(
        self, latest: Latest, clock: Clock, model_of: Callable[[int], str | None] = lambda _: None
    ) -> None:
        self._latest = latest
        self._clock = clock
        self._model_of = model_of
        self._models: dict[int, tuple[str, float]] = {}  # by series: last published model, and when
        self._newest: dict[int, tuple[float, int]] = {}  # by series: score and time
        self._keys: list[SeriesKey] = []
        self._lock = Lock()

    def update(self, telemetry: Telemetry, results: Results) -> None:
        """Take the results of a batch; late and repeated readings are not the newest."""
        moved = results.status <= Status.SCORED
        scores, times = results.score[moved].tolist(), telemetry.timestamp[moved].tolist()
        found = zip(scores, times, strict=True)
        newest = dict(zip(telemetry.key[moved].tolist(), found, strict=True))
        with self._lock:
            if len(telemetry.keys) != len(self._keys):
                self._keys = list(telemetry.keys)
            self._newest.update(newest)

    def step(self, _: float) -> float:
        """Publish the results since the last turn."""
        self.flush()
        return EVERY_SECONDS

    def flush(self) -> None:
        """Publish the results since the last call."""
        with self._lock:
            newest, self._newest = self._newest, {}
        if newest:
            results = {self._keys[index]: _encoded(*found) for index, found in newest.items()}
            self._latest.show(results)
            self._publish_models(newest)

    def _publish_models(self, indices: Iterable[int]) -> None:
        """Publish the models of these series that are new or were published long ago."""
        now = self._clock.monotonic()
        models = {index: model_id for index in indices if (model_id := self._model_of(index))}
        due = {index: one for index, one in models.items() if self._due(index, one, now)}
        if due:
            self._models.update({index: (model_id, now) for index, model_id in due.items()})
            self._latest.serve({self._keys[index]: model_id for index, model_id in due.items()})

    def _due(self, index: int, model_id: str, now: float) -> bool:
        published, at = self._models.get(index, ("", 0.0))
        return published != model_id or now - at > REPEAT_SECONDS


def _encoded(score: float, time_us: int) -> bytes:
    stamp = datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()
    result = {"score": round(score, 6), "is_anomaly": score < 0, "timestamp": stamp}
    return msgspec.json.encode(result)
