"""The learnt row of a device: its parts in a row, so that devices can be laid side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from insa_anomaly.core.device.features import Knowledge
from insa_anomaly.core.units import Floats

_SCALARS = 6


@dataclass(frozen=True)
class LearntRow:
    """Values that scoring needs of a device model beside its forest; or of k, with k in front."""

    tag: Floats | float  # tells this model from another
    gap: Floats | float  # a longer pause restarts the window, microseconds
    alpha: Floats | float
    threshold: Floats | float
    refit_step: Floats | float
    offset: Floats | float  # of the forest
    band: Floats  # [d]
    tables: Floats  # [MEMBERS + 1, calibration.TABLE_WIDTH]
    known: Knowledge

    def row(self) -> Floats:
        """Return all parts in a row."""
        return np.concatenate([np.ravel(part) for part in self._parts()])

    def side_by_side(self, rows: Sequence[Floats]) -> LearntRow:
        """Return k models from rows that `row` made, with as many metrics as this model."""
        k = len(rows)
        laid = np.concatenate(rows).reshape(k, -1)
        wide = [laid[:, begin:end].reshape(k, *shape) for begin, end, shape in self._places]
        own: list[Any] = [*laid[:, :_SCALARS].T.copy(), *wide[:2], Knowledge(*wide[2:])]
        return LearntRow(*own)

    @cached_property
    def _places(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """Begin, end and shape of each part of a row that is more than a number."""
        wide = self._parts()[_SCALARS:]
        ends = accumulate(map(np.size, wide), initial=_SCALARS)
        return [
            (begin, end, np.shape(part))
            for (begin, end), part in zip(pairwise(ends), wide, strict=True)
        ]

    def _parts(self) -> list[Floats | float]:
        own = [getattr(self, field.name) for field in fields(self)[:-1]]
        return own + [getattr(self.known, field.name) for field in fields(Knowledge)]
