"""One-to-one matching of points: how many of those found are true, and how many true ones were found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree


@dataclass(frozen=True)
class Score:
    """Pairs, points found without a partner, true points without one. Larger is better for the ratios, at most 1."""

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        """Share of the points found that are true; 1 where none was found."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 1.0

    @property
    def recall(self) -> float:
        """Share of the true points that were found; 1 where there is none."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 1 where nothing was to be found and nothing was."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 1.0


def match(found: ArrayLike, true: ArrayLike, within: float) -> Score:
    """The most pairs (found, true) at most ``within`` apart in which no point occurs twice.

    Args:
        found, true: (n, 3) and (m, 3) world coordinates in one unit, that of ``within``.
    """
    found, true = (np.asarray(points, float).reshape(-1, 3) for points in (found, true))
    pairs = 0
    if len(found) and len(true):
        near = KDTree(found).query_ball_tree(KDTree(true), within)
        columns = np.array([j for js in near for j in js], int)
        starts = np.cumsum([0, *map(len, near)])
        graph = csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(found), len(true)))
        pairs = int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())
    return Score(pairs, len(found) - pairs, len(true) - pairs)
