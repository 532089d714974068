"""Whether a retrained model takes over, and by how much it is better: decided here and nowhere else."""

from math import isfinite

import msgspec

from insa_anomaly.ports import ModelRow

NOT_COMPARED = "the two versions were not assessed on the same holdout, so that their figures cannot be compared"


class Promotion(msgspec.Struct, frozen=True):
    """What became of a challenger; `improvement_percentage` in points, None with the reason where it is not known."""

    promoted: bool
    improvement_percentage: float | None
    reason: str


def judge(challenger: ModelRow) -> Promotion:
    """A version that was trained serves: there is nothing yet to refuse it by.

    The improvement is what its training measured against the version before, on one holdout with the same faults; the difference of
    figures from two holdouts would be a difference of holdouts.
    """
    measured = challenger.figures.get("improvement_percentage")
    if isinstance(measured, int | float) and isfinite(measured):
        return Promotion(promoted=True, improvement_percentage=float(measured), reason="")
    return Promotion(promoted=True, improvement_percentage=None, reason=NOT_COMPARED)
