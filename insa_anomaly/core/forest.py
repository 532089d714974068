"""The compiled isolation forest: complete trees in flat arrays, scored for many models at once.

scikit-learn grows the trees (`core.training` compiles them); here each is a complete binary tree of 255 inner nodes and 256
leaves, walked without pointers: node i goes on to 2i + 1, or to 2i + 2 where the feature exceeds the threshold. Nodes that do not
exist have threshold +inf. scikit-learn compares float32 inputs with float64 thresholds; a threshold rounded down to float32
compares the same. A leaf holds a code of its depth and its number of samples; one table gives the path length of a code.

Liu, Ting, Zhou: Isolation Forest (2008). Scores equal scikit-learn's within 1e-9.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.features import WIDTH, Features, Floats, Ints

DEPTH = 8
NODES = 2**DEPTH - 1
LEAVES = 2**DEPTH
SAMPLES_MOST = 256

Thresholds = npt.NDArray[np.float32]
NodeFeatures = npt.NDArray[np.uint8]
LeafCodes = npt.NDArray[np.uint16]

_BLOCK = 32  # rows walked together: the walk's own arrays stay in the cache


def average_path_length(samples: Floats) -> Floats:
    """Mean path length of an unsuccessful search in a binary search tree of that many samples."""
    n = np.maximum(samples, 2.0)
    length = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(samples <= 1, 0.0, np.where(samples == 2, 1.0, length))


def leaf_code(depth: int | Ints, samples: Ints) -> LeafCodes:
    """Code of a leaf at a depth (0 to 8) with a number of samples (1 to 256)."""
    return (depth * SAMPLES_MOST + samples).astype(np.uint16)


def path_lengths() -> Floats:
    """Path length of every leaf code; code 0 is a tree that is not there."""
    code = np.arange((DEPTH + 1) * SAMPLES_MOST + 1)
    lengths = (code - 1) // SAMPLES_MOST + average_path_length(((code - 1) % SAMPLES_MOST + 1).astype(np.float64))
    lengths[0] = 0.0
    return lengths


@dataclass(frozen=True)
class Forest:
    """One compiled forest of T trees."""

    thresholds: Thresholds  # [T, NODES]
    features: NodeFeatures  # [T, NODES]
    leaves: LeafCodes  # [T, LEAVES]
    max_samples: int
    offset: float

    def score_samples(self, features: Features) -> Floats:
        """As scikit-learn's: features [n, WIDTH] -> [n] in [-1, 0), lower = stranger."""
        arena = Arena(1, len(self.thresholds))
        arena.put(0, self)
        return arena.score(np.zeros(len(features), np.int64), features)

    def decision_function(self, features: Features) -> Floats:
        """As scikit-learn's: `score_samples` less the offset that `contamination` sets."""
        return self.score_samples(features) - self.offset


class Arena:
    """The forests of a fleet in one block of memory, touched only where a model is put."""

    def __init__(self, capacity: int, trees: int) -> None:
        """`capacity` models of at most `trees` trees."""
        self._trees = trees
        self._thresholds = np.zeros((capacity, trees, NODES), np.float32)
        self._features = np.zeros((capacity, trees, NODES), np.uint8)
        self._leaves = np.zeros((capacity, trees, LEAVES), np.uint16)
        self._scale = np.ones(capacity)
        self._lengths = path_lengths()

    def put(self, row: int, forest: Forest) -> None:
        """Hold this forest in this row."""
        trees = len(forest.thresholds)
        self._thresholds[row, :trees], self._features[row, :trees] = forest.thresholds, forest.features
        self._leaves[row, :trees], self._leaves[row, trees:] = forest.leaves, 0
        self._scale[row] = -1.0 / (trees * float(average_path_length(np.array(float(forest.max_samples)))))

    def score(self, rows: Ints, features: Features) -> Floats:
        """`score_samples` of each row's own forest: rows [k], features [k, WIDTH] -> [k]."""
        out = np.empty(len(rows))
        for begin in range(0, len(rows), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            out[block] = self._walk(rows[block], features[block])
        return out

    def _walk(self, rows: Ints, features: Features) -> Floats:
        tree = rows[:, None] * self._trees + np.arange(self._trees)
        values = np.ascontiguousarray(features).ravel()
        own = np.arange(len(rows))[:, None] * WIDTH
        node = np.zeros(tree.shape, np.int64)
        first = tree * NODES
        thresholds, wanted = self._thresholds.ravel(), self._features.ravel()
        for _ in range(DEPTH):
            at = first + node
            node += node + 1
            node += values.take(wanted.take(at) + own) > thresholds.take(at)
        codes = self._leaves.ravel().take(tree * LEAVES + (node - NODES))
        score: Floats = -np.exp2(self._lengths.take(codes).sum(axis=1) * self._scale[rows])
        return score
