"""How a series is learnt: the parameters, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameters:
    """How a series is learnt."""

    n_estimators: int = 100
    contamination: float | str = (
        0.1  # or "auto": sets the forest's offset, seen in `raw_score`; it is not the rate of alarms
    )
    max_samples: int | str = "auto"  # at most 256
    random_state: int = 42
    alpha: float = 1e-3  # a reading whose p-value is below this is anomalous
    gap_factor: float = 20.0  # a pause of more than this many typical ones restarts the window
    first_fit_readings: int = 500
    first_fit_seconds: float = 3600.0
    first_fit_retry_readings: int = 250
    refit_readings_least: int = 250  # a refit is due once a day, within these bounds
    refit_readings_most: int = 2000
    history_days: float = 14.0  # a model is learnt from this much, within these bounds
    history_readings_least: int = 4000
    history_readings_most: int = 20_000
    mature_days: float = (
        7.0  # with a history as long as this and as many readings as this, a series is mature
    )
    mature_readings: int = 10_000
