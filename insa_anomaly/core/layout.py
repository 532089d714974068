"""Rows of named columns: the state of a series or device, and what a model learnt about it.

A row is float64 and is stored as its bytes, so the place of a column is part of a file format. A
layout names the columns in their order, and the constants that index a row are derived from it: a
column that is added or goes shifts no number by hand, and `take` moves rows of an older version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NewType

import numpy as np

from insa_anomaly.core.units import Floats

StateRows = NewType("StateRows", Floats)  # states of k series or devices [k, w], or of one [w]
LearntRows = NewType("LearntRows", Floats)  # what k models learnt [k, w], or one [w]; or a part


class Layout:
    """Columns of a row in order: widths by name, or a layout whose columns become `name.column`."""

    def __init__(self, parts: Mapping[str, int | Layout], version: int = 1) -> None:
        self.version = version
        self.width = 0
        self.places: dict[str, slice] = {}
        for name, part in parts.items():
            widths = part.widths(name) if isinstance(part, Layout) else {name: part}
            for column, width in widths.items():
                self.places[column] = slice(self.width, self.width + width)
                self.width += width

    def widths(self, prefix: str) -> dict[str, int]:
        """Return the width of every column under `prefix.name`."""
        return {f"{prefix}.{name}": at.stop - at.start for name, at in self.places.items()}

    def part(self, name: str) -> slice:
        """Return the columns of a name, or of the layout that was put in under it."""
        own = [at for column, at in self.places.items() if f"{column}.".startswith(f"{name}.")]
        return slice(own[0].start, own[-1].stop)

    def column(self, name: str) -> int:
        """Return the first column of a name, which is its only one if it is a number."""
        return int(self.part(name).start)

    def take(self, rows: Floats, older: Layout, blank: Floats | float = 0.0) -> Floats:
        """Return rows [..., older.width] in this layout, column by column by name.

        Columns that `older` has not are taken from `blank`: a number or a row of this layout.
        """
        out = np.empty((*rows.shape[:-1], self.width))
        out[:] = blank
        for name in self.places.keys() & older.places.keys():
            at, was = self.places[name], older.places[name]
            width = min(at.stop - at.start, was.stop - was.start)
            out[..., at.start : at.start + width] = rows[..., was.start : was.start + width]
        return out
