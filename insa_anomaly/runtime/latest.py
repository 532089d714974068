"""The newest result of every series, and which model serves it, for whoever looks (Redis); losable, so it never holds anything up."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from threading import Lock
from time import monotonic

import msgspec

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series.detector import Results
from insa_anomaly.ports.latest import Latest
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.runtime.step import Step

EVERY_SECONDS = 1.0
AGAIN_SECONDS = 1800.0  # a model is shown again long before it fades


class LatestPublisher(Step):
    """Keeps the newest result of a series and shows those that changed, once a second."""

    def __init__(
        self, latest: Latest, model_of: Callable[[int], str | None] = lambda _: None
    ) -> None:
        """`model_of` says which model serves the series of this number."""
        self._latest = latest
        self._model_of = model_of
        self._said: dict[int, tuple[str, float]] = {}  # the model last shown of a series, and when
        self._newest: dict[int, tuple[float, int]] = {}
        self._keys: list[SeriesKey] = []
        self._lock = Lock()

    def update(self, telemetry: Telemetry, results: Results) -> None:
        """A batch was scored. What came late or again is not the newest."""
        moved = results.status <= Status.SCORED
        scores, times = results.score[moved].tolist(), telemetry.timestamp[moved].tolist()
        newest = dict(
            zip(telemetry.key[moved].tolist(), zip(scores, times, strict=True), strict=True)
        )
        with self._lock:
            self._keys = (
                list(telemetry.keys) if len(telemetry.keys) != len(self._keys) else self._keys
            )
            self._newest.update(newest)

    def step(self, _: float) -> float:
        """Show what changed since the last turn, once a second."""
        self.flush()
        return EVERY_SECONDS

    def flush(self) -> None:
        """Show what changed since the last time."""
        with self._lock:
            newest, self._newest = self._newest, {}
        if newest:
            self._latest.show(
                {self._keys[index]: _shown(score, time) for index, (score, time) in newest.items()}
            )
            self._serve(newest)

    def _serve(self, indices: Iterable[int]) -> None:
        """The models of these series, where they are new or have not been shown for long."""
        now = monotonic()
        found = {
            index: model_id for index in indices if (model_id := self._model_of(index)) is not None
        }
        due = {index: one for index, one in found.items() if self._due(index, one, now)}
        if due:
            self._said.update({index: (model_id, now) for index, model_id in due.items()})
            self._latest.serve({self._keys[index]: model_id for index, model_id in due.items()})

    def _due(self, index: int, model_id: str, now: float) -> bool:
        said, at = self._said.get(index, ("", 0.0))
        return said != model_id or now - at > AGAIN_SECONDS


def _shown(score: float, microseconds: int) -> bytes:
    stamp = datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()
    return msgspec.json.encode(
        {"score": round(score, 6), "is_anomaly": score < 0, "timestamp": stamp}
    )
