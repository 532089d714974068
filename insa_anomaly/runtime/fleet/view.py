"""The stream as the API asks it: how a series stands, changing nothing."""

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core import units
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series import features
from insa_anomaly.runtime.fleet.fleet import Fleet
from insa_anomaly.runtime.fleet.shared_windows import SharedWindows, WindowCopy
from insa_anomaly.services.stream_view import SeriesStatus, ServingModel, ShadowTally, State


class SharedStreamView:
    """The port `Live` over a board, wherever that is seen. Any thread may ask.

    `number_of` knows the number of a series, None where it was never seen; `compared` is as in the port.
    """

    def __init__(
        self,
        board: SharedWindows,
        number_of: Callable[[SeriesKey], int | None],
        compared: Callable[[SeriesKey], ShadowTally | None],
    ) -> None:
        self._board = board
        self._number_of = number_of
        self.compared = compared

    def standing(self, key: SeriesKey) -> SeriesStatus | None:
        """How this series stands; None where it was never seen."""
        found = self._look(key)
        if found is None:
            return None
        state, seen = found.state, int(found.state[features.SEEN])
        newest = int(state[features.LAST]) if seen else None
        return SeriesStatus(
            _state(found),
            seen,
            newest,
            found.model and found.model[0],
            bool(state[features.EPISODE][1] > 0),
        )

    def serving(self, key: SeriesKey) -> ServingModel | None:
        """What its next reading is scored with; None unless the series is serving."""
        found = self._look(key)
        if found is None or found.model is None or _state(found) != "serving":
            return None
        return ServingModel(found.number, *found.model, found.state, found.numbers)

    def isolate(
        self, number: int, model_id: str, scaled: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64] | None:
        """What the forest of series `number` says of features; None where another model serves by now."""
        return self._board.isolate(number, model_id, scaled)

    def _look(self, key: SeriesKey) -> WindowCopy | None:
        number = self._number_of(key)
        return None if number is None else self._board.look(number)


def stream_view(fleet: Fleet) -> SharedStreamView:
    """The port over a fleet of this process."""
    return SharedStreamView(fleet.board, fleet.registry.known, lambda key: compared(fleet, key))


def compared(fleet: Fleet, key: SeriesKey) -> ShadowTally | None:
    """What became of the series' shadow so far; None where it has none."""
    number = fleet.registry.known(key)
    found = None if number is None else fleet.shadows.tally(number)
    return None if found is None else ShadowTally(found[0], *msgspec.structs.astuple(found[1]))


def _state(window: WindowCopy) -> State:
    if window.model is None:
        return "collecting"
    return "warming" if window.state[features.COUNT] < units.LONG else "serving"
