"""What the stream knows of a series at this moment."""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from insa_anomaly.ports import SeriesKey

State = Literal["collecting", "warming", "serving"]


class Standing(msgspec.Struct, frozen=True):
    """A series in the stream: it collects readings for a first model, or its window fills, or it is scored."""

    state: State
    readings: int  # that ever moved its window
    newest: int | None  # time of the newest, microseconds
    model_id: str | None
    in_episode: bool


class Foreseen(msgspec.Struct, frozen=True):
    """What n values would be, each as the next reading of its series; None where it is not known."""

    model_id: str
    model_version: int
    score: list[float]
    expected: list[float | None]
    lower: list[float | None]
    upper: list[float | None]


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

    def foresee(self, key: SeriesKey, values: Sequence[float]) -> Foreseen | None:
        """What these values would be; None unless the series is serving."""
