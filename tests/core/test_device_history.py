"""The rows that a device is learnt from: bounded, kept, and without what was told of a mature one."""

from dataclasses import replace

import numpy as np
import pytest

from insa_anomaly.core.device import DeviceParameters
from insa_anomaly.core.device_history import DeviceHistory
from insa_anomaly.core.features import DAY
from insa_anomaly.errors import ModelFileError
from tests.core.device_rows import SMALL, wave

OLD = replace(SMALL, mature_days=0.1, mature_readings=200, history_readings_most=300)


def kept(told: list[int], parameters: DeviceParameters = OLD) -> DeviceHistory:
    """A history of 250 rows, these of them in episodes."""
    rows = wave(250)
    history = DeviceHistory(3, parameters)
    history.add(rows.times, rows.values, np.isin(np.arange(250), told))
    return history


def test_a_young_device_learns_everything_for_good() -> None:
    """What was told is learnt, and stays learnt when it has grown up."""
    for young in (replace(OLD, mature_days=1.0), replace(OLD, mature_readings=251)):
        history = kept([10, 11], young)
        assert len(history.ordinary(20)[0]) == 250
        rows = wave(60, 1)
        history.add(rows.times + 2 * DAY, rows.values, np.zeros(60, np.bool_))
        assert len(history.ordinary(20)[0]) == 300


def test_a_mature_device_leaves_out_what_was_told() -> None:
    """Until it is more than half of the last four steps: then that is how it is now."""
    assert len(kept([10, 11]).ordinary(20)[0]) == 248
    assert len(kept([*range(170, 210)]).ordinary(20)[0]) == 210
    history = kept([10, *range(170, 211)])
    assert len(history.ordinary(20)[0]) == 250
    assert len(history.ordinary(20)[0]) == 250


def test_a_history_is_bounded_and_kept() -> None:
    """The newest rows; written and read again it is the same."""
    history, rows = kept([10, 245]), wave(100, 2)
    history.add(rows.times + DAY, rows.values, np.zeros(100, np.bool_))
    again = DeviceHistory.from_bytes(history.to_bytes(), 3, OLD)
    for one in (history, again):
        times, values = one.ordinary(20)
        assert (len(times), times[-1]) == (299, rows.times[-1] + DAY)
        np.testing.assert_array_equal(values[-100:], rows.values)
    for wrong in (b"", b"hello", history.to_bytes()[:300]):
        with pytest.raises(ModelFileError):
            DeviceHistory.from_bytes(wrong, 3, OLD)
