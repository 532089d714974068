"""The classes that people import: `AnomalyDetector` for a metric, `DeviceDetector` for a device."""

from insa_anomaly.detectors.device import DeviceDetector
from insa_anomaly.detectors.series import AnomalyDetector

__all__ = ["AnomalyDetector", "DeviceDetector"]
