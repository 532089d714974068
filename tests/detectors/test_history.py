"""The rows that a device is learnt from: bounded and durable."""

import numpy as np
import pytest

from insa_anomaly.core.units import DAY
from insa_anomaly.detectors.history import RefitHistory
from insa_anomaly.errors import ModelFileError
from tests.core.device_rows import wave


def kept(told: list[int]) -> RefitHistory:
    """Return a history of 250 rows, some of them in episodes."""
    rows = wave(250)
    history = RefitHistory(300, 3)
    history.add(rows.times, rows.values, np.where(np.isin(np.arange(250), told), -0.5, 0.0))
    return history


def test_a_history_is_bounded_and_kept() -> None:
    """A history holds the newest rows and survives its file; a damaged file is refused."""
    history, rows = kept([10, 245]), wave(100, 2)
    history.add(rows.times + DAY, rows.values, np.zeros(100))
    again = RefitHistory(300, 3)
    again.read(history.to_bytes())
    for one in (history, again):
        times, values, alarms = one.columns()
        assert (len(times), times[-1]) == (300, rows.times[-1] + DAY)
        assert np.flatnonzero(alarms < 0).tolist() == [195]
        np.testing.assert_array_equal(values[-100:], rows.values)
    for wrong in (b"", b"hello", history.to_bytes()[:300]):
        with pytest.raises(ModelFileError):
            again.read(wrong)
    assert len(again.columns()[0]) == 300
