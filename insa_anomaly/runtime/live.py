"""The stream as the API asks it: how a series stands, changing nothing."""

from collections.abc import Sequence
from math import isfinite

import msgspec
import numpy as np

from insa_anomaly.core import features
from insa_anomaly.core.detector import Results
from insa_anomaly.ports import SeriesKey
from insa_anomaly.runtime.fleet import Fleet, Window
from insa_anomaly.services.live import Compared, Foreseen, Standing, State

ATTEMPTS = 5  # a model is swapped once a day
AT_ONCE = 256  # values: between two such parts the stream has its turn


class LiveFleet:
    """The port `Live` over the fleet. Any thread may ask."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def standing(self, key: SeriesKey) -> Standing | None:
        """How this series stands; None where it was never seen."""
        window = self._fleet.look(key)
        if window is None:
            return None
        state = window.state[0]
        newest = int(state[features.LAST]) if isfinite(state[features.LAST]) else None
        in_episode = bool(state[features.EPISODE][1] > 0)
        return Standing(_state(window), int(state[features.SEEN]), newest, window.model and window.model[0], in_episode)

    def compared(self, key: SeriesKey) -> Compared | None:
        """What became of the series' shadow so far; None where it has none."""
        number = self._fleet.registry.known(key)
        found = None if number is None else self._fleet.shadows.tally(number)
        return None if found is None else Compared(found[0], *msgspec.structs.astuple(found[1]))

    def foresee(self, key: SeriesKey, values: Sequence[float]) -> Foreseen | None:
        """What these values would be, each as the next reading; None unless the series is serving."""
        for _ in range(ATTEMPTS):
            window = self._fleet.look(key)
            if window is None or window.model is None or _state(window) != "serving":
                return None
            parts = [
                self._fleet.foresee(window, np.array(values[begin : begin + AT_ONCE], float)) for begin in range(0, len(values), AT_ONCE)
            ]
            if not any(part is None for part in parts):
                return _foreseen(window.model, [part for part in parts if part is not None])
        return None


def _foreseen(model: tuple[str, int], parts: list[Results]) -> Foreseen:
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in ("score", "expected", "lower", "upper")]
    score, *known = (column.tolist() for column in columns)
    return Foreseen(*model, score, *([one if isfinite(one) else None for one in column] for column in known))


def _state(window: Window) -> State:
    if window.model is None:
        return "collecting"
    return "warming" if window.state[0, features.COUNT] < features.LONG else "serving"
