"""Isolation trees as scikit-learn grows them: forests for a moment, and forests in compiled form.

A series is learnt with nine forests for the one that is stored: those that hold values out, and the
twin's. `Trees` are, tree by tree and to the bit, the trees that `IsolationForest` grows from the
same seed, by the same `ExtraTreeRegressor`, in a third of the time. They skip the work that a
forest repeats for each of its trees: looking its parameters up, making and seeding generators, and
drawing rows that an earlier forest of as many rows has drawn already.
"""

from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
import sklearn
from sklearn.ensemble import IsolationForest
from sklearn.tree import ExtraTreeRegressor
from sklearn.tree._tree import Tree
from sklearn.utils.random import sample_without_replacement

from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.scoring import forest as complete
from insa_anomaly.core.scoring.forest import DEPTH, Forest, average_path_length
from insa_anomaly.core.units import Features, Floats, Ints
from insa_anomaly.errors import TrainingError

_SEEDS = np.iinfo(np.int32).max
_DRAWS_CACHED = 8  # of 0.4 MB: the forests of a series and of its twin are of four sizes


@dataclass(frozen=True)
class Trees:
    """The trees of a forest."""

    trees: list[Tree]
    max_samples: int  # rows each was grown from
    offset: float

    @classmethod
    def of(cls, forest: IsolationForest) -> Self:
        """Return the trees of a fitted forest."""
        trees = [tree.tree_ for tree in forest.estimators_]
        return cls(trees, int(forest.max_samples_), float(forest.offset_))

    def score_samples(self, rows: Features) -> Floats:
        """Return scikit-learn's `score_samples` of features [n, w], to the bit, in [-1, 0)."""
        lengths = np.zeros(len(rows))
        for tree in self.trees:
            own = tree.compute_node_depths() + average_path_length(tree.n_node_samples) - 1.0
            lengths += own.take(tree.apply(rows))
        average = average_path_length(np.array([float(self.max_samples)]))
        scores: Floats = -(2 ** (-lengths / (len(self.trees) * average)))
        return scores

    def compiled(self) -> Forest:
        """Return the forest of complete trees that is equal to this one."""
        first = np.cumsum([0] + [tree.node_count for tree in self.trees[:-1]])
        left, right = (self._children(first, name) for name in ("children_left", "children_right"))
        feature, threshold, samples = (
            np.concatenate([getattr(tree, name) for tree in self.trees])
            for name in ("feature", "threshold", "n_node_samples")
        )
        out = _blank(len(self.trees), self.max_samples, self.offset)
        tree, node, place = np.arange(len(first)), first, np.zeros(len(first), np.int64)
        for depth in range(DEPTH + 1):
            inner = left[node] >= 0
            # A walk that always turns left from here ends there.
            ends = place[~inner] << (DEPTH - depth)
            out.leaves[tree[~inner], ends] = complete.leaf_code(depth, samples[node[~inner]])
            tree, node, place = tree[inner], node[inner], place[inner]
            at = place + (1 << depth) - 1
            out.thresholds[tree, at] = _rounded_down(threshold[node])
            out.features[tree, at] = feature[node]
            tree, node = np.concatenate((tree, tree)), np.concatenate((left[node], right[node]))
            place = np.concatenate((2 * place, 2 * place + 1))
        return out

    def _children(self, first: Ints, name: str) -> Ints:
        """Return the child of every node of all trees, in a row; negative for a leaf."""
        own = [getattr(tree, name) for tree in self.trees]
        parts = zip(own, first.tolist(), strict=True)
        return np.concatenate([np.where(child < 0, -1, child + begin) for child, begin in parts])


def _blank(trees: int, max_samples: int, offset: float) -> Forest:
    return Forest(
        thresholds=np.full((trees, complete.NODES), np.inf, np.float32),
        features=np.zeros((trees, complete.NODES), np.uint8),
        leaves=np.zeros((trees, complete.LEAVES), np.uint16),
        max_samples=max_samples,
        offset=offset,
    )


def _rounded_down(thresholds: Floats) -> complete.Thresholds:
    """Return float32 thresholds that compare with a float32 as the float64 ones do."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def compiled(forest: IsolationForest | Trees, check: Features) -> Forest:
    """Return the forest as complete trees, checked against its own scores of the rows `check`.

    Raises TrainingError if they differ.
    """
    out = (forest if isinstance(forest, Trees) else Trees.of(forest)).compiled()
    rows = check[:: max(len(check) // 256, 1)]
    difference = float(np.abs(out.score_samples(rows) - forest.score_samples(rows)).max())
    if not difference <= 1e-9:
        raise TrainingError(f"the compiled forest differs from scikit-learn's by {difference:.3g}")
    return out


# ----------------------------------------------------------------------------------------- growing
class _Growing(IsolationForest):  # type: ignore[misc]  # it ships no types
    """A forest that grows and scores as scikit-learn's, to the bit, in two thirds of the time."""

    def _make_estimator(
        self,
        append: bool = True,  # noqa: ARG002, FBT001, FBT002
        random_state: int | None = None,
    ) -> ExtraTreeRegressor:
        """Return a copy of a tree: reading a signature for parameters takes as long as growing."""
        tree = copy(self.estimator_)
        tree.random_state = np.random.RandomState(random_state).randint(_SEEDS)
        return tree

    def _score_samples(self, rows: Features) -> Floats:
        """Return the scores of which `contamination` is a quantile."""
        trees = [tree.tree_ for tree in self.estimators_]
        return Trees(trees, int(self.max_samples_), 0.0).score_samples(rows)


def grow(scaled: Features, parameters: Parameters) -> IsolationForest:
    """Grow the forest over rows [n, w], to be stored."""
    forest = _Growing(
        n_estimators=parameters.n_estimators,
        contamination=parameters.contamination,
        max_samples=_samples(parameters, len(scaled)),
        random_state=parameters.random_state,
    )
    forest.fit(scaled)
    forest.__class__ = IsolationForest  # so that its file is opened with scikit-learn alone
    return forest


def grow_passing(scaled: Features, parameters: Parameters) -> Trees:
    """Grow the same trees, to be discarded, by parameters that `grow` has accepted.

    `contamination` is not read.
    """
    rows = np.ascontiguousarray(scaled, np.float32)
    samples = _samples(parameters, len(rows))
    drawn = _drawn(len(rows), samples, parameters.n_estimators, parameters.random_state)
    most = drawn.rows.shape[1]
    depth = int(np.ceil(np.log2(max(most, 2))))
    random = np.random.RandomState()
    trees = []
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        for at, targets, seed in zip(drawn.rows, drawn.targets, drawn.seeds.tolist(), strict=True):
            random.seed(seed)
            tree = ExtraTreeRegressor(max_features=1, max_depth=depth, random_state=random)
            trees.append(tree.fit(rows[at], targets, check_input=False).tree_)
    return Trees(trees, most, -0.5)


def _samples(parameters: Parameters, rows: int) -> int:
    most = (
        complete.SAMPLES_MOST if parameters.max_samples == "auto" else int(parameters.max_samples)
    )
    return min(most, rows)


class _Drawn(NamedTuple):
    """Random choices for t trees, made before any row is read."""

    rows: Ints  # [t, max_samples] ascending
    targets: Floats  # [t, max_samples, 1] of the regression tree
    seeds: Ints  # [t]


@lru_cache(_DRAWS_CACHED)
def _drawn(rows: int, most: int, trees: int, seed: int) -> _Drawn:
    """Draw as `IsolationForest.fit` does.

    Each tree has a generator of its own, which gives its seed and, started again, its rows.
    """
    random = np.random.RandomState(seed)
    targets = random.uniform(size=rows)
    random.seed(seed)
    at, seeds = np.empty((trees, most), np.int64), np.empty(trees, np.int64)
    for i, own in enumerate(random.randint(_SEEDS, size=trees).tolist()):
        random.seed(own)
        seeds[i] = random.randint(_SEEDS)
        random.seed(own)
        at[i] = np.sort(sample_without_replacement(rows, most, random_state=random))
    return _Drawn(at, targets[at][..., None], seeds)
