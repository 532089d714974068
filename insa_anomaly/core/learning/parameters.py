"""How a series is learnt: the parameters, with their defaults and bounds."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from insa_anomaly.core.bounds import Count, Nonnegative, OrAuto, Positive, Significance, check
from insa_anomaly.core.units import DAY, Floats


@dataclass(frozen=True)
class Parameters:
    """How a series is learnt."""

    n_estimators: Annotated[int, Ge(1), Le(1000)] = 100
    # Sets the forest's offset, seen in `raw_score`; it is not the rate of alarms.
    contamination: Annotated[float | str, OrAuto(float, 1e-6, 0.5)] = 0.1
    max_samples: Annotated[int | str, OrAuto(int, 2, 256)] = "auto"
    random_state: Annotated[int, Ge(0), Lt(1 << 32)] = 42
    alpha: Significance = 1e-3  # a reading whose p-value is below this is anomalous
    # A pause of more than this many typical pauses restarts the window.
    gap_factor: Annotated[float, Gt(1), Lt(inf)] = 20.0
    first_fit_readings: Count = 500
    first_fit_seconds: Nonnegative = 3600.0
    first_fit_retry_readings: Count = 250
    refit_readings_least: Count = 250  # a refit is due once a day, within these bounds
    refit_readings_most: Count = 2000
    history_days: Positive = 14.0  # a model is learnt from this much, within these bounds
    history_readings_least: Annotated[int, Ge(100)] = 4000
    history_readings_most: Annotated[int, Ge(100), Le(1_000_000)] = 20_000
    mature_days: Nonnegative = 7.0  # a series is mature with a history as long as this
    mature_readings: Annotated[int, Ge(0)] = 10_000  # and with as many readings as this

    def __post_init__(self) -> None:
        """Raise ParameterError for a value out of bounds, ValueError for crossed bounds."""
        check(self)
        for name in ("refit_readings", "history_readings"):
            if getattr(self, f"{name}_least") > getattr(self, f"{name}_most"):
                raise ValueError(f"{name}_least is more than {name}_most")

    def newest(self, when: Floats) -> int:
        """Return the number of the newest readings, at `when` [n], that a model is learnt from."""
        recent = int((when >= when[-1] - self.history_days * DAY).sum())
        return min(max(recent, self.history_readings_least), self.history_readings_most)

    def refit_step(self, a_day: float) -> float:
        """Return the readings between refits where so many come a day."""
        return float(min(max(a_day, self.refit_readings_least), self.refit_readings_most))
