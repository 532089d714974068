"""State of a series in the stream at this moment."""

from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from insa_anomaly.core.layout import LearntRows, StateRows
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.units import Features, Floats

State = Literal["collecting", "warming", "serving"]


class SeriesStatus(msgspec.Struct, frozen=True):
    """A series in the stream: collecting for a first model, filling its window, or scored."""

    state: State
    readings: int  # that ever moved its window
    newest: int | None  # time of the newest reading, microseconds
    model_id: str | None
    in_episode: bool


@dataclass(frozen=True)
class ServingModel:
    """A served series at a moment: everything that scores its next reading, except the forest."""

    index: int  # of the series, in this run of the daemon
    model_id: str
    model_version: int
    state: StateRows  # [features.STATE.width]
    learnt: LearntRows  # [detector.LEARNT.width]


class ShadowTally(msgspec.Struct, frozen=True):
    """Two versions over the same readings: the champion and its shadow.

    Times are in microseconds, 0 before the first reading.
    """

    shadow_id: str
    since: int = 0
    newest: int = 0
    readings: int = 0
    anomalies: int = 0
    shadow_anomalies: int = 0
    both: int = 0
    episodes: int = 0
    shadow_episodes: int = 0
    champions: int = 1  # versions that served meanwhile


class StreamView(Protocol):
    """View of the stream, open to any thread."""

    def status(self, key: SeriesKey) -> SeriesStatus | None:
        """Return the state of this series; None for an unknown series."""

    def compared(self, key: SeriesKey) -> ShadowTally | None:
        """Return the counts of the series' shadow and champion so far; None without a shadow."""

    def serving(self, key: SeriesKey) -> ServingModel | None:
        """Return everything that scores the next reading; None unless the series is serving."""

    def isolate(self, index: int, model_id: str, scaled: Features) -> Floats | None:
        """Return `score_samples` [n] of a series' forest for features [n, features.WIDTH].

        `index` is the index of the series. None if another model serves by now.
        """
