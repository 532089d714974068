"""The compiled forest equals scikit-learn's, and an arena of forests equals each forest alone."""

import dataclasses
import timeit
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest

from insa_anomaly.core.learning import isolation
from insa_anomaly.core.learning.isolation import Trees, grow, grow_passing
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.scoring import forest
from insa_anomaly.core.scoring.forest import Arena, Forest
from insa_anomaly.core.series import detector
from insa_anomaly.core.series.features import WIDTH
from insa_anomaly.core.units import Features
from insa_anomaly.errors import TrainingError
from tests.core import oracle


@cache
def grown(trees: int = 100, seed: int = 42) -> tuple[IsolationForest, Forest]:
    """Return a forest of scikit-learn and its compiled twin."""
    rows = np.random.default_rng(seed).normal(size=(1500, WIDTH)).astype(np.float32)
    rows[:, 2] = np.round(rows[:, 2])
    rows[:, 5] = np.maximum(rows[:, 5], 0)
    rows[:, 6] = 0
    original = IsolationForest(n_estimators=trees, contamination=0.1, random_state=seed).fit(rows)
    return original, isolation.compiled(original, rows)


def around_every_threshold(original: IsolationForest, seed: int) -> Features:
    """Return rows at every threshold of every tree and at its float32 neighbours.

    All other columns of a row are random.
    """
    random = np.random.default_rng(seed)
    used, thresholds = (
        np.concatenate([getattr(t.tree_, name) for t in original.estimators_])
        for name in ("feature", "threshold")
    )
    used, near = used[used >= 0], thresholds[used >= 0].astype(np.float32)
    values = np.concatenate(
        [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    )
    rows = random.normal(size=(len(values), WIDTH)).astype(np.float32)
    rows[np.arange(len(values)), np.tile(used, 3)] = values
    return rows


def test_law_scores_are_scikit_learns() -> None:
    """Scores equal scikit-learn's within 1e-9.

    The rows are random, extreme, or at a threshold or its float32 neighbours.
    """
    original, compiled = grown()
    random = np.random.default_rng(0).normal(0, 2, (100_000, WIDTH)).astype(np.float32)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -1e-45, 30, -30], np.float32
    )
    edges = np.tile(special[:, None], (1, WIDTH))
    for rows in (random, around_every_threshold(original, 1), np.clip(edges, -3.4e38, 3.4e38)):
        np.testing.assert_allclose(
            compiled.score_samples(rows), original.score_samples(rows), rtol=0, atol=1e-9
        )
    few = random[:1000]
    np.testing.assert_allclose(
        compiled.decision_function(few), original.decision_function(few), rtol=0, atol=1e-9
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 400),
    samples=st.integers(2, 256),
    digits=st.integers(0, 6),
    still=st.lists(st.integers(0, WIDTH - 1), max_size=WIDTH),
)
def test_law_any_data_gives_the_same_forest(
    seed: int, n: int, samples: int, digits: int, still: list[int]
) -> None:
    """Compiled and original forest agree for few rows, repeated rows and constant columns."""
    rows = np.round(np.random.default_rng(seed).normal(size=(n, WIDTH)), digits).astype(np.float32)
    rows[:, still] = 0.5
    original = IsolationForest(n_estimators=4, max_samples=min(samples, n), random_state=seed).fit(
        rows
    )
    compiled = isolation.compiled(original, rows)
    unseen = np.concatenate([rows, rows * 3, around_every_threshold(original, seed)])
    np.testing.assert_allclose(
        compiled.score_samples(unseen), original.score_samples(unseen), rtol=0, atol=1e-9
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 3000),
    samples=st.one_of(st.just("auto"), st.integers(2, 256)),
    digits=st.integers(0, 6),
    still=st.lists(st.integers(0, WIDTH - 1), max_size=WIDTH),
)
def test_law_what_is_grown_here_is_scikit_learns(
    seed: int, n: int, samples: int | str, digits: int, still: list[int]
) -> None:
    """Trees of `grow` and `grow_passing` equal scikit-learn's bitwise, and so do their scores.

    Only scikit-learn's bookkeeping is left out.
    """
    rows = np.round(np.random.default_rng(seed).normal(size=(n, WIDTH)), digits).astype(np.float32)
    rows[:, still] = 0.5
    most = min(256 if samples == "auto" else int(samples), n)
    original = IsolationForest(
        n_estimators=4, contamination=0.1, max_samples=most, random_state=seed
    ).fit(rows)
    parameters = Parameters(
        n_estimators=4, contamination=0.1, max_samples=samples, random_state=seed
    )
    passing, kept = grow_passing(rows, parameters), grow(rows, parameters)
    for trees in (passing, Trees.of(kept)):
        for own, other in zip(trees.trees, Trees.of(original).trees, strict=True):
            for name in (
                "children_left",
                "children_right",
                "feature",
                "threshold",
                "n_node_samples",
            ):
                np.testing.assert_array_equal(getattr(own, name), getattr(other, name))
    np.testing.assert_array_equal(passing.score_samples(rows * 2), original.score_samples(rows * 2))
    assert (type(kept), kept.offset_) == (IsolationForest, original.offset_)


def test_an_arena_scores_each_row_by_its_own_forest() -> None:
    """An arena scores each row bitwise as its forest does alone, in any order and batch.

    The scores of a forest with fewer trees may differ by the order of a sum.
    """
    kinds = [grown(100, 42)[1], grown(7, 1)[1], grown(100, 2)[1]]
    arena = Arena(4, 100)
    for row, kind in zip((0, 1, 3), kinds, strict=True):
        arena.put(row, kind)
    random = np.random.default_rng(5)
    which = random.integers(0, 3, 300)
    rows = random.normal(size=(300, WIDTH)).astype(np.float32)
    scores = arena.score(np.array([0, 1, 3])[which], rows)
    for number in (0, 2):
        assert (
            kinds[number].score_samples(rows[which == number]).tobytes()
            == scores[which == number].tobytes()
        )
    np.testing.assert_allclose(
        scores[which == 1], kinds[1].score_samples(rows[which == 1]), rtol=0, atol=1e-14
    )
    one_by_one = [
        arena.score(np.array([[0, 1, 3][which[i]]]), rows[i : i + 1])[0] for i in range(300)
    ]
    assert np.array(one_by_one).tobytes() == scores.tobytes()


def test_a_forest_replaces_the_one_before() -> None:
    """A smaller forest replaces a larger forest in its row without a trace."""
    arena, rows = (
        Arena(1, 100),
        np.random.default_rng(6).normal(size=(50, WIDTH)).astype(np.float32),
    )
    arena.put(0, grown(100, 42)[1])
    arena.put(0, grown(7, 1)[1])
    np.testing.assert_allclose(
        arena.score(np.zeros(50, np.int64), rows),
        grown(7, 1)[1].score_samples(rows),
        rtol=0,
        atol=1e-14,
    )


def test_a_forest_too_large_is_refused() -> None:
    """A forest too large for the arena is refused, and the error states the room."""
    with pytest.raises(ValueError, match="100 trees does not fit where there is room for 7"):
        Arena(1, 7).put(0, grown(100, 42)[1])


def test_a_model_takes_at_most_256_kib() -> None:
    """A model, forest and learnt row together, takes at most 256 KiB of memory."""
    assert detector.ModelTable(2, 100).bytes_per_model <= 256 * 1024


def test_path_lengths_are_those_of_the_formula() -> None:
    """Every path length in the table is depth plus the average path length of the samples."""
    table = forest.path_lengths()
    for depth in range(9):
        for samples in (1, 2, 3, 17, 255, 256):
            code = int(forest.leaf_code(depth, np.array(samples)))
            assert table[code] == pytest.approx(
                depth + oracle.average_path_length(samples), abs=1e-12
            )


def test_a_forest_that_is_not_scikit_learns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled forest that differs from scikit-learn's is refused."""
    original, _ = grown(7, 1)
    wrong = dataclasses.replace(grown(7, 1)[1], thresholds=np.zeros_like(grown(7, 1)[1].thresholds))
    monkeypatch.setattr(isolation.Trees, "compiled", lambda _: wrong)
    with pytest.raises(TrainingError, match="differs from scikit-learn"):
        isolation.compiled(
            original, np.random.default_rng(0).normal(size=(100, WIDTH)).astype(np.float32)
        )


@pytest.mark.benchmark
def test_one_row_is_sixty_times_faster_than_scikit_learn() -> None:
    """A single row of eight features is scored 60 times as fast as by scikit-learn.

    `make bench` has the figures.
    """
    original, compiled = grown()
    arena, row = Arena(1, 100), np.zeros((1, WIDTH), np.float32)
    arena.put(0, compiled)
    at = np.zeros(1, np.int64)
    ours = min(timeit.repeat(lambda: arena.score(at, row), number=50, repeat=5)) / 50
    theirs = min(timeit.repeat(lambda: original.decision_function(row), number=5, repeat=5)) / 5
    assert theirs / ours >= 60
