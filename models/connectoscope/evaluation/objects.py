"""Matching of found objects to true ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from connectoscope.evaluation.partitions import Contingency


@dataclass(frozen=True)
class Matches:
    """Objects found, found in vain and missed."""

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float | None:
        """Share of the objects found that are true; None where none was found."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else None

    @property
    def recall(self) -> float | None:
        """Share of the true objects that were found; None where there is none."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else None

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN); None where there is neither a true nor a found object."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else None


def match_objects(table: Contingency, min_iou: float = 0.0) -> Matches:
    """One-to-one matching with as many pairs as possible; among those, the largest common volume.

    Args:
        table: Contingency of result and truth over the compared voxels; id 0 is background in both.
        min_iou: Smallest intersection over union of a pair; 0 asks for any common voxel.
    """
    found = np.unique(table.result[table.result > 0])
    true = np.unique(table.truth[table.truth > 0])
    tp = len(matched_pairs(table, min_iou))
    return Matches(tp, len(found) - tp, len(true) - tp)


def matched_pairs(table: Contingency, min_iou: float = 0.0) -> list[tuple[int, int]]:
    """The pairs (id in the result, id in the truth) that :func:`match_objects` counts."""
    union = table.sizes(table.result) + table.sizes(table.truth) - table.voxels
    may = (table.result > 0) & (table.truth > 0) & (table.voxels >= min_iou * union)
    pairs = table.where(may)
    if not len(pairs.voxels):
        return []
    # A pair counts 1; the volume is worth less than one pair in all, so that it only breaks ties.
    gains = 1 + 0.5 * pairs.voxels / pairs.voxels.sum()
    _, row = np.unique(pairs.result, return_inverse=True)
    _, column = np.unique(pairs.truth, return_inverse=True)
    n, m = int(row.max()) + 1, int(column.max()) + 1
    # Objects that touch only each other are matched by themselves: a table of all by all would fill the memory.
    _, group = connected_components(
        coo_array((gains, (row, n + column)), shape=(n + m, n + m)), directed=False
    )
    order = np.argsort(group[row], kind="stable")
    found = []
    for part in np.split(order, np.flatnonzero(np.diff(group[row[order]])) + 1):
        rows, i = np.unique(pairs.result[part], return_inverse=True)
        columns, j = np.unique(pairs.truth[part], return_inverse=True)
        gain = np.zeros((len(rows), len(columns)))
        gain[i, j] = gains[part]
        chosen = linear_sum_assignment(gain, maximize=True)
        found += [(int(rows[i]), int(columns[j])) for i, j in zip(*chosen, strict=True) if gain[i, j] > 0]
    return sorted(found)
