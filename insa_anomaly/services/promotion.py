"""Whether a retrained model takes over, and by how much it is better: decided here and nowhere else."""

from math import isfinite

import msgspec

from insa_anomaly.ports import ModelRow

NOT_COMPARED = "the two versions were not assessed on the same holdout, so that their figures cannot be compared"


class Promotion(msgspec.Struct, frozen=True):
    """What became of a challenger; `improvement_percentage` of balanced accuracy, None with the reason where it is not known."""

    promoted: bool
    improvement_percentage: float | None
    reason: str


def judge(challenger: ModelRow) -> Promotion:
    """What its training found against the version before, on one holdout with the same faults.

    The difference of figures from two holdouts would be a difference of holdouts.
    """
    measured, unknown = (
        challenger.figures.get(name) for name in ("improvement_percentage", "improvement_unknown")
    )
    improvement = (
        float(measured) if isinstance(measured, int | float) and isfinite(measured) else None
    )
    why = challenger.reason or ("" if improvement is not None else str(unknown or NOT_COMPARED))
    return Promotion(not challenger.reason, improvement, why)
