"""The stream view of the API: the status of a series, read without a change."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from insa_anomaly.core import units
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series import features
from insa_anomaly.core.units import Features, Floats
from insa_anomaly.ports.clock import Clock
from insa_anomaly.runtime.fleet.fleet import Fleet
from insa_anomaly.runtime.fleet.shared_windows import SharedWindows, WindowCopy
from insa_anomaly.services.stream_view import SeriesStatus, ServingModel, ShadowTally, State


@dataclass(eq=False)
class SharedStreamView:
    """The port `StreamView` over shared windows, in any process and thread.

    `index_of` returns the index of a series, None if it was never seen; `compared` is as in the
    port.
    """

    windows: SharedWindows
    clock: Clock
    index_of: Callable[[SeriesKey], int | None]
    compared: Callable[[SeriesKey], ShadowTally | None]

    def status(self, key: SeriesKey) -> SeriesStatus | None:
        """Return the status of a series; None if it was never seen."""
        found = self._read(key)
        if found is None:
            return None
        state, seen = found.state, int(found.state[features.SEEN])
        newest = int(state[features.LAST]) if seen else None
        model_id, in_episode = found.model and found.model[0], bool(state[features.EPISODE][1] > 0)
        return SeriesStatus(_state(found), seen, newest, model_id, in_episode)

    def serving(self, key: SeriesKey) -> ServingModel | None:
        """Return the model that scores the next reading; None unless the series is serving."""
        found = self._read(key)
        if found is None or found.model is None or _state(found) != "serving":
            return None
        return ServingModel(found.index, *found.model, found.state, found.learnt)

    def isolate(self, index: int, model_id: str, scaled: Features) -> Floats | None:
        """Return samples of the forest of series `index`; None if another model serves by now."""
        return self.windows.isolate(index, model_id, scaled)

    def _read(self, key: SeriesKey) -> WindowCopy | None:
        index = self.index_of(key)
        return None if index is None else self.windows.read(index, self.clock)


def stream_view(fleet: Fleet, clock: Clock) -> SharedStreamView:
    """Return the view of a fleet in this process."""
    return SharedStreamView(
        fleet.windows, clock, fleet.registry.find, lambda key: compared(fleet, key)
    )


def compared(fleet: Fleet, key: SeriesKey) -> ShadowTally | None:
    """Return the counts of the series' shadow; None without a shadow."""
    index = fleet.registry.find(key)
    found = None if index is None else fleet.shadows.tally(index)
    return None if found is None else ShadowTally(found[0], *msgspec.structs.astuple(found[1]))


def _state(window: WindowCopy) -> State:
    if window.model is None:
        return "collecting"
    return "warming" if window.state[features.COUNT] < units.LONG else "serving"
