"""The newest result of every series, for whoever looks (Redis); losable, so it never holds anything up."""

from datetime import UTC, datetime
from threading import Event, Lock

import msgspec

from insa_anomaly.core.detector import Results, Status
from insa_anomaly.ports import Latest, SeriesKey, Telemetry

EVERY_SECONDS = 1.0


class Show:
    """Keeps the newest result of a series and shows those that changed, once a second."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest
        self._newest: dict[int, tuple[float, int]] = {}
        self._keys: list[SeriesKey] = []
        self._lock = Lock()

    def results(self, telemetry: Telemetry, results: Results) -> None:
        """A batch was scored. What came late or again is not the newest."""
        moved = results.status <= Status.SCORED
        scores, times = results.score[moved].tolist(), telemetry.timestamp[moved].tolist()
        newest = dict(zip(telemetry.key[moved].tolist(), zip(scores, times, strict=True), strict=True))
        with self._lock:
            self._keys = list(telemetry.keys) if len(telemetry.keys) != len(self._keys) else self._keys
            self._newest.update(newest)

    def step(self, stop: Event) -> None:
        """Wait a second, and show what changed meanwhile."""
        stop.wait(EVERY_SECONDS)
        self.flush()

    def flush(self) -> None:
        """Show what changed since the last time."""
        with self._lock:
            newest, self._newest = self._newest, {}
        if newest:
            self._latest.show({self._keys[number]: _shown(score, time) for number, (score, time) in newest.items()})


def _shown(score: float, microseconds: int) -> bytes:
    stamp = datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()
    return msgspec.json.encode({"score": round(score, 6), "is_anomaly": score < 0, "timestamp": stamp})
