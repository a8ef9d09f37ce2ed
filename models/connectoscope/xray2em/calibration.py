"""Does a predicted uncertainty mean what it says?

A network says mean and standard deviation of a Gaussian for every voxel; ``error`` is truth minus mean, ``sigma`` the
standard deviation, both of any one shape and in the unit of the intensities, ``sigma`` above 0. Everything is computed
over all voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from connectoscope.errors import UserError

Array = NDArray[np.floating]

NOMINAL: NDArray[np.float64] = np.arange(1, 20, dtype=np.float64) * 0.05  # 0.05, 0.10 ... 0.95
REPORTED = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Calibration:
    """Reliability of Gaussian intervals.

    Attributes:
        scale: What sigma has to be multiplied with, by maximum likelihood; above 1: it was too sure.
        ece: Mean over the nominal coverages 0.05 ... 0.95 of |observed - nominal|; smaller is better, 0 to 0.5.
        coverage: Observed coverage of the central intervals of 50, 80 and 95 %.
        ause: Area between the sparsification curves of sigma and of the error itself; smaller is better.
    """

    scale: float
    ece: float
    coverage: dict[float, float]
    ause: float


def calibration(error: Array, sigma: Array) -> Calibration:
    """All of it at once, for a sigma as it is.

    Raises:
        UserError: nothing to judge, shapes that differ, or a sigma that is not positive.
    """
    if error.shape != sigma.shape or error.size == 0:
        raise UserError(
            f"errors {error.shape} and uncertainties {sigma.shape} must be of one shape, not empty"
        )
    if not (np.isfinite(error).all() and np.isfinite(sigma).all() and (sigma > 0).all()):
        raise UserError("errors and uncertainties must be finite, and uncertainties above 0")
    return Calibration(
        scale=scale_factor(error, sigma),
        ece=expected_calibration_error(error, sigma),
        coverage={p: float(coverage(error, sigma, np.array([p]))[0]) for p in REPORTED},
        ause=sparsification_area(np.abs(error), sigma),
    )


def scale_factor(error: Array, sigma: Array) -> float:
    """The s that makes the errors most likely under N(0, (s sigma)²): the root of mean (error / sigma)²."""
    return float(np.sqrt(np.mean(np.square(error / sigma), dtype=np.float64)))


def coverage(error: Array, sigma: Array, nominal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the errors inside the central interval of each ``nominal`` probability (0 to 1)."""
    score = np.sort(np.abs(error / sigma), axis=None)
    half_widths = special.ndtri((1 + nominal) / 2)
    return np.asarray(np.searchsorted(score, half_widths, side="right") / score.size)


def expected_calibration_error(error: Array, sigma: Array) -> float:
    """Mean over nominal coverages 0.05, 0.10 ... 0.95 of |observed - nominal| (Kuleshov et al. 2018, central
    intervals).
    """
    return float(np.abs(coverage(error, sigma, NOMINAL) - NOMINAL).mean())


def sparsification(error: Array, order_by: Array, steps: int = 20) -> NDArray[np.float64]:
    """Mean absolute error of what remains when the shares 0, 1/steps ... (steps - 1)/steps with the largest
    ``order_by`` are taken away, relative to that of all (Ilg et al. 2018).
    """
    absolute = np.abs(error).ravel()[np.argsort(order_by, axis=None, kind="stable")].astype(np.float64)
    sums = np.cumsum(absolute)
    remaining = np.maximum(np.round(absolute.size * (1 - np.arange(steps) / steps)).astype(int), 1)
    means = sums[remaining - 1] / remaining
    return np.asarray(means / means[0] if means[0] > 0 else np.ones(steps))


def sparsification_area(error: Array, sigma: Array, steps: int = 20) -> float:
    """AUSE: mean over the shares of (curve by sigma - curve by the error itself); 0: sigma sorts as the error does."""
    absolute = np.abs(error)
    return float((sparsification(absolute, sigma, steps) - sparsification(absolute, absolute, steps)).mean())


def auroc(score: Array, wrong: NDArray[np.bool_]) -> float:
    """Chance that a wrong voxel has a higher ``score`` than a right one, ties half (Mann-Whitney): 0.5 is no use, 1
    perfect.

    Raises:
        UserError: all voxels are wrong, or none is.
    """
    bad = int(wrong.sum())
    good = wrong.size - bad
    if not bad or not good:
        raise UserError("AUROC needs wrong and right voxels; here there is only one of them")
    ranks = stats.rankdata(score, axis=None)
    return float((ranks[wrong.ravel()].sum() - bad * (bad + 1) / 2) / (bad * good))
