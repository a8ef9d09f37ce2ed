"""Maximum mean discrepancy between two sets of feature vectors (Gretton et al. 2012, JMLR 13:723; arXiv 2503.06196).

With k(a, b) = exp(-|a - b|² / 2σ²), s of the source (m of them) and t of the target (n)::

    MMD² = 1/(m(m-1)) Σ_{i≠j} k(s_i, s_j) + 1/(n(n-1)) Σ_{i≠j} k(t_i, t_j) - 2/(mn) Σ_ij k(s_i, t_j)

It is unbiased: 0 in the mean where both are of one domain, and then below 0 about half of the time. One kernel matrix of
all vectors serves the estimate, the permutations and the bootstrap, which are products of it with tables of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.floating]

PERMUTATIONS = 500
RESAMPLES = 200


@dataclass(frozen=True)
class Distance:
    """How far two sets are apart.

    Attributes:
        mmd2: The unbiased estimate; smaller is nearer.
        interval: 95 % of the bootstrap resamples lie in it.
        p: Share of the permutations that are as far apart as that; small: surely another domain.
        null: The distance that 95 % of the permutations stay below: what is no distance at all.
        bandwidth: σ of the kernel.
    """

    mmd2: float
    interval: tuple[float, float]
    p: float
    null: float
    bandwidth: float


def median_distance(vectors: Vectors) -> float:
    """The median Euclidean distance of all pairs of rows; 1 where all rows are equal."""
    return _median(_squared_distances(vectors))


def mmd2(source: Vectors, target: Vectors, bandwidth: float | None = None) -> float:
    """The unbiased MMD² of two tables of feature vectors, ``(m, d)`` and ``(n, d)``; m and n at least 2.

    Args:
        bandwidth: σ of the kernel; default is the median distance of all pairs of the pooled set.
    """
    kernel, _ = _kernel(source, target, bandwidth)
    return float(_statistics(kernel, _first(len(source), len(target)))[0])


def compare(source: Vectors, target: Vectors, *, bandwidth: float | None = None, seed: int = 0) -> Distance:
    """MMD² with its permutation p-value and bootstrap interval; the same ``seed`` gives the same figures.

    Args:
        source: ``(m, d)``, any float type; m at least 2.
        target: ``(n, d)``.
        bandwidth: As for :func:`mmd2`.
    """
    kernel, sigma = _kernel(source, target, bandwidth)
    m, n = len(source), len(target)
    found = float(_statistics(kernel, _first(m, n))[0])
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.repeat(_first(m, n), PERMUTATIONS, axis=1), axis=0)
    null = _statistics(kernel, shuffled)
    weights = np.zeros((m + n, RESAMPLES), np.float32)
    for column in range(RESAMPLES):
        weights[:m, column] = np.bincount(rng.integers(0, m, m), minlength=m)
        weights[m:, column] = np.bincount(rng.integers(0, n, n), minlength=n)
    low, high = np.percentile(_weighted(kernel, weights, m), (2.5, 97.5))
    return Distance(
        mmd2=found,
        interval=(float(low), float(high)),
        p=float((1 + (null >= found).sum()) / (1 + PERMUTATIONS)),
        null=float(np.percentile(null, 95)),
        bandwidth=sigma,
    )


def _squared_distances(vectors: Vectors) -> NDArray[np.float64]:
    x = np.asarray(vectors, np.float64)
    x = x - x.mean(axis=0)  # distances stay; rounding is least around 0
    norms = (x * x).sum(axis=1)
    squared: NDArray[np.float64] = np.maximum(norms[:, None] + norms[None] - 2 * (x @ x.T), 0)
    return squared


def _median(squared: NDArray[np.float64]) -> float:
    return float(np.median(np.sqrt(squared[np.triu_indices(len(squared), 1)]))) or 1.0


def _kernel(source: Vectors, target: Vectors, bandwidth: float | None) -> tuple[NDArray[np.float32], float]:
    """The kernel of all pairs of the pooled set, (m + n, m + n), 0 on the diagonal, and σ."""
    squared = _squared_distances(np.concatenate([source, target]))
    if bandwidth is None:
        bandwidth = _median(squared)
    kernel = np.exp(squared / (-2 * bandwidth**2), dtype=np.float64).astype(np.float32)
    np.fill_diagonal(kernel, 0)
    return kernel, bandwidth


def _first(m: int, n: int) -> NDArray[np.float32]:
    """Indicator of the source among the pooled set, (m + n, 1)."""
    return np.repeat(np.array([1, 0], np.float32), [m, n])[:, None]


def _statistics(kernel: NDArray[np.float32], first: NDArray[np.float32]) -> NDArray[np.float64]:
    """MMD² of each column of ``first``, an indicator of which vectors are the source's."""
    inside = _sums(first, kernel @ first)
    rows = kernel.sum(axis=1, dtype=np.float64)
    across = first.T.astype(np.float64) @ rows - inside
    outside = rows.sum() - inside - 2 * across
    m = first.sum(axis=0, dtype=np.float64)
    n = len(first) - m
    values: NDArray[np.float64] = inside / (m * (m - 1)) + outside / (n * (n - 1)) - 2 * across / (m * n)
    return values


def _weighted(kernel: NDArray[np.float32], weights: NDArray[np.float32], m: int) -> NDArray[np.float64]:
    """MMD² of each column of ``weights`` (how often a vector was drawn); a vector is never paired with itself."""
    s, t = weights[:m], weights[m:]
    ss = _sums(s, kernel[:m, :m] @ s) / _pairs(s)
    tt = _sums(t, kernel[m:, m:] @ t) / _pairs(t)
    st = _sums(s, kernel[:m, m:] @ t) / (s.sum(axis=0, dtype=np.float64) * t.sum(axis=0, dtype=np.float64))
    values: NDArray[np.float64] = ss + tt - 2 * st
    return values


def _sums(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    products: NDArray[np.float64] = np.einsum("ik,ik->k", a, b, dtype=np.float64)
    return products


def _pairs(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    total = weights.sum(axis=0, dtype=np.float64)
    pairs: NDArray[np.float64] = total**2 - (weights.astype(np.float64) ** 2).sum(axis=0)
    return pairs
