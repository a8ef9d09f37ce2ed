"""Intensity normalisation by percentiles of the grid that the network sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.volumes.geometry import Box, Index3

WHOLE = 16 * 2**20  # voxels up to which the whole grid is the sample
SIDE = 64  # else: boxes of this side, clipped, centred on an even 4 x 4 x 4 grid
APART = 1e-6  # relative: float32 rounding alone makes less of a constant volume that is resampled


def sample_boxes(shape: Index3) -> Iterator[Box]:
    """The boxes that make the sample: planes' worth of the whole grid, or 64 boxes of 64³."""
    if shape[0] * shape[1] * shape[2] <= WHOLE:
        yield Box.of(shape)
        return
    for z in range(4):
        for y in range(4):
            for x in range(4):
                centre = [int((i + 0.5) * n / 4) for i, n in zip((z, y, x), shape, strict=True)]
                start = tuple(max(c - SIDE // 2, 0) for c in centre)
                stop = tuple(min(c + SIDE // 2, n) for c, n in zip(centre, shape, strict=True))
                yield Box(start, stop)  # type: ignore[arg-type]


def intensity_range(
    read: Callable[[Box], NDArray[np.generic]], shape: Index3, low: float, high: float
) -> tuple[float, float]:
    """The intensities at percentiles ``low`` and ``high`` (0-100) of a grid.

    Args:
        read: Gives the intensities of a box of the grid, any real dtype; fewer where some cannot be read.
        shape: Of the grid, z, y, x.

    Raises:
        UserError: when the sample is empty, holds not-a-numbers or infinities, or is constant.
    """
    sample = finite_sample(read, shape)
    a, b = (float(v) for v in np.percentile(sample, (low, high)))
    if not _apart(a, b):
        a, b = float(sample.min()), float(sample.max())
    if not _apart(a, b):
        raise UserError(
            f"the volume is constant (every sampled voxel is {a:g}): there is nothing to find in it"
        )
    return a, b


def _apart(low: float, high: float) -> bool:
    return high - low > APART * max(abs(low), abs(high))


def finite_sample(read: Callable[[Box], NDArray[np.generic]], shape: Index3) -> NDArray[Any]:
    """The intensities of :func:`sample_boxes`, in one row.

    Raises:
        UserError: it holds not-a-numbers or infinities.
    """
    sample = np.concatenate([np.asarray(read(box)).ravel() for box in sample_boxes(shape)])
    if not sample.size:
        raise UserError("none of the sampled voxels can be read: restore the volume from its source")
    if sample.dtype.kind == "f" and not np.isfinite(sample).all():
        share = 100 * (1 - np.isfinite(sample).mean())
        raise UserError(
            f"{share:.3g} % of the sampled voxels are not numbers or infinite; replace them, for example by 0, and try again"
        )
    return sample


def normalise(array: NDArray[np.generic], low: float, high: float) -> NDArray[np.float32]:
    """Intensities as float32 around 0: ``low`` becomes -0.5, ``high`` 0.5, clipped to [-1, 1]; any shape."""
    scaled = (array.astype(np.float32) - np.float32(low)) / np.float32(high - low) - np.float32(0.5)
    clipped: NDArray[np.float32] = np.clip(scaled, -1.0, 1.0)
    return clipped
