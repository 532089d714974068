"""Anomaly detection for plant telemetry: a model of its own for every metric of every device."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from insa_anomaly.ml_model_manager import AnomalyDetector, DeviceDetector

__all__ = ["AnomalyDetector", "DeviceDetector", "__version__"]

__version__ = version("insa-anomaly")


def __getattr__(name: str) -> object:
    """Import the detectors at their first use: a command that prints its help needs no numpy."""
    if name in {"AnomalyDetector", "DeviceDetector"}:
        return getattr(import_module("insa_anomaly.ml_model_manager"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
