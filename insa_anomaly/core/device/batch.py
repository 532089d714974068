"""A row of each of many devices, scored in a single computation.

A row alone costs about as much as many rows together: the cost lies in the number of steps, not in
their width. So rows of devices with equally many metrics are laid side by side, each with its own
model's learnt row, and take every step together. The arithmetic and its order are those of
`detector.advance`, and so are the results, to the bit.
"""

from collections.abc import Sequence

import numpy as np

from insa_anomaly.core.device import detector, features, window
from insa_anomaly.core.device.detector import DeviceResults, Served
from insa_anomaly.core.device.features import MEMBERS
from insa_anomaly.core.device.learnt import LearntRow
from insa_anomaly.core.device.window import COMBINED, EPISODE, SEEN, SINCE_DUE, TAG
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.scoring import episodes
from insa_anomaly.core.units import Features, Floats, Ints


def advance_each(
    states: Sequence[Floats],
    served: Sequence[Served | None],
    times: Ints,
    values: Floats,
    policy: episodes.Policy,
    *,
    parameters: Parameters,
) -> tuple[list[Floats], DeviceResults]:
    """Move the states of k devices by a row each: equal to `detector.advance` of each in turn.

    Each device has its state [window.width(d)], its model or None, the time of its row in
    microseconds since the epoch [k] and its values [k, d]. Returns the new states and the results
    [k]. An unusual row goes by itself: a late row, a row without a reading of a metric, or a row
    before its window is full.
    """
    laid, when = np.concatenate(states).reshape(len(states), -1), times.astype(np.float64)
    gaps = np.array([one.numbers.gap if one else -np.inf for one in served])
    tags = np.array([one.numbers.tag if one else np.nan for one in served])
    goes = window.goes_on(laid, when, values, gaps) & (laid[:, TAG] == tags)
    if goes.all():
        return _side_by_side(laid, [one for one in served if one], when, values, policy)
    after, results = list(states), detector.nothing_said(*values.shape)
    at = np.flatnonzero(goes)
    if len(at):
        models = [one for i in at.tolist() if (one := served[i])]
        moved, said = _side_by_side(laid[at], models, when[at], values[at], policy)
        for i, state in zip(at.tolist(), moved, strict=True):
            after[i] = state
        _put(results, at, said)
    for i in np.flatnonzero(~goes).tolist():
        own = slice(i, i + 1)
        after[i], said = detector.advance(
            states[i], served[i], times[own], values[own], policy, parameters=parameters
        )
        _put(results, own, said)
    return after, results


def _put(results: DeviceResults, at: Ints | slice, part: DeviceResults) -> None:
    for name, column in vars(results).items():
        column[at] = getattr(part, name)


def _side_by_side(
    states: Floats, served: Sequence[Served], times: Floats, values: Floats, policy: episodes.Policy
) -> tuple[list[Floats], DeviceResults]:
    """Advance rows that continue a full window under its own model; see `advance_each`."""
    numbers = served[0].numbers.side_by_side([one.laid_out for one in served])
    after, rows = window.push_each(states, times, values)
    after, look = features.look_at_each(after, rows, numbers.known)
    samples = _samples(served, look.summaries)
    members = detector.surprises(detector.members_of(samples, look), numbers.tables)
    together = features.carried(after[:, COMBINED], members.sum(axis=1) / MEMBERS)
    after[:, COMBINED] = together
    said = detector.weighed(look, samples, members, together, numbers)
    _judge(after, said, times, numbers, policy)
    _count(after, said, numbers)
    return [state.copy() for state in after], said  # one that is kept shall not keep all


def _samples(served: Sequence[Served], summaries: Features) -> Floats:
    """Return the samples of each forest for its row."""
    rows, out = np.array([one.row for one in served]), np.empty(len(served))
    arenas = {id(one.arena): one.arena for one in served}
    if len(arenas) == 1:
        return served[0].arena.score(rows, summaries)
    for arena in arenas.values():
        at = [i for i, one in enumerate(served) if one.arena is arena]
        out[at] = arena.score(rows[at], summaries[at])
    return out


def _judge(
    after: Floats, said: DeviceResults, times: Floats, numbers: LearntRow, policy: episodes.Policy
) -> None:
    """Decide on the rows; write the episodes into the states."""
    after[:, EPISODE] = said.judge(
        slice(None),
        after[:, EPISODE],
        np.arange(len(times)),
        times,
        thresholds=np.asarray(numbers.threshold),
        policy=policy,
    )


def _count(after: Floats, said: DeviceResults, numbers: LearntRow) -> None:
    """Count the rows, and mark the refits that are due."""
    after[:, SEEN] += 1
    since = after[:, SINCE_DUE] + 1
    said.refit_due[:] = due = since >= numbers.refit_step
    after[:, SINCE_DUE] = np.where(due, 0.0, since)
