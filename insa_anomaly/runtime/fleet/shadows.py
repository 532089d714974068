"""Shadows: second versions of models that score along, so that two versions can be compared.

A shadow has a window of its own, which begins as the window of its series, and changes no result of
the serving version. Without a shadow there is no work and no memory.
"""

from dataclasses import dataclass
from threading import Lock

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from insa_anomaly.core.layout import StateRows
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.scoring.episodes import Policy, Transition
from insa_anomaly.core.series import features
from insa_anomaly.core.series.detector import Model, ModelTable, Results, SeriesBatch, advance
from insa_anomaly.core.units import Bools, Floats, Ints
from insa_anomaly.ports.recorder import Telemetry

_NO_SHADOW = -1


class ShadowCounts(msgspec.Struct, frozen=True, array_like=True):
    """Results of both versions on the readings that both scored.

    Times are microseconds of the event, 0 before the first reading.
    """

    since: int = 0
    newest: int = 0
    readings: int = 0
    anomalies: int = 0
    shadow_anomalies: int = 0
    both: int = 0  # readings that both called anomalous
    episodes: int = 0  # that the serving version opened
    shadow_episodes: int = 0  # that the shadow would have opened
    champions: int = 1  # versions that served meanwhile

    def with_readings(self, times: Ints, ours: Results, theirs: Results) -> "ShadowCounts":
        """Return the counts with more readings, in time order; the serving version's are `ours`."""
        scored = ours.scored & theirs.scored
        if not scored.any():
            return self
        found, shadowed = ours.score[scored] < 0, theirs.score[scored] < 0
        opened, would_open = (
            int((one.transition[scored] == Transition.OPENED).sum()) for one in (ours, theirs)
        )
        return ShadowCounts(
            since=self.since or int(times[scored][0]),
            newest=int(times[scored][-1]),
            readings=self.readings + int(scored.sum()),
            anomalies=self.anomalies + int(found.sum()),
            shadow_anomalies=self.shadow_anomalies + int(shadowed.sum()),
            both=self.both + int((found & shadowed).sum()),
            episodes=self.episodes + opened,
            shadow_episodes=self.shadow_episodes + would_open,
            champions=self.champions,
        )


class KeptShadow(msgspec.Struct, frozen=True, array_like=True):
    """The checkpoint of a shadow."""

    model_id: str
    state: bytes
    tally: ShadowCounts


@dataclass
class _Shadow:
    """A shadow's row in the matrices, its model and its counts."""

    row: int
    model_id: str
    tally: ShadowCounts


class Shadows:
    """The shadows of a fleet by series index.

    Only the score reader's thread changes them; any thread may read.
    """

    def __init__(self, capacity: int, parameters: Parameters, policy: Policy) -> None:
        self._capacity = capacity
        self._parameters = parameters
        self._policy = policy
        self._shadows: dict[int, _Shadow] = {}
        self._models: ModelTable | None = None  # made for the first shadow
        self._row_of = np.zeros(0, np.int64)
        self._states = features.empty(0)
        self._changing = Lock()

    def follow(self, telemetry: Telemetry, ours: Results, muted: Bools | None) -> None:
        """Score the readings of series with a shadow.

        `ours` are the results of the serving versions; `muted` readings open no episode.
        """
        if self._models is None or not self._shadows:
            return
        at = np.flatnonzero(self._row_of[telemetry.key] != _NO_SHADOW)
        if len(at):
            self._follow(telemetry, at, self._models, ours, muted)

    def _follow(
        self, telemetry: Telemetry, at: Ints, models: ModelTable, ours: Results, muted: Bools | None
    ) -> None:
        rows = self._row_of[telemetry.key[at]]
        taken, which = np.unique(rows, return_inverse=True)
        batch = readings_of(telemetry, at, series=which, models=rows, muted=muted)
        states = StateRows(self._states[taken])
        self._states[taken], theirs = advance(states, batch, models, self._policy, self._parameters)
        for index in np.unique(telemetry.key[at]).tolist():
            own = np.flatnonzero(telemetry.key[at] == index)
            shadow = self._shadows[index]
            tally = shadow.tally.with_readings(
                telemetry.timestamp[at[own]], _picked(ours, at[own]), _picked(theirs, own)
            )
            with self._changing:
                shadow.tally = tally

    def model_of(self, index: int) -> str | None:
        """Return the id of the model that shadows the series."""
        found = self._shadows.get(index)
        return None if found is None else found.model_id

    def tally(self, index: int) -> tuple[str, ShadowCounts] | None:
        """Return the model that shadows the series, and its counts."""
        with self._changing:
            found = self._shadows.get(index)
            return None if found is None else (found.model_id, found.tally)

    def put(
        self, index: int, model: Model, state: Floats, tally: ShadowCounts | None = None
    ) -> None:
        """Let the model shadow the series from `state` [features.STATE.width] on.

        Raises ValueError if it has too many trees.
        """
        trees = self._parameters.n_estimators
        models = self._models = self._models or ModelTable(self._capacity, trees)
        self.remove(index)
        row = min(set(range(len(self._shadows) + 1)) - {one.row for one in self._shadows.values()})
        models.put(row, model)
        self._make_room(index, row)
        self._states[row], self._row_of[index] = state, row
        with self._changing:
            self._shadows[index] = _Shadow(row, model.id, tally or ShadowCounts())

    def remove(self, index: int) -> None:
        """End the shadow of the series."""
        with self._changing:
            found = self._shadows.pop(index, None)
        if found is not None:
            self._row_of[index] = _NO_SHADOW

    def served_by_another(self, index: int) -> None:
        """Continue the comparison with another serving version."""
        found = self._shadows.get(index)
        if found is not None:
            champions = found.tally.champions + 1
            with self._changing:
                found.tally = replace(found.tally, champions=champions)

    def kept(self, index: int) -> KeptShadow | None:
        """Return the checkpoint of the series' shadow, if any."""
        found = self._shadows.get(index)
        if found is None:
            return None
        return KeptShadow(found.model_id, self._states[found.row].tobytes(), found.tally)

    def _make_room(self, index: int, row: int) -> None:
        if index >= len(self._row_of):
            more: npt.NDArray[np.int64] = np.full(self._capacity - len(self._row_of), _NO_SHADOW)
            self._row_of = np.concatenate([self._row_of, more])
        if row >= len(self._states):
            more_states = features.empty(max(8, row))
            self._states = StateRows(np.concatenate([self._states, more_states]))


def readings_of(
    telemetry: Telemetry, at: Ints | slice, *, series: Ints, models: Ints, muted: Bools | None
) -> SeriesBatch:
    """Return some readings as `advance` takes them, with the rows of their series and models."""
    return SeriesBatch(
        series=series,
        models=models,
        values=telemetry.value[at],
        times=telemetry.timestamp[at],
        discriminators=telemetry.discriminator[at],
        qualities=telemetry.quality[at],
        muted=None if muted is None else muted[at],
    )


def _picked(results: Results, at: Ints) -> Results:
    """Return the results of some readings."""
    return Results(**{name: getattr(results, name)[at] for name in Results.__dataclass_fields__})
