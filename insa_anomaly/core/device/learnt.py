"""What was learnt about a device as numbers in one row, so that those of many devices can be laid side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from insa_anomaly.core.device.features import Knowledge
from insa_anomaly.core.units import Floats

_SCALARS = 6


@dataclass(frozen=True)
class LearntRow:
    """All that scoring needs of a device model but its forest; or that of k models, with k in front of all shapes."""

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
        """All of it one after another."""
        return np.concatenate([np.ravel(part) for part in self._parts()])

    def side_by_side(self, rows: Sequence[Floats]) -> LearntRow:
        """Those of k models that `row` made, which have as many metrics as this one."""
        k = len(rows)
        laid = np.concatenate(rows).reshape(k, -1)
        tag, gap, alpha, threshold, refit_step, offset = laid[:, :_SCALARS].T.copy()
        band, tables, *known = [
            laid[:, begin:end].reshape(k, *shape) for begin, end, shape in self._places
        ]
        return LearntRow(
            tag, gap, alpha, threshold, refit_step, offset, band, tables, Knowledge(*known)
        )

    @cached_property
    def _places(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """Where in a row each part begins and ends that is more than a number, and its shape."""
        wide = self._parts()[_SCALARS:]
        ends = accumulate(map(np.size, wide), initial=_SCALARS)
        return [
            (begin, end, np.shape(part))
            for (begin, end), part in zip(pairwise(ends), wide, strict=True)
        ]

    def _parts(self) -> list[Floats | float]:
        own = [getattr(self, field.name) for field in fields(self)[:-1]]
        return own + [getattr(self.known, field.name) for field in fields(Knowledge)]
