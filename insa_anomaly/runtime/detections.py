"""What a scored reading, or a row of a device, leaves behind: an anomaly, a change of its episode, or both."""

from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core.notification.event import Anomaly, Episode, Transition
from insa_anomaly.core.units import Floats, Ints


class Detection(NamedTuple):
    """What was found at a reading of a batch."""

    at: int  # the reading's place in the batch
    reading: Anomaly
    anomalous: bool  # False: it is ordinary, and closes an episode
    transition: Transition
    episode: Episode | None  # as it stands now, where it changed


class Judged(Protocol):
    """Results with a verdict: `core.series.detector.Results` and `core.device.detector.DeviceResults`."""

    @property
    def transition(self) -> npt.NDArray[np.uint8]:
        """What each did to the episode."""

    @property
    def episode_started(self) -> Ints:
        """When it began."""

    @property
    def episode_readings(self) -> Ints:
        """How many anomalous ones are in it."""

    @property
    def episode_peak(self) -> Floats:
        """How strong it was."""


def detection(at: int, reading: Anomaly, results: Judged, i: int) -> Detection:
    """Of result i, which belongs to the reading at this place in the batch."""
    transition = Transition(int(results.transition[i]))
    episode = None if transition is Transition.NONE else _episode(reading, results, i, transition)
    return Detection(at, reading, reading.score < 0, transition, episode)


def _episode(reading: Anomaly, results: Judged, i: int, transition: Transition) -> Episode:
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
    """An anomaly that moved nothing. It counts only where its reading, of a message `received` then, is not one that came before."""

    anomaly: Anomaly
    discriminator: int
    received: int


class Detections(msgspec.Struct, frozen=True, array_like=True):
    """What one commit of the score reader leaves for the record reader."""

    anomalies: list[Anomaly]
    episodes: list[Episode]
    late: list[Late] = []

    @classmethod
    def from_bytes(cls, data: bytes) -> "Detections":
        """The inverse of `to_bytes`."""
        return msgspec.msgpack.decode(data, type=cls)

    def to_bytes(self) -> bytes | None:
        """None where there is nothing to leave."""
        return (
            msgspec.msgpack.encode(self) if self.anomalies or self.episodes or self.late else None
        )
