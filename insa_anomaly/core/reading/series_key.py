"""The key of a series, and of a device as a whole."""

from __future__ import annotations

from typing import NamedTuple

DEVICE_METRIC = "_device"  # reserved metric name: stands for all metrics of a device together


class SeriesKey(NamedTuple):
    """Device and metric of a series; a device as a whole has a key of its own."""

    device_id: str
    metric_name: str

    @classmethod
    def of_device(cls, device_id: str) -> SeriesKey:
        """Return the key of the device as a whole."""
        return cls(device_id, DEVICE_METRIC)

    @property
    def is_device(self) -> bool:
        """True for the key of a device as a whole."""
        return self.metric_name == DEVICE_METRIC
