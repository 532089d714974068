"""Detections at scored readings and device rows: an anomaly, a change of its episode, or both."""

from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core.notification.event import Anomaly, Episode, Transition
from insa_anomaly.core.units import Floats, Ints


class Detection(NamedTuple):
    """An anomaly, or the end of an episode, at a reading of a batch."""

    at: int  # position of the reading in the batch
    reading: Anomaly
    anomalous: bool  # False: the reading is normal, and closes an episode
    transition: Transition
    episode: Episode | None  # its new state, where it changed


class ScoredResults(Protocol):
    """Results of the series detector, or of the device detector, with episodes."""

    @property
    def transition(self) -> npt.NDArray[np.uint8]:
        """Transition of the episode at each result [n]."""

    @property
    def episode_started(self) -> Ints:
        """Start of the episode [n], microseconds."""

    @property
    def episode_readings(self) -> Ints:
        """Count of anomalous readings in the episode [n]."""

    @property
    def episode_peak(self) -> Floats:
        """Greatest confidence in the episode [n]."""


def detection(at: int, reading: Anomaly, results: ScoredResults, i: int) -> Detection:
    """Return the detection of result i, which belongs to position `at` of the batch."""
    transition = Transition(int(results.transition[i]))
    episode = None if transition is Transition.NONE else _episode(reading, results, i, transition)
    return Detection(at, reading, reading.score < 0, transition, episode)


def _episode(reading: Anomaly, results: ScoredResults, i: int, transition: Transition) -> Episode:
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
    """An anomaly of a late reading, which moved no window.

    The anomaly counts only if its reading, of a message `received` then, is no repetition.
    """

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
        return (
            msgspec.msgpack.encode(self) if self.anomalies or self.episodes or self.late else None
        )
