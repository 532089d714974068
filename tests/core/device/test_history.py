"""The rows that a device is learnt from: bounded and durable."""

from dataclasses import replace

import numpy as np
import pytest

from insa_anomaly.core.device.history import DeviceHistory
from insa_anomaly.core.units import DAY
from insa_anomaly.errors import ModelFileError
from tests.core.device_rows import SMALL, wave

OLD = replace(SMALL, history_readings_most=300)


def kept(told: list[int]) -> DeviceHistory:
    """Return a history of 250 rows, some of them in episodes."""
    rows = wave(250)
    history = DeviceHistory(3, OLD)
    history.add(rows.times, rows.values, np.isin(np.arange(250), told))
    return history


def test_a_history_is_bounded_and_kept() -> None:
    """A history holds the newest rows and survives its file; a damaged file is refused."""
    history, rows = kept([10, 245]), wave(100, 2)
    history.add(rows.times + DAY, rows.values, np.zeros(100, np.bool_))
    again = DeviceHistory.from_bytes(history.to_bytes(), 3, OLD)
    for one in (history, again):
        times, values, told = one.columns()
        assert (len(times), times[-1]) == (300, rows.times[-1] + DAY)
        assert np.flatnonzero(told).tolist() == [195]
        np.testing.assert_array_equal(values[-100:], rows.values)
    for wrong in (b"", b"hello", history.to_bytes()[:300]):
        with pytest.raises(ModelFileError):
            DeviceHistory.from_bytes(wrong, 3, OLD)
