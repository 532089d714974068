"""Units of time, array types and window lengths that all of the core shares."""

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
