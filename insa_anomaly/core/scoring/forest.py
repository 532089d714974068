"""The compiled isolation forest: complete trees in flat arrays, scored for many models at once.

scikit-learn grows the trees (`core.learning.isolation` compiles them); here each is a complete
binary tree of 255 inner nodes and 256 leaves, walked without pointers: the children of the node at
place p of a level are at 2p and 2p + 1 of the next. Nodes that do not exist have threshold +inf, so
that a walk turns left there. scikit-learn compares float32 inputs with float64 thresholds; a
threshold rounded down to float32 compares the same. A leaf holds a code of its depth and its number
of samples; a table gives the path length of a code.

Liu, Ting, Zhou: Isolation Forest (2008). Scores equal scikit-learn's within 1e-9.
"""

from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.npz import Arrays
from insa_anomaly.core.units import Features, Floats, Ints

DEPTH = 8
NODES = 2**DEPTH - 1
LEAVES = 2**DEPTH
SAMPLES_MOST = 256

Thresholds = npt.NDArray[np.float32]
NodeFeatures = npt.NDArray[np.uint8]
LeafCodes = npt.NDArray[np.uint16]


class Allocator(Protocol):
    """Source of arrays of zeros, as numpy's; memory is taken only where a value is written."""

    # As numpy
    def __call__(self, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:  # noqa: ANN401
        """Return another array."""


_BLOCK = 128  # rows walked together: the walk's own arrays stay in the cache
_FEATURE_BITS = 4  # at most 16 features
# An array of no dimensions is passed to numpy faster than a number.
_FEATURE_MASK = np.array(2**_FEATURE_BITS - 1)
_NO_SPLIT = 0x7F800000 << _FEATURE_BITS  # a node whose threshold is +inf
_SIGN_BIT = np.array(63)
_MAGNITUDE = 0x7FFFFFFF


def average_path_length(samples: Floats) -> Floats:
    """Return the mean path length of an unsuccessful search in a binary tree of samples."""
    n = np.maximum(samples, 2.0)
    length = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(samples <= 1, 0.0, np.where(samples == 2, 1.0, length))


def leaf_code(depth: int | Ints, samples: Ints) -> LeafCodes:
    """Return the code of a leaf at a depth (0 to 8) with a number of samples (1 to 256)."""
    return (depth * SAMPLES_MOST + samples).astype(np.uint16)


def path_lengths() -> Floats:
    """Return the path length of every leaf code; code 0 is a missing tree."""
    depth, samples = np.divmod(np.arange((DEPTH + 1) * SAMPLES_MOST), SAMPLES_MOST)
    lengths = depth + average_path_length((samples + 1).astype(np.float64))
    return np.concatenate(([0.0], lengths))


def leaf_samples() -> npt.NDArray[np.float32]:
    """Return the number of samples of every leaf code."""
    samples = np.tile(np.arange(1, SAMPLES_MOST + 1), DEPTH + 1)
    return np.concatenate(([0], samples)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Forest:
    """A compiled forest of T trees."""

    thresholds: Thresholds  # [T, NODES]
    features: NodeFeatures  # [T, NODES]
    leaves: LeafCodes  # [T, LEAVES]
    max_samples: int
    offset: float

    @classmethod
    def of_arrays(cls, arrays: Arrays, prefix: str = "") -> Self:
        """Return the forest whose fields are stored under their names behind a prefix."""
        own = {field.name: arrays[prefix + field.name] for field in fields(cls)}
        return cls(
            thresholds=np.asarray(own["thresholds"], np.float32),
            features=np.asarray(own["features"], np.uint8),
            leaves=np.asarray(own["leaves"], np.uint16),
            max_samples=int(own["max_samples"].item()),
            offset=float(own["offset"].item()),
        )

    def score_samples(self, features: Features) -> Floats:
        """Return scikit-learn's `score_samples` of features [n, w]: in [-1, 0), low = strange."""
        arena = Arena(1, len(self.thresholds))
        arena.put(0, self)
        return arena.score(np.zeros(len(features), np.int64), features)

    def decision_function(self, features: Features) -> Floats:
        """Return `score_samples` less the offset that `contamination` sets."""
        return self.score_samples(features) - self.offset


class Arena:
    """The forests of a fleet, a block of memory for each level, touched only where a model is put.

    A node is an int64, so that a single look-up fetches it: the threshold as an integer that sorts
    as the float does, times 16, plus the feature. A feature's value is turned into such an integer
    too; the sign of node minus value is then the direction, since the feature in the low bits
    cannot change it.
    """

    def __init__(self, capacity: int, trees: int, zeros: Allocator = np.zeros) -> None:
        """Make room for `capacity` models of at most `trees` trees in memory that `zeros` gives."""
        self.trees = trees
        self._levels = [zeros((capacity, trees, 1 << depth), np.int64) for depth in range(DEPTH)]
        self._leaves = zeros((capacity, trees, LEAVES), np.uint16)
        self._scale = zeros((capacity,), np.float64)
        self._lengths = path_lengths()
        self._samples = leaf_samples()

    @property
    def bytes_per_model(self) -> int:
        """Memory of a model in bytes."""
        arrays = *self._levels, self._leaves, self._scale
        return sum(array.nbytes for array in arrays) // len(self._scale)

    def put(self, row: int, forest: Forest) -> None:
        """Hold a forest in a row. Raises ValueError for more trees than there is room for."""
        trees = len(forest.thresholds)
        if trees > self.trees:
            room = f"there is room for {self.trees}"
            raise ValueError(f"a forest of {trees} trees does not fit where {room}")
        nodes = (_sortable(forest.thresholds) << _FEATURE_BITS) | forest.features
        for depth, level in enumerate(self._levels):
            level[row, :trees] = nodes[:, (1 << depth) - 1 : (2 << depth) - 1]
        self._leaves[row, :trees], self._leaves[row, trees:] = forest.leaves, 0
        average = float(average_path_length(np.array(float(forest.max_samples))))
        self._scale[row] = -1.0 / (trees * average)

    def score(self, rows: Ints, features: Features) -> Floats:
        """Return `score_samples` [k] of each row's own forest: rows [k], features [k, w]."""
        values = _sortable(features) << _FEATURE_BITS
        lengths = np.empty(len(rows))
        for begin in range(0, len(rows), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            lengths[block] = self._path_lengths(rows[block], values[block])
        score: Floats = -np.exp2(lengths * self._scale[rows])
        return score

    def _path_lengths(self, rows: Ints, values: Ints) -> Floats:
        """Return the path length of each row, summed over the trees, which are walked in step."""
        place = rows[:, None] * self.trees + np.arange(self.trees)
        own = np.arange(0, values.size, values.shape[1])[:, None]
        node, at = np.empty_like(place), np.empty_like(place)
        flat = values.ravel()
        for level in self._levels:
            level.ravel().take(place, out=node, mode="clip")
            np.bitwise_and(node, _FEATURE_MASK, out=at)
            at += own
            flat.take(at, out=at, mode="clip")
            node -= at
            np.right_shift(node, _SIGN_BIT, out=node)  # -1 to the right, 0 to the left
            place += place
            place -= node
        lengths: Floats = self._lengths.take(self._leaves.ravel().take(place)).sum(axis=1)
        return lengths

    def shares(self, row: int, features: Features) -> Floats:
        """Return the share of each feature [w] in a reading's short path through a row's forest.

        A feature's part is the fall of the expected path length when its value becomes known, on
        average over all sets of other features that may be known before (the Banzhaf value; SHAP
        weighs the sets by their size, and comes to the same order of features at several times the
        cost). The shares sum to 1, and are all 0 where no feature shortened the path.

        The expected length is a sum over the leaves of their length times a factor for each
        feature: if its value is known, whether it leads there, else the share of the samples that
        went there. So the mean over all sets is a product of means of the two.
        """
        share, lengths = self._leaves_seen(row, _sortable(features) << _FEATURE_BITS)
        known, share = share > 0, np.abs(share)
        either = known + share
        gained = (known - share) / either
        gained *= either.prod(axis=0) * lengths
        parts: Floats = np.maximum(-gained.sum(axis=1, dtype=np.float64), 0.0)
        total = float(parts.sum())
        return parts / total if total > 0 else parts

    def _leaves_seen(self, row: int, values: Ints) -> tuple[Features, Features]:
        """Return shares [w, m] and path lengths [m] of a forest's m leaves as a reading sees them.

        A share is the part of the samples at the splits on a feature that went to the leaf,
        negative if the reading's value does not. All trees are walked from the root down, both ways
        at every split, a level at a time.
        """
        codes = self._leaves[row].ravel()
        samples = self._samples_below(codes)
        at = np.flatnonzero(samples[0])  # the nodes of a level that are reached
        width = len(values)
        share = np.ones((len(at), width), np.float32)
        shares, leaves = [], []
        for depth, level in enumerate(self._levels):
            node = level[row].ravel().take(at)
            ends, goes = np.flatnonzero(node >= _NO_SPLIT), np.flatnonzero(node < _NO_SPLIT)
            shares.append(share.take(ends, axis=0))
            leaves.append(at.take(ends) << (DEPTH - depth))
            node, at = node.take(goes), at.take(goes)
            to_left = samples[depth + 1].take(2 * at) / samples[depth].take(at)
            # The children to the left, then the children to the right.
            share = share.take(np.concatenate((goes, goes)), axis=0)
            by = node & _FEATURE_MASK
            to_right = node < values.take(by)
            by += np.arange(0, width * len(by), width)
            every = share.ravel()
            before = every.take(by)
            failed = -np.abs(before)
            every[by] = np.where(to_right, failed, before) * to_left
            every[by + every.size // 2] = np.where(to_right, before, failed) * (1 - to_left)
            at = np.concatenate((2 * at, 2 * at + 1))
        shares.append(share)
        leaves.append(at)
        lengths = self._lengths.take(codes.take(np.concatenate(leaves))).astype(np.float32)
        return np.ascontiguousarray(np.concatenate(shares).T), lengths

    def _samples_below(self, codes: LeafCodes) -> list[Features]:
        """Return the samples that went through every node, by level from root to leaf."""
        found = [self._samples.take(codes)]
        for _ in range(DEPTH):
            found.append(found[-1][::2] + found[-1][1::2])
        return found[::-1]


def _sortable(floats: npt.NDArray[np.float32]) -> Ints:
    """Return integers that compare as the floats do; both zeros are 0, NaN is not allowed."""
    bits = np.ascontiguousarray(floats, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & _MAGNITUDE))
