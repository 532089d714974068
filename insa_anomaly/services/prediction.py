"""Predictions: the score of a value as the next reading of its series; asking changes no state."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

import msgspec
import numpy as np

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series import detector
from insa_anomaly.core.units import Features, Floats
from insa_anomaly.errors import Conflict, NotFound, TooLarge, TooMany
from insa_anomaly.instrumentation.admin_port import predictions_given
from insa_anomaly.ports.keys import Key
from insa_anomaly.ports.models import ModelIndex
from insa_anomaly.services.stream_view import ServingModel, StreamView
from insa_anomaly.services.views import Id, viewed

ATTEMPTS = 5  # plenty, because a model is swapped once a day
AT_ONCE = 256  # values; between two parts of this size the stream has its turn


class RateLimit(Protocol):
    """Limit on the requests of a caller, per minute."""

    def take(self, name: str, cost: int, a_minute: int) -> float | None:
        """Take `cost` from the budget of `name`; None on success.

        Otherwise the budget stays as it is, and the seconds until the next attempt are returned.
        """


class Prediction(msgspec.Struct, frozen=True):
    """Score of a value as the next reading."""

    value: float
    is_anomaly: bool
    score: float
    confidence: float
    expected: float | None
    lower: float | None
    upper: float | None


class PredictionAnswer(msgspec.Struct, frozen=True):
    """Score of a value as the next reading, and the model that scored it."""

    is_anomaly: bool
    score: float
    confidence: float
    expected: float | None
    lower: float | None
    upper: float | None
    model_id: Id
    model_version: int


class BatchAnswer(msgspec.Struct, frozen=True):
    """Scores of several values, each as the next reading."""

    predictions: list[Prediction]
    anomaly_count: int
    model_id: Id
    model_version: int


def foreseen(
    stream: StreamView, series: SeriesKey, values: Floats
) -> tuple[list[Prediction], ServingModel] | None:
    """Return the predictions for these values [n], each as the next reading, and their model.

    None unless the series is serving, or if its model was swapped `ATTEMPTS` times meanwhile.
    """
    for _ in range(ATTEMPTS):
        serving = stream.serving(series)
        if serving is None:
            return None
        with suppress(_Swapped):
            parts = (values[begin : begin + AT_ONCE] for begin in range(0, len(values), AT_ONCE))
            return [one for part in parts for one in _part(stream, serving, part)], serving
    return None


class _Swapped(Exception):
    """The series has another model now."""


def _part(stream: StreamView, serving: ServingModel, values: Floats) -> Iterator[Prediction]:
    def forest(scaled: Features) -> Floats:
        found = stream.isolate(serving.index, serving.model_id, scaled)
        if found is None:
            raise _Swapped
        return found

    said = detector.foresee(serving.state, serving.learnt, forest, values)
    columns = (values, said.score, said.expected, said.lower, said.upper)
    for value, score, *band in zip(*(column.tolist() for column in columns), strict=True):
        known = (one if isfinite(one) else None for one in band)
        yield Prediction(value, score < 0, score, abs(score), *known)


@dataclass
class PredictionService:
    """Predictions from the stream.

    `a_minute` is the number of predictions a minute for a key without a limit of its own.
    """

    stream: StreamView
    models: ModelIndex
    limit: RateLimit
    a_minute: int

    def predict(self, key: Key, series: SeriesKey, value: float) -> PredictionAnswer:
        """Score a value as the next reading. Raises TooMany, NotFound, Conflict."""
        (said,), found = self._foresee(key, series, [value])
        model_id, version = found.model_id, found.model_version
        return viewed(PredictionAnswer, said, model_id=model_id, model_version=version)

    def predict_many(self, key: Key, series: SeriesKey, values: Sequence[float]) -> BatchAnswer:
        """Score several values, each as the next reading.

        Raises TooLarge, TooMany, NotFound, Conflict.
        """
        said, found = self._foresee(key, series, values)
        count = sum(one.is_anomaly for one in said)
        return BatchAnswer(said, count, found.model_id, found.model_version)

    def _foresee(
        self, key: Key, series: SeriesKey, values: Sequence[float]
    ) -> tuple[list[Prediction], ServingModel]:
        self._take(key, len(values))
        found = foreseen(self.stream, series, np.array(values, np.float64))
        if found is None:
            raise self._hindrance(series)
        said, serving = found
        predictions_given(len(said), sum(one.is_anomaly for one in said))
        return said, serving

    def _take(self, key: Key, count: int) -> None:
        a_minute = key.predictions_a_minute or self.a_minute
        limit = f"this key may have {a_minute} predictions a minute"
        if count > a_minute:
            raise TooLarge(f"{count} values in one request; {limit}")
        wait = self.limit.take(key.id, count, a_minute)
        if wait is not None:
            raise TooMany(limit, wait)

    def _hindrance(self, series: SeriesKey) -> NotFound | Conflict:
        name, standing = "/".join(series), self.stream.status(series)
        rows = self.models.of_series(series)
        if standing is None and not rows:
            return NotFound(f"there is no series {name}: it has never reported")
        if rows and rows[0].status == "disabled":
            return Conflict(f"the model of {name} is disabled: {rows[0].reason}")
        if standing is None or standing.state == "warming":
            return Conflict(
                f"the window of {name} is not full yet: its model says nothing before that"
            )
        count = standing.readings
        return Conflict(f"{name} is still collecting readings for a first model: {count} so far")
