"""Reasons: shares computed from forest paths equal the naive ones, and a planted cause is named."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy, Transition
from insa_anomaly.core.scoring.forest import Arena, average_path_length
from insa_anomaly.core.series import features
from insa_anomaly.core.series.detector import ModelTable, Results, SeriesBatch, advance
from insa_anomaly.core.series.reasons import reasons
from insa_anomaly.core.series.training import SeriesLearner, Trained
from insa_anomaly.core.units import Floats
from tests.core.streams import MINUTE, SMALL, START, daily, trained


def naive_shares(one: Trained, row: Floats) -> Floats:
    """Walk scikit-learn's trees with every set of known features.

    The share of a feature is the fall of the expected path length when the feature becomes known,
    summed over all sets.
    """
    used = [
        j
        for j in range(features.WIDTH)
        if any(j in estimator.tree_.feature for estimator in one.forest.estimators_)
    ]
    sets = [frozenset(chosen) for n in range(len(used) + 1) for chosen in combinations(used, n)]
    length = {
        known: sum(
            expected(estimator.tree_, 0, 0, row, known) for estimator in one.forest.estimators_
        )
        for known in sets
    }
    taken = np.zeros(features.WIDTH)
    for j in used:
        taken[j] = sum(length[known] - length[known | {j}] for known in sets if j not in known)
    taken = np.maximum(taken, 0)
    return taken / taken.sum() if taken.sum() > 0 else taken


def expected(tree: Any, node: int, depth: int, row: Floats, known: frozenset[int]) -> float:  # noqa: ANN401 - a private class
    """Return the expected path length from `node` on where only `known` features are known.

    At an unknown feature both branches count, weighted by their training samples.
    """
    left, right = int(tree.children_left[node]), int(tree.children_right[node])
    if left < 0:
        return depth + float(average_path_length(np.array(float(tree.n_node_samples[node]))))
    if int(tree.feature[node]) in known:
        return expected(
            tree,
            left if row[tree.feature[node]] <= tree.threshold[node] else right,
            depth + 1,
            row,
            known,
        )
    counts = tree.n_node_samples
    both = (
        int(counts[child]) * expected(tree, child, depth + 1, row, known) for child in (left, right)
    )
    return sum(both) / int(counts[node])


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2),
    row=st.lists(st.floats(-30, 30, width=32), min_size=features.WIDTH, max_size=features.WIDTH),
)
def test_law_shares_are_those_of_a_walk_through_the_trees(seed: int, row: list[float]) -> None:
    """Shares equal the shares of a walk through the trees, are not negative, and sum to 1 or 0."""
    one = trained(seed)
    arena = Arena(2, SMALL.n_estimators + 3)  # room for more trees than the forest has
    arena.put(1, one.model.forest)
    shares = arena.shares(1, np.array(row, np.float32))
    np.testing.assert_allclose(shares, naive_shares(one, np.array(row)), atol=1e-4)
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1) or not shares.any()


def followed(values: Floats, learnt: Floats) -> tuple[ModelTable, Results]:
    """Return the results of a model of `learnt` for `values` that follow, a reading a minute."""
    times = START + np.arange(len(learnt) + len(values)) * MINUTE
    one = SeriesLearner(
        key=SeriesKey("D", "m"),
        id="id",
        version=1,
        parameters=SMALL,
        policy=Policy(merge_gap_readings=3),
    ).fit(times[: len(learnt)], learnt)
    models = ModelTable(1, SMALL.n_estimators)
    models.put(0, one.model)
    all_values, row = np.concatenate((learnt, values)), np.zeros(len(times), np.int64)
    return models, advance(
        features.empty(1),
        SeriesBatch(
            series=row,
            models=row,
            values=all_values,
            times=times,
            discriminators=np.arange(len(times)),
            qualities=row,
        ),
        models,
        Policy(),
        SMALL,
    )[1]


def test_a_planted_cause_is_named_and_an_episode_that_goes_on_is_not_explained_again() -> None:
    """A jump is explained by its rules and features; a continuing episode has no new features."""
    _, learnt = daily(1600, 1)
    models, results = followed(np.full(30, 90.0), learnt)
    opened = np.flatnonzero(results.transition == Transition.OPENED)[-1]
    why = reasons(models, 0, results, int(opened))
    assert opened == len(learnt)
    assert {"new_extreme", "impossible_rate"} <= {one.feature for one in why}
    named = [one for one in why if one.feature in features.NAMES]
    assert named == sorted(named, key=lambda one: -one.share)
    assert 0.1 <= sum(one.share for one in named) <= 1
    assert {"value", "jump"} & {one.feature for one in named}
    goes_on = next(
        i
        for i in range(int(opened) + 1, len(results.score))
        if results.transition[i] == Transition.NONE and results.score[i] < 0
    )
    assert not [
        one for one in reasons(models, 0, results, goes_on) if one.feature in features.NAMES
    ]
