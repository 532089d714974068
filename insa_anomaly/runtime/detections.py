"""Detections at scored readings and device rows: an anomaly, a change of its episode, or both."""

from typing import NamedTuple

import msgspec
import numpy as np

from insa_anomaly.core.device.detector import DeviceResults
from insa_anomaly.core.notification import event
from insa_anomaly.core.notification.event import Anomaly, Episode, Reason, Transition
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series.detector import Results

AnyResults = Results | DeviceResults


class Detection(NamedTuple):
    """An anomaly, or the end of an episode, at a reading of a batch."""

    at: int  # position of the reading in the batch
    reading: Anomaly
    anomalous: bool  # False: the reading is normal, and closes an episode
    transition: Transition
    episode: Episode | None  # its new state, where it changed


class ScoredReading(NamedTuple):
    """A reading of a series, or a row of a device, as it was scored."""

    key: SeriesKey
    timestamp: int
    discriminator: int
    value: float
    historical: bool
    model: tuple[str, int]  # id and version


def noteworthy(results: AnyResults) -> list[int]:
    """Return the places of the results that are anomalous, or change an episode."""
    anomalous = (results.score < 0) & (results.status == Status.SCORED)
    changed = results.transition != Transition.NONE
    return np.flatnonzero(anomalous | changed).tolist()


def anomaly(
    reading: ScoredReading,
    results: AnyResults,
    i: int,
    reasons: list[Reason],
    *,
    metric: int | None = None,
    device_episode: int = 0,
) -> Anomaly:
    """Return the reading with its result i as an anomaly.

    The expected value of a row is that of `metric`, a column. A reading that belongs to no episode
    of its own belongs to the episode of its device that began at `device_episode`, unless 0.
    """
    place = i if metric is None else (i, metric)
    owner, began = SeriesKey.of_device(reading.key.device_id), device_episode
    if results.episode_readings[i]:
        owner, began = reading.key, int(results.episode_started[i])
    return Anomaly(
        event.anomaly_id(*reading.key, reading.timestamp, reading.discriminator),
        *reading.model,
        *reading.key,
        timestamp=reading.timestamp,
        value=reading.value,
        score=float(results.score[i]),
        raw_score=float(results.raw_score[i]),
        confidence=float(results.confidence[i]),
        expected=float(results.expected[place]),
        lower=float(results.lower[place]),
        upper=float(results.upper[place]),
        reasons=reasons,
        historical=reading.historical,
        episode_id=event.episode_id(*owner, began) if began else None,
    )


def detection(at: int, reading: Anomaly, results: AnyResults, i: int) -> Detection:
    """Return the detection of result i, which belongs to position `at` of the batch."""
    transition = Transition(int(results.transition[i]))
    episode = None if transition is Transition.NONE else _episode(reading, results, i, transition)
    return Detection(at, reading, reading.score < 0, transition, episode)


def _episode(reading: Anomaly, results: AnyResults, i: int, transition: Transition) -> Episode:
    return Episode(
        id=reading.episode_id or "",
        device_id=reading.device_id,
        metric_name=reading.metric_name,
        model_id=reading.model_id,
        model_version=reading.model_version,
        started_at=int(results.episode_started[i]),
        updated_at=reading.timestamp,
        closed_at=reading.timestamp if transition is Transition.CLOSED else None,
        readings=int(results.episode_readings[i]),
        peak_confidence=float(results.episode_peak[i]),
        historical=reading.historical,
    )


class Late(msgspec.Struct, frozen=True, array_like=True):
    """An anomaly of a late reading: it counts if its reading, `received` then, is no repetition."""

    anomaly: Anomaly
    discriminator: int
    received: int


class Detections(msgspec.Struct, frozen=True, array_like=True):
    """Detections that one commit of the score reader leaves for the record reader."""

    anomalies: list[Anomaly]
    episodes: list[Episode]
    late: list[Late] = []

    @classmethod
    def from_bytes(cls, data: bytes) -> "Detections":
        """Decode the bytes of `to_bytes`."""
        return msgspec.msgpack.decode(data, type=cls)

    def to_bytes(self) -> bytes | None:
        """Encode the detections; None if there are none."""
        found = self.anomalies or self.episodes or self.late
        return msgspec.msgpack.encode(self) if found else None
