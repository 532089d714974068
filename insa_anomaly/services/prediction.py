"""What a value would be as the next reading of its series; nothing is changed by asking."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from insa_anomaly import instrumentation
from insa_anomaly.errors import Conflict, NotFound, TooLarge, TooMany
from insa_anomaly.ports import Key, Models, SeriesKey
from insa_anomaly.services.live import Foreseen, Live
from insa_anomaly.services.views import Id


class RateLimit(Protocol):
    """How much a caller may have a minute."""

    def take(self, name: str, cost: int, a_minute: int) -> float | None:
        """Take so much of what `name` may have; None, or the seconds after which to come again: then nothing was taken."""


class Prediction(msgspec.Struct, frozen=True):
    """What one value would be."""

    value: float
    is_anomaly: bool
    score: float
    confidence: float
    expected: float | None
    lower: float | None
    upper: float | None


class PredictionAnswer(msgspec.Struct, frozen=True):
    """What one value would be, and who says so."""

    is_anomaly: bool
    score: float
    confidence: float
    expected: float | None
    lower: float | None
    upper: float | None
    model_id: Id
    model_version: int


class BatchAnswer(msgspec.Struct, frozen=True):
    """What each value would be, each by itself."""

    predictions: list[Prediction]
    anomaly_count: int
    model_id: Id
    model_version: int


class PredictionService:
    """Asks the stream. `a_minute` is how many predictions a key may have, where it has no limit of its own."""

    def __init__(self, live: Live, models: Models, limit: RateLimit, a_minute: int) -> None:
        self._live, self._models, self._limit, self._a_minute = live, models, limit, a_minute

    def adjust(self, a_minute: int) -> None:
        """How many a minute a key may have from now on, where it has no limit of its own."""
        self._a_minute = a_minute

    def predict(self, key: Key, series: SeriesKey, value: float) -> PredictionAnswer:
        """One value. Raises TooMany, NotFound, Conflict."""
        said, found = self._foresee(key, series, [value])
        one = said[0]
        return PredictionAnswer(
            one.is_anomaly, one.score, one.confidence, one.expected, one.lower, one.upper, found.model_id, found.model_version
        )

    def predict_many(self, key: Key, series: SeriesKey, values: Sequence[float]) -> BatchAnswer:
        """Several values, each as if it were the next. Raises TooLarge, TooMany, NotFound, Conflict."""
        said, found = self._foresee(key, series, values)
        return BatchAnswer(said, sum(one.is_anomaly for one in said), found.model_id, found.model_version)

    def _foresee(self, key: Key, series: SeriesKey, values: Sequence[float]) -> tuple[list[Prediction], Foreseen]:
        self._take(key, len(values))
        found = self._live.foresee(series, values)
        if found is None:
            raise self._hindrance(series)
        columns = (values, found.score, found.expected, found.lower, found.upper)
        said = [
            Prediction(float(value), score < 0, score, abs(score), expected, lower, upper)
            for value, score, expected, lower, upper in zip(*columns, strict=True)
        ]
        instrumentation.predictions_given(len(said), sum(one.is_anomaly for one in said))
        return said, found

    def _take(self, key: Key, count: int) -> None:
        a_minute = key.predictions_a_minute or self._a_minute
        if count > a_minute:
            raise TooLarge(f"{count} values in one request; this key may have {a_minute} predictions a minute")
        wait = self._limit.take(key.id, count, a_minute)
        if wait is not None:
            raise TooMany(f"this key may have {a_minute} predictions a minute", wait)

    def _hindrance(self, series: SeriesKey) -> NotFound | Conflict:
        name, standing = "/".join(series), self._live.standing(series)
        rows = self._models.of_series(series)
        if standing is None and not rows:
            return NotFound(f"there is no series {name}: it has never reported")
        if rows and rows[0].status == "disabled":
            return Conflict(f"the model of {name} is disabled: {rows[0].reason}")
        if standing is None or standing.state == "warming":
            return Conflict(f"the window of {name} is not full yet: its model says nothing before that")
        return Conflict(f"{name} is still collecting readings for a first model: {standing.readings} so far")
