"""The cheap companions of the forest, which go on growing where a forest is flat."""

import numpy as np

from insa_anomaly.core.features import WIDTH, Features, Floats


def window_z(features: Features) -> Floats:
    """Log root mean square of the scaled features [n, WIDTH] -> [n], higher = stranger."""
    wide = features.astype(np.float64)
    rms: Floats = np.sqrt((wide * wide).sum(axis=1) / WIDTH)
    return np.log1p(rms)
