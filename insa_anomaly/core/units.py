"""Units of time, array types and window lengths that all of the core shares."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SECOND = 1_000_000  # microseconds
DAY = 86_400 * SECOND
SHORT = 10  # readings of the short mean
LONG = 60  # readings of a full window
FLAT_CAP = 500  # longest run of unchanged values that is counted, readings


def joined(parts: Sequence[object]) -> Iterator[npt.NDArray[Any]]:
    """Yield the columns of dataclasses of arrays, field by field, of all parts together."""
    for columns in zip(*(vars(part).values() for part in parts), strict=True):
        yield np.concatenate(columns)
