"""The stream as the API asks it: how a series stands, changing nothing."""

from math import isfinite

from insa_anomaly.core import features
from insa_anomaly.ports import SeriesKey
from insa_anomaly.runtime.fleet import Fleet, Window
from insa_anomaly.services.live import Standing, State


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


def _state(window: Window) -> State:
    if window.model is None:
        return "collecting"
    return "warming" if window.state[0, features.COUNT] < features.LONG else "serving"
