"""What a value would be as the next reading of its series; nothing is changed by asking."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import isfinite
from typing import Protocol

import msgspec
import numpy as np

from insa_anomaly import instrumentation
from insa_anomaly.core.series import detector
from insa_anomaly.core.units import Features, Floats
from insa_anomaly.errors import Conflict, NotFound, TooLarge, TooMany
from insa_anomaly.ports import Key, Models, SeriesKey
from insa_anomaly.services.stream_view import Live, Serving
from insa_anomaly.services.views import Id

ATTEMPTS = 5  # a model is swapped once a day
AT_ONCE = 256  # values: between two such parts the stream has its turn


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


def foreseen(
    live: Live, series: SeriesKey, values: Floats
) -> tuple[list[Prediction], Serving] | None:
    """What each of these values [n] would be as the next reading, and by which model; None unless the series is serving."""
    for _ in range(ATTEMPTS):
        serving = live.serving(series)
        if serving is None:
            return None
        with suppress(_Swapped):
            parts = (values[begin : begin + AT_ONCE] for begin in range(0, len(values), AT_ONCE))
            return [one for part in parts for one in _part(live, serving, part)], serving
    return None


class _Swapped(Exception):
    """The series has another model now."""


def _part(live: Live, serving: Serving, values: Floats) -> Iterator[Prediction]:
    def forest(scaled: Features) -> Floats:
        found = live.isolate(serving.number, serving.model_id, scaled)
        if found is None:
            raise _Swapped
        return found

    said = detector.foresee(serving.state, serving.numbers, forest, values)
    columns = (
        column.tolist() for column in (values, said.score, said.expected, said.lower, said.upper)
    )
    for value, score, *band in zip(*columns, strict=True):
        yield Prediction(
            value, score < 0, score, abs(score), *(one if isfinite(one) else None for one in band)
        )


class PredictionService:
    """Asks the stream. `a_minute` is how many predictions a key may have, where it has no limit of its own."""

    def __init__(self, live: Live, models: Models, limit: RateLimit, a_minute: int) -> None:
        self._live = live
        self._models = models
        self._limit = limit
        self._a_minute = a_minute

    def adjust(self, a_minute: int) -> None:
        """How many a minute a key may have from now on, where it has no limit of its own."""
        self._a_minute = a_minute

    def predict(self, key: Key, series: SeriesKey, value: float) -> PredictionAnswer:
        """One value. Raises TooMany, NotFound, Conflict."""
        said, found = self._foresee(key, series, [value])
        one = said[0]
        return PredictionAnswer(
            one.is_anomaly,
            one.score,
            one.confidence,
            one.expected,
            one.lower,
            one.upper,
            found.model_id,
            found.model_version,
        )

    def predict_many(self, key: Key, series: SeriesKey, values: Sequence[float]) -> BatchAnswer:
        """Several values, each as if it were the next. Raises TooLarge, TooMany, NotFound, Conflict."""
        said, found = self._foresee(key, series, values)
        return BatchAnswer(
            said, sum(one.is_anomaly for one in said), found.model_id, found.model_version
        )

    def _foresee(
        self, key: Key, series: SeriesKey, values: Sequence[float]
    ) -> tuple[list[Prediction], Serving]:
        self._take(key, len(values))
        found = foreseen(self._live, series, np.array(values, np.float64))
        if found is None:
            raise self._hindrance(series)
        said, serving = found
        instrumentation.predictions_given(len(said), sum(one.is_anomaly for one in said))
        return said, serving

    def _take(self, key: Key, count: int) -> None:
        a_minute = key.predictions_a_minute or self._a_minute
        if count > a_minute:
            raise TooLarge(
                f"{count} values in one request; this key may have {a_minute} predictions a minute"
            )
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
            return Conflict(
                f"the window of {name} is not full yet: its model says nothing before that"
            )
        return Conflict(
            f"{name} is still collecting readings for a first model: {standing.readings} so far"
        )
