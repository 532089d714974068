"""Isolation trees as scikit-learn grows them: forests that are only asked and never kept, and any forest in its compiled form.

A series is learnt with nine forests for the one that is kept: those that hold values out, and the twin's. `Trees` are, tree by tree and to
the bit, what `IsolationForest` grows from the same seed, by the same `ExtraTreeRegressor`, in a third of the time. Spared is what a forest
repeats for each of its trees: looking its parameters up, making and seeding generators, and drawing rows that an earlier forest of as many
rows has drawn already.
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
from insa_anomaly.core.scoring.forest import (
    DEPTH,
    LEAVES,
    NODES,
    SAMPLES_MOST,
    Forest,
    LeafCodes,
    NodeFeatures,
    Thresholds,
    average_path_length,
    leaf_code,
)
from insa_anomaly.core.units import Features, Floats, Ints
from insa_anomaly.errors import TrainingError

_SEEDS = np.iinfo(np.int32).max
_DRAWS_KEPT = 8  # of 0.4 MB: the forests of a series and of its twin are of four sizes


@dataclass(frozen=True)
class Trees:
    """The trees of a forest."""

    trees: list[Tree]
    max_samples: int  # rows each was grown from
    offset: float

    @classmethod
    def of(cls, forest: IsolationForest) -> Self:
        """Those of a fitted forest."""
        return cls(
            [tree.tree_ for tree in forest.estimators_],
            int(forest.max_samples_),
            float(forest.offset_),
        )

    def score_samples(self, rows: Features) -> Floats:
        """As scikit-learn's, to the bit: features [n, w] -> [n] in [-1, 0), lower = stranger."""
        lengths = np.zeros(len(rows))
        for tree in self.trees:
            own = tree.compute_node_depths() + average_path_length(tree.n_node_samples) - 1.0
            lengths += own.take(tree.apply(rows))
        scores: Floats = -(
            2
            ** (
                -lengths
                / (len(self.trees) * average_path_length(np.array([float(self.max_samples)])))
            )
        )
        return scores

    def compiled(self) -> Forest:
        """The same as complete trees."""
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
            ends = place[~inner] << (
                DEPTH - depth
            )  # where a walk ends that always turns left from here
            out.leaves[tree[~inner], ends] = leaf_code(depth, samples[node[~inner]])
            tree, node, place = tree[inner], node[inner], place[inner]
            at = place + (1 << depth) - 1
            out.thresholds[tree, at], out.features[tree, at] = (
                _rounded_down(threshold[node]),
                feature[node],
            )
            tree, node = np.concatenate((tree, tree)), np.concatenate((left[node], right[node]))
            place = np.concatenate((2 * place, 2 * place + 1))
        return out

    def _children(self, first: Ints, name: str) -> Ints:
        """Of every node of all trees, in a row; negative where it has none."""
        own = [getattr(tree, name) for tree in self.trees]
        return np.concatenate(
            [
                np.where(one < 0, -1, one + begin)
                for one, begin in zip(own, first.tolist(), strict=True)
            ]
        )


def _blank(trees: int, max_samples: int, offset: float) -> Forest:
    thresholds: Thresholds = np.full((trees, NODES), np.inf, np.float32)
    used: NodeFeatures = np.zeros((trees, NODES), np.uint8)
    codes: LeafCodes = np.zeros((trees, LEAVES), np.uint16)
    return Forest(thresholds, used, codes, max_samples, offset)


def _rounded_down(thresholds: Floats) -> Thresholds:
    """Float32 thresholds that compare with a float32 as these do."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def compiled(forest: IsolationForest | Trees, check: Features) -> Forest:
    """The forest as complete trees, held against what it says itself of the rows `check`; refuses to answer with another."""
    out = (forest if isinstance(forest, Trees) else Trees.of(forest)).compiled()
    rows = check[:: max(len(check) // 256, 1)]
    difference = float(np.abs(out.score_samples(rows) - forest.score_samples(rows)).max())
    if not difference <= 1e-9:
        raise TrainingError(f"the compiled forest differs from scikit-learn's by {difference:.3g}")
    return out


# --------------------------------------------------------------------------------------------------- growing
class _Growing(IsolationForest):  # type: ignore[misc]  # it ships no types
    """Grows and scores as scikit-learn's own does, to the bit, in two thirds of the time."""

    def _make_estimator(
        self,
        append: bool = True,  # noqa: ARG002, FBT001, FBT002
        random_state: int | None = None,
    ) -> ExtraTreeRegressor:
        """A copy: looking into the signature of every tree for its parameters takes as long as growing one."""
        tree = copy(self.estimator_)
        tree.random_state = np.random.RandomState(random_state).randint(_SEEDS)
        return tree

    def _score_samples(self, rows: Features) -> Floats:
        """What `contamination` is a quantile of."""
        return Trees(
            [tree.tree_ for tree in self.estimators_], int(self.max_samples_), 0.0
        ).score_samples(rows)


def grow(scaled: Features, parameters: Parameters) -> IsolationForest:
    """The forest over these rows [n, w], to be kept. Raises TrainingError for a parameter out of its range."""
    forest = _Growing(
        n_estimators=parameters.n_estimators,
        contamination=parameters.contamination,
        max_samples=_samples(parameters, len(scaled)),
        random_state=parameters.random_state,
    )
    try:
        forest.fit(scaled)
    except ValueError as error:  # scikit-learn's word for a parameter out of its range
        raise TrainingError(str(error)) from error
    forest.__class__ = (
        IsolationForest  # grown, it is one: who opens its file needs scikit-learn alone
    )
    return forest


def grow_passing(scaled: Features, parameters: Parameters) -> Trees:
    """The same trees, to be asked alone, by parameters that `grow` has accepted; `contamination` is not looked at."""
    rows = np.ascontiguousarray(scaled, np.float32)
    drawn = _drawn(
        len(rows), _samples(parameters, len(rows)), parameters.n_estimators, parameters.random_state
    )
    most = drawn.rows.shape[1]
    random = np.random.RandomState()
    trees = []
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        for at, targets, seed in zip(drawn.rows, drawn.targets, drawn.seeds.tolist(), strict=True):
            random.seed(seed)
            tree = ExtraTreeRegressor(
                max_features=1, max_depth=int(np.ceil(np.log2(max(most, 2)))), random_state=random
            )
            trees.append(tree.fit(rows[at], targets, check_input=False).tree_)
    return Trees(trees, most, -0.5)


def _samples(parameters: Parameters, rows: int) -> int:
    most = SAMPLES_MOST if parameters.max_samples == "auto" else int(parameters.max_samples)
    if not 2 <= most <= SAMPLES_MOST:
        raise TrainingError(
            f"max_samples is {parameters.max_samples}; 2 to {SAMPLES_MOST} or 'auto' are allowed"
        )
    return min(most, rows)


class _Drawn(NamedTuple):
    """What chance decides of t trees before any row is looked at."""

    rows: Ints  # [t, max_samples] ascending
    targets: Floats  # [t, max_samples, 1] what the regression tree is grown for
    seeds: Ints  # [t]


@lru_cache(_DRAWS_KEPT)
def _drawn(rows: int, most: int, trees: int, seed: int) -> _Drawn:
    """As `IsolationForest.fit` draws it: for each tree from a generator of its own, its seed, and from the beginning again its rows."""
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
