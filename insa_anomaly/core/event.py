"""What is told and recorded of a reading that stands out: the anomaly, its episode, the event; JSON and deterministic ids.

Every id is a UUID5 of what the thing is about, so that computing it again after a crash gives the same id, and a row or an
event that comes twice is recognised as one.
"""

from enum import IntEnum
from uuid import UUID, uuid5

import msgspec

NAMESPACE = UUID("6f0b9a52-8f0e-5d0f-9a57-1f9c0f6f7a11")


class Transition(IntEnum):
    """What a reading did to the episode of its series."""

    NONE = 0
    OPENED = 1
    WORSENED = 2
    CLOSED = 3


class Reason(msgspec.Struct, frozen=True):
    """One cause of a low score: a feature (or, in a device model, a metric), its share of the whole, and the words for a person."""

    feature: str
    share: float
    text: str


class Anomaly(msgspec.Struct, frozen=True):
    """A reading that scored below 0: a row of `anomaly_detections`. Timestamps are microseconds since the epoch."""

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
    """Anomalous readings merged into one thing to handle, as it stands after a reading: a row of `anomaly_episodes`."""

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
    """One transition of an episode, as published on `insa/iiot/ml/anomaly/<device>`. Timestamps are RFC 3339 in UTC."""

    event_id: str
    kind: str
    episode_id: str
    device_id: str
    metric_name: str
    timestamp: str
    value: float
    expected: float
    lower: float
    upper: float
    score: float
    confidence: float
    reasons: list[Reason]
    model_id: str
    model_version: int
    started_at: str
    historical: bool


def deterministic_id(*parts: object) -> str:
    """The same parts, the same id. Parts are joined by a character that no id may hold."""
    return str(uuid5(NAMESPACE, "\x1f".join(map(str, parts))))
