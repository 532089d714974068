"""Timestamps as people have them: any of the usual kinds becomes microseconds since the epoch."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from insa_anomaly.core.units import Ints

Timestamp = float | str | datetime | np.datetime64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(timestamps: Iterable[Timestamp]) -> Ints:
    """Timestamps of any accepted kind -> microseconds since the epoch. Raises ValueError."""
    whole = hasattr(timestamps, "__array__") or isinstance(timestamps, Sequence)
    given = np.asarray(timestamps if whole else list(timestamps))
    if given.dtype.kind == "M":
        micros = given.astype("datetime64[us]")
        if np.isnat(micros).any():
            raise ValueError("a timestamp is missing")
        return micros.astype(np.int64)
    if given.dtype.kind in "iu":
        return given.astype(np.int64) * 1_000_000
    if given.dtype.kind == "f":
        if not np.isfinite(given).all():
            raise ValueError("a timestamp is not finite")
        return np.rint(given * 1e6).astype(np.int64)
    return np.array([_micro(one) for one in given.tolist()], np.int64)


def _micro(timestamp: Timestamp) -> int:
    if isinstance(timestamp, str):
        timestamp = datetime.fromisoformat(timestamp)
    if isinstance(timestamp, datetime):
        since = (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)) - _EPOCH
        return since // timedelta(microseconds=1)
    return round(float(timestamp) * 1e6)
