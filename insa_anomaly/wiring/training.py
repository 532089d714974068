"""Factory of the training service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.clock import clock

if TYPE_CHECKING:
    from insa_anomaly.services.training import TrainingService


def training_service(
    settings: Settings, files: ModelFiles, on_progress: Callable[[int], None] = lambda _: None
) -> TrainingService:
    """Return the service that trains by these settings and stores models in these files."""
    # Loads scikit-learn, which the daemon must not
    from insa_anomaly.services import training  # noqa: PLC0415

    parameters, policy, devices = settings.detection, settings.verdict, settings.devices
    alone = training.SeriesTraining(parameters, policy)
    together = training.DeviceTraining(devices.parameters(parameters), devices.tolerance, policy)
    return training.TrainingService(files, alone, together, clock, on_progress)
