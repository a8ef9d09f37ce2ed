"""Precision and recall of voxels from stored probabilities (uint8), exact in one pass by histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class PrecisionRecall:
    """Of every threshold t = 255 … 0 (foreground is >= t), in this order.

    Attributes:
        threshold: ``(256,)`` integers.
        precision, recall: ``(256,)`` in 0-1; precision is 1 where nothing is called.
    """

    threshold: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    @property
    def average_precision(self) -> float:
        """Σ (R_n − R_{n−1}) P_n, as scikit-learn's ``average_precision_score`` (no interpolation)."""
        steps = np.diff(self.recall, prepend=0.0)
        return float((steps * self.precision).sum())

    @property
    def f1(self) -> NDArray[np.float64]:
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros(256), where=total > 0)

    def best(self) -> tuple[float, int]:
        """The highest F1 and its threshold (the larger one of equals)."""
        index = int(self.f1.argmax())
        return float(self.f1[index]), int(self.threshold[index])


def histograms(probability: NDArray[np.uint8], truth: NDArray[np.bool_]) -> tuple[Counts, Counts]:
    """Voxels of each probability 0-255 inside and outside the truth; add them up over blocks."""
    inside = np.bincount(probability[truth], minlength=256)
    return inside, np.bincount(probability.ravel(), minlength=256) - inside


def precision_recall(inside: Counts, outside: Counts) -> PrecisionRecall:
    """From :func:`histograms`. Recall is 0 everywhere where the truth is empty."""
    true = np.cumsum(inside[::-1])
    called = true + np.cumsum(outside[::-1])
    positives = max(int(inside.sum()), 1)
    precision = np.divide(true, called, out=np.ones(256), where=called > 0)
    return PrecisionRecall(np.arange(255, -1, -1), precision, true / positives)
