"""What the stream knows of a series at this moment."""

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


class Live(Protocol):
    """The stream, to be asked by any thread."""

    def standing(self, key: SeriesKey) -> Standing | None:
        """How this series stands; None where it was never seen."""
