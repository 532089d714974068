"""Records of anomalous readings: the anomaly, its episode, the event; JSON and deterministic ids.

Every id is a UUID5 of the thing's subject, so that a recomputation after a crash gives the same id,
and a repeated row or event is recognised.
"""

from datetime import UTC, datetime, timedelta
from math import isnan
from uuid import UUID, uuid5

import msgspec

from insa_anomaly.core.scoring.episodes import Transition

__all__ = [
    "NO_MODEL",
    "Anomaly",
    "Episode",
    "Event",
    "Reason",
    "Transition",
    "anomaly_id",
    "deterministic_id",
    "episode_id",
    "event_of",
    "rfc3339",
]

NAMESPACE = UUID("6f0b9a52-8f0e-5d0f-9a57-1f9c0f6f7a11")
# The model_id, with version 0, of an episode that a reading closes without a model.
NO_MODEL = str(UUID(int=0))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Reason(msgspec.Struct, frozen=True):
    """A cause of a low score: a feature or metric, its share of the whole, and its words."""

    feature: str
    share: float
    text: str


class Anomaly(msgspec.Struct, frozen=True):
    """A reading that scored below 0: a row of `anomaly_detections`.

    Timestamps are microseconds since the epoch.
    """

    id: str
    model_id: str
    model_version: int
    device_id: str
    metric_name: str
    timestamp: int
    value: float
    score: float
    raw_score: float
    confidence: float
    expected: float
    lower: float
    upper: float
    reasons: list[Reason]
    historical: bool = False
    episode_id: str | None = None


class Episode(msgspec.Struct, frozen=True):
    """Anomalous readings merged into a thing to handle: a row of `anomaly_episodes`."""

    id: str
    device_id: str
    metric_name: str
    model_id: str
    model_version: int
    started_at: int
    updated_at: int
    closed_at: int | None
    readings: int
    peak_confidence: float
    historical: bool = False


class Event(msgspec.Struct, frozen=True):
    """A transition of an episode, as published on `insa/iiot/ml/anomaly/<device>`.

    Timestamps are RFC 3339 in UTC. The expected value is null where the reading that closes an
    episode cannot be scored: the window began anew, or the model is gone.
    """

    event_id: str
    kind: str
    episode_id: str
    device_id: str
    metric_name: str
    timestamp: str
    value: float
    expected: float | None
    lower: float | None
    upper: float | None
    score: float
    confidence: float
    reasons: list[Reason]
    model_id: str
    model_version: int
    started_at: str
    historical: bool


def deterministic_id(*parts: object) -> str:
    """Return the id of these parts, joined by a character that no id may hold."""
    return str(uuid5(NAMESPACE, "\x1f".join(map(str, parts))))


def anomaly_id(device_id: str, metric_name: str, timestamp: int, discriminator: int) -> str:
    """Return the id of an anomalous reading's row."""
    return deterministic_id("anomaly", device_id, metric_name, timestamp, discriminator)


def episode_id(device_id: str, metric_name: str, started_at: int) -> str:
    """Return the id of the episode that opened at this time (microseconds)."""
    return deterministic_id("episode", device_id, metric_name, started_at)


def rfc3339(timestamp: int) -> str:
    """Return microseconds since the epoch as RFC 3339 in UTC, `2025-10-28T17:05:00.250000Z`."""
    time = _EPOCH + timedelta(microseconds=timestamp)
    return time.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def event_of(transition: Transition, reading: Anomaly, episode: Episode) -> Event:
    """Return the event of a transition that `reading` caused in `episode`.

    A closing reading is ordinary and has no reasons. An episode opens and closes once and worsens
    at most once a reading, so kind, episode and time of the reading make the id.
    """
    kind = transition.name.lower()
    return Event(
        event_id=deterministic_id("event", episode.id, kind, reading.id),
        kind=kind,
        episode_id=episode.id,
        device_id=reading.device_id,
        metric_name=reading.metric_name,
        timestamp=rfc3339(reading.timestamp),
        value=reading.value,
        expected=_known(reading.expected),
        lower=_known(reading.lower),
        upper=_known(reading.upper),
        score=reading.score,
        confidence=reading.confidence,
        reasons=reading.reasons,
        model_id=reading.model_id,
        model_version=reading.model_version,
        started_at=rfc3339(episode.started_at),
        historical=reading.historical,
    )


def _known(value: float) -> float | None:
    return None if isnan(value) else value
