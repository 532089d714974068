"""Windows and models of every series in memory that other processes can see: a row by index.

A reading process takes no lock, so that it cannot hold up the stream, even if it dies while
reading. Each row has a stamp, odd while the row is being written: a copy between two looks at the
same even stamp is whole (a sequence lock; Lameter 2005, Linux' seqlock).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.layout import LearntRows, StateRows
from insa_anomaly.core.scoring.forest import Allocator
from insa_anomaly.core.series import features
from insa_anomaly.core.series.detector import Model, ModelTable
from insa_anomaly.core.units import Features, Floats
from insa_anomaly.errors import DaemonSilent
from insa_anomaly.ports.clock import Clock

ID_BYTES = 36  # of a model: a UUID as text
# A row is being written for some 20 us, once in a batch that has readings of it.
_ATTEMPTS, _PAUSE_SECONDS = 2000, 0.0005


@dataclass(frozen=True)
class WindowCopy:
    """Copies of a series' state [features.STATE.width] and learnt row [detector.LEARNT.width].

    `model` is id and version of its model; without a model the learnt row has no meaning.
    """

    index: int
    state: StateRows
    learnt: LearntRows
    model: tuple[str, int] | None


class SharedWindows:
    """Rows for `capacity` series, in memory that `zeros` gives.

    Processes that ask for the same memory in the same order see the same rows. A single thread of
    one process writes, any may read.
    """

    def __init__(self, capacity: int, trees: int, zeros: Allocator = np.zeros) -> None:
        self.models = ModelTable(capacity, trees, zeros)
        self.states = StateRows(zeros((capacity, features.STATE.width), np.float64))
        self._ids = zeros((capacity,), f"S{ID_BYTES}")
        self._versions = zeros((capacity,), np.int64)
        self._stamps = zeros((capacity,), np.int64)

    # Who writes
    @contextmanager
    def changing(self, indices: "npt.NDArray[np.integer] | int | slice") -> Iterator[None]:
        """Write rows in the block; each is named once, and no other thread writes them."""
        self._stamps[indices] += 1
        try:
            yield
        finally:
            self._stamps[indices] += 1

    def put(self, index: int, model: Model | None) -> None:
        """Let a model, or none, score the series from now on, in a block of `changing`.

        While its forest is written the series has no model: `isolate` walks for longer than a
        reader would wait for a stamp.
        """
        self._ids[index] = b""
        if model is None:
            self.models.remove(index)
        else:
            self.models.put(index, model)
            self._ids[index], self._versions[index] = model.id.encode(), model.version

    # Who reads
    def read(self, index: int, clock: Clock) -> WindowCopy:
        """Return a series between two batches. Raises DaemonSilent if its writer stands still."""
        for _ in range(_ATTEMPTS):
            stamp = int(self._stamps[index])
            state = StateRows(self.states[index].copy())
            learnt = LearntRows(self.models.learnt[index].copy())
            found = WindowCopy(index, state, learnt, self._model(index))
            if stamp % 2 == 0 and stamp == int(self._stamps[index]):
                return found
            clock.sleep(_PAUSE_SECONDS)
        raise DaemonSilent("the daemon stands still in the middle of a change")

    def isolate(self, index: int, model_id: str, scaled: Features) -> Floats | None:
        """Return `score_samples` [n] of features [n, features.WIDTH] by the forest of this series.

        None if another model scores the series, or was put meanwhile.
        """
        before = self._model(index)
        found = self.models.arena.score(np.full(len(scaled), index), scaled)
        same = before is not None and before[0] == model_id and before == self._model(index)
        return found if same else None

    def _model(self, index: int) -> tuple[str, int] | None:
        model_id = bytes(self._ids[index]).decode()
        return (model_id, int(self._versions[index])) if model_id else None
