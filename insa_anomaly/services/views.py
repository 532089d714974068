"""Models, anomalies and episodes as callers see them: times as RFC 3339, unknown values as null."""

from math import isfinite
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec.structs import asdict

from insa_anomaly.core.notification.event import Anomaly, Episode, Reason, rfc3339
from insa_anomaly.ports.anomalies import Feedback
from insa_anomaly.ports.models import ModelRow

Figure = float | int | str | dict[str, float] | None
Instant = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
Id = Annotated[str, msgspec.Meta(extra_json_schema={"format": "uuid"})]


class ModelView(msgspec.Struct, frozen=True):
    """A version of a model."""

    id: Id
    device_id: str
    metric_name: str
    model_type: str
    version: int
    status: str
    threshold: float
    accuracy: float | None
    false_positive_rate: float | None
    true_positive_rate: float | None
    basis: str | None
    training_samples: int
    trained_at: Instant
    model_path: str
    sha256: str
    reason: str


class AnomalyView(msgspec.Struct, frozen=True):
    """An anomalous reading."""

    id: Id
    device_id: str
    metric_name: str
    timestamp: Instant
    value: float
    score: float
    confidence: float
    raw_score: float | None
    expected: float | None
    lower: float | None
    upper: float | None
    reasons: list[Reason]
    model_id: Id
    model_version: int
    episode_id: Id | None
    historical: bool


class FeedbackView(msgspec.Struct, frozen=True):
    """An operator's verdict on an episode."""

    verdict: str
    note: str
    given_by: str
    given_at: Instant


class EpisodeView(msgspec.Struct, frozen=True):
    """Anomalous readings merged into a single episode."""

    id: Id
    device_id: str
    metric_name: str
    model_id: Id
    model_version: int
    started_at: Instant
    updated_at: Instant
    closed_at: Instant | None
    readings: int
    peak_confidence: float
    historical: bool
    feedback: FeedbackView | None


V = TypeVar("V", bound=msgspec.Struct)


def viewed(kind: type[V], *stored: msgspec.Struct, **told: Any) -> V:  # noqa: ANN401 - fields
    """Return a view: its fields are `told`, or else the fields of this name that are `stored`."""
    found = {name: value for one in stored for name, value in asdict(one).items()} | told
    return kind(**{name: found[name] for name in kind.__struct_fields__})


def instant(micros: int | None) -> str | None:
    """Return a time in microseconds as RFC 3339."""
    return None if micros is None else rfc3339(micros)


def model_view(row: ModelRow) -> ModelView:
    """Return a row of the index as callers see it."""
    figure = row.figures.get
    return viewed(
        ModelView,
        row,
        model_type="isolation_forest",
        accuracy=number(row.accuracy, figure("accuracy")),
        false_positive_rate=number(row.false_positive_rate, figure("false_positive_rate")),
        true_positive_rate=number(figure("true_positive_rate")),
        basis=_word(figure("basis")),
        trained_at=rfc3339(row.trained_at),
    )


def anomaly_view(one: Anomaly) -> AnomalyView:
    """Return a recorded anomaly as callers see it."""
    names = ("raw_score", "expected", "lower", "upper")
    numbers = {name: number(getattr(one, name)) for name in names}
    return viewed(AnomalyView, one, timestamp=rfc3339(one.timestamp), **numbers)


def episode_view(one: Episode, feedback: Feedback | None) -> EpisodeView:
    """Return a recorded episode as callers see it."""
    names = ("started_at", "updated_at", "closed_at")
    times = {name: instant(getattr(one, name)) for name in names}
    verdict = feedback and viewed(FeedbackView, feedback, given_at=rfc3339(feedback.given_at))
    return viewed(EpisodeView, one, **times, feedback=verdict)


def number(*said: Figure) -> float | None:
    """Return the first finite number."""
    return next(
        (float(one) for one in said if isinstance(one, int | float) and isfinite(one)), None
    )


def _word(said: Figure) -> str | None:
    return said if isinstance(said, str) else None
