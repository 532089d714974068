"""Models, anomalies and episodes as callers see them: times as RFC 3339, unknown values as null."""

from math import isfinite
from typing import Annotated

import msgspec

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


def model_view(row: ModelRow) -> ModelView:
    """Return a row of the index as callers see it."""
    return ModelView(
        id=row.id,
        device_id=row.device_id,
        metric_name=row.metric_name,
        model_type="isolation_forest",
        version=row.version,
        status=row.status,
        threshold=row.threshold,
        accuracy=_number(row.accuracy, row.figures.get("accuracy")),
        false_positive_rate=_number(
            row.false_positive_rate, row.figures.get("false_positive_rate")
        ),
        true_positive_rate=_number(row.figures.get("true_positive_rate")),
        basis=_word(row.figures.get("basis")),
        training_samples=row.training_samples,
        trained_at=rfc3339(row.trained_at),
        model_path=row.model_path,
        sha256=row.sha256,
        reason=row.reason,
    )


def anomaly_view(one: Anomaly) -> AnomalyView:
    """Return a recorded anomaly as callers see it."""
    return AnomalyView(
        id=one.id,
        device_id=one.device_id,
        metric_name=one.metric_name,
        timestamp=rfc3339(one.timestamp),
        value=one.value,
        score=one.score,
        confidence=one.confidence,
        raw_score=_number(one.raw_score),
        expected=_number(one.expected),
        lower=_number(one.lower),
        upper=_number(one.upper),
        reasons=one.reasons,
        model_id=one.model_id,
        model_version=one.model_version,
        episode_id=one.episode_id,
        historical=one.historical,
    )


def episode_view(one: Episode, feedback: Feedback | None) -> EpisodeView:
    """Return a recorded episode as callers see it."""
    return EpisodeView(
        id=one.id,
        device_id=one.device_id,
        metric_name=one.metric_name,
        model_id=one.model_id,
        model_version=one.model_version,
        started_at=rfc3339(one.started_at),
        updated_at=rfc3339(one.updated_at),
        closed_at=None if one.closed_at is None else rfc3339(one.closed_at),
        readings=one.readings,
        peak_confidence=one.peak_confidence,
        historical=one.historical,
        feedback=None if feedback is None else feedback_view(feedback),
    )


def feedback_view(one: Feedback) -> FeedbackView:
    """Return an operator's verdict as callers see it."""
    return FeedbackView(one.verdict, one.note, one.given_by, rfc3339(one.given_at))


def _number(*said: Figure) -> float | None:
    """Return the first finite number."""
    return next(
        (float(one) for one in said if isinstance(one, int | float) and isfinite(one)), None
    )


def _word(said: Figure) -> str | None:
    return said if isinstance(said, str) else None
