"""What the stream knows of a series at this moment."""

from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from insa_anomaly.core.units import Features, Floats
from insa_anomaly.ports import SeriesKey

State = Literal["collecting", "warming", "serving"]


class Standing(msgspec.Struct, frozen=True):
    """A series in the stream: it collects readings for a first model, or its window fills, or it is scored."""

    state: State
    readings: int  # that ever moved its window
    newest: int | None  # time of the newest, microseconds
    model_id: str | None
    in_episode: bool


@dataclass(frozen=True)
class Serving:
    """A series that is served, at one moment: all that its next reading is scored with, but for the forest."""

    number: int  # of the series, in this run of the daemon
    model_id: str
    model_version: int
    state: Floats  # [features.STATE_WIDTH]
    numbers: Floats  # [detector.MODEL_WIDTH]


class Compared(msgspec.Struct, frozen=True):
    """Two versions over the same readings: the one that serves, and its shadow. Times in microseconds; 0 before the first reading."""

    shadow_id: str
    since: int
    newest: int
    readings: int
    anomalies: int
    shadow_anomalies: int
    both: int
    episodes: int
    shadow_episodes: int
    champions: int  # versions that served meanwhile


class Live(Protocol):
    """The stream, to be asked by any thread."""

    def standing(self, key: SeriesKey) -> Standing | None:
        """How this series stands; None where it was never seen."""

    def compared(self, key: SeriesKey) -> Compared | None:
        """What became of the series' shadow so far; None where it has none."""

    def serving(self, key: SeriesKey) -> Serving | None:
        """What its next reading is scored with; None unless the series is serving."""

    def isolate(self, number: int, model_id: str, scaled: Features) -> Floats | None:
        """What the forest of series `number` says of features [n, features.WIDTH]: `score_samples` [n].

        None where another model serves by now.
        """
