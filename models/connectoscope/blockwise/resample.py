"""Separable resampling whose values do not depend on the part that is asked for.

Voxel j of the new grid covers the interval [j f, (j + 1) f) of the old one (f: a rational factor, in
voxels, measured from the outer face of voxel 0). Reducing (f > 1) averages what the interval covers;
enlarging (f < 1) interpolates linearly between voxel centres, constant beyond the first and the last.
All positions are exact integers over one denominator and weights are summed tap by tap, so a tile gives
the bits of the whole volume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Taps:
    """Which old voxels make each new one, along one axis: ``new[j] = sum_k weight[j, k] * old[index[j,
    k]]``.
    """

    index: NDArray[np.int64]  # (new, taps), absolute old indices
    weight: NDArray[np.float32]  # (new, taps), rows sum to 1

    @property
    def start(self) -> int:
        return int(self.index.min())

    @property
    def stop(self) -> int:
        return int(self.index.max()) + 1


def resampled_length(length: int, factor: Fraction) -> int:
    """Number of new voxels that cover ``length`` old ones; the last may be covered in part."""
    return max(1, math.ceil(length / factor))


def taps(start: int, stop: int, factor: Fraction, length: int) -> Taps:
    """Taps for new voxels ``start`` to ``stop`` on an axis of ``length`` old voxels."""
    p, d = factor.numerator, factor.denominator
    j = np.arange(start, stop, dtype=np.int64)[:, None]  # (new, 1)
    if factor == 1:
        return Taps(j, np.ones_like(j, dtype=np.float32))
    if factor > 1:
        low, high = j * p, np.minimum((j + 1) * p, length * d)  # faces of the interval, in 1/d voxels
        index = low // d + np.arange(math.ceil(factor) + 1)
        overlap = np.minimum(high, (index + 1) * d) - np.maximum(low, index * d)
        weight = np.maximum(overlap, 0) / (high - low)
    else:
        centre = np.clip((2 * j + 1) * p - d, 0, (length - 1) * 2 * d)  # in 1/(2d) voxels
        index = centre // (2 * d) + np.arange(2)
        after = (centre % (2 * d)) / (2 * d)
        weight = np.concatenate([1 - after, after], axis=1)
    return Taps(np.clip(index, 0, length - 1), weight.astype(np.float32))


def resample_axis(array: NDArray[np.float32], axis: int, rows: Taps, offset: int) -> NDArray[np.float32]:
    """Apply ``rows`` along ``axis`` of ``array``, whose first voxel there has the old index ``offset``."""
    if rows.index.shape[1] == 1:
        return np.take(array, rows.index[:, 0] - offset, axis=axis)
    shape = [1] * array.ndim
    shape[axis] = -1
    total: NDArray[np.float32] | None = None
    with np.errstate(invalid="ignore"):  # infinity times 0: the caller counts what is not finite
        for k in range(rows.index.shape[1]):
            part = np.take(array, rows.index[:, k] - offset, axis=axis)
            part *= rows.weight[:, k].reshape(shape)
            total = part if total is None else np.add(total, part, out=total)
    return array if total is None else total
