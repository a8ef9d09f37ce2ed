"""How two labellings of the same voxels agree: variation of information and adapted Rand error.

Everything is computed from the *contingency*, the number of voxels of each pair of ids, which can be added up over
parts of a volume too large to hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Contingency:
    """Voxels of each pair of ids that occurs.

    Attributes:
        result, truth: ``(N,)`` uint64 ids of the pairs.
        voxels: ``(N,)`` int64 counts.
    """

    result: NDArray[np.uint64]
    truth: NDArray[np.uint64]
    voxels: NDArray[np.int64]

    @classmethod
    def of(cls, result: NDArray[np.integer], truth: NDArray[np.integer]) -> Contingency:
        """From two arrays of the same shape."""
        a, inverse_a = np.unique(result.ravel(), return_inverse=True)
        b, inverse_b = np.unique(truth.ravel(), return_inverse=True)
        pairs, voxels = np.unique(inverse_a.astype(np.int64) * len(b) + inverse_b, return_counts=True)
        return cls(
            a[pairs // len(b)].astype(np.uint64), b[pairs % len(b)].astype(np.uint64), voxels.astype(np.int64)
        )

    def __add__(self, other: Contingency) -> Contingency:
        pairs = np.stack(
            (np.concatenate((self.result, other.result)), np.concatenate((self.truth, other.truth))), axis=1
        )
        unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
        voxels = np.bincount(
            inverse.ravel(), weights=np.concatenate((self.voxels, other.voxels)), minlength=len(unique)
        )
        return Contingency(unique[:, 0], unique[:, 1], voxels.astype(np.int64))

    def where(self, keep: NDArray[np.bool_]) -> Contingency:
        return Contingency(self.result[keep], self.truth[keep], self.voxels[keep])

    def sizes(self, of: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Voxels of the id of each pair; ``of`` is :attr:`result` or :attr:`truth`."""
        _, inverse = np.unique(of, return_inverse=True)
        return np.bincount(inverse, weights=self.voxels).astype(np.int64)[inverse]


def _entropy(of: NDArray[np.uint64], voxels: NDArray[np.int64]) -> float:
    _, inverse = np.unique(of, return_inverse=True)
    p = np.bincount(inverse, weights=voxels) / voxels.sum()
    return float(-(p * np.log2(p)).sum())


def variation_of_information(table: Contingency) -> tuple[float, float]:
    """VI in bits as (split, merge): H(result | truth) and H(truth | result); smaller is better (Meilă 2007).

    Raises:
        ValueError: when the table is empty.
    """
    if table.voxels.sum() == 0:
        raise ValueError("no voxel to compare")
    p = table.voxels / table.voxels.sum()
    joint = float(-(p * np.log2(p)).sum())
    split = joint - _entropy(table.truth, table.voxels)
    merge = joint - _entropy(table.result, table.voxels)
    return max(split, 0.0), max(merge, 0.0)


def adapted_rand_error(table: Contingency) -> float:
    """1 - F of Rand precision and recall over pairs of different voxels; smaller is better (ISBI 2012 challenge).

    As in scikit-image, a voxel is no pair with itself. 0 where no label holds two voxels.
    """

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1)).sum())

    def sums(of: NDArray[np.uint64]) -> NDArray[np.float64]:
        _, inverse = np.unique(of, return_inverse=True)
        return np.bincount(inverse, weights=table.voxels).astype(np.float64)

    total = pairs(sums(table.result)) + pairs(sums(table.truth))
    return 1.0 - 2.0 * pairs(table.voxels.astype(np.float64)) / total if total else 0.0
