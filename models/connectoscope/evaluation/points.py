"""One-to-one matching of points: how many of those found are true, and how many true ones were found."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

from connectoscope.evaluation.objects import Matches


def match_points(found: ArrayLike, true: ArrayLike, within: float) -> Matches:
    """The most pairs (found, true) at most ``within`` apart in which no point occurs twice.

    Args:
        found, true: (n, 3) and (m, 3) world coordinates in one unit, that of ``within``.
    """
    found, true = (np.asarray(points, float).reshape(-1, 3) for points in (found, true))
    pairs = 0
    if len(found) and len(true):
        # Decimals of micrometres that are just so far apart may differ in the last bit.
        near = KDTree(found).query_ball_tree(KDTree(true), within * (1 + 1e-9))
        columns = np.array([j for js in near for j in js], int)
        starts = np.cumsum([0, *map(len, near)])
        graph = csr_array((np.ones(len(columns)), columns, starts), shape=(len(found), len(true)))
        pairs = int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())
    return Matches(pairs, len(found) - pairs, len(true) - pairs)
