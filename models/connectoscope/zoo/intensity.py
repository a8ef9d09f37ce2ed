"""Intensities of a grid as a model's card wants them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.networks.normalise import finite_sample, intensity_range
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.zoo.card import WIDE, Imported, Normalisation


def wanted_range(
    wanted: Normalisation | Imported, read: Callable[[Box], NDArray[np.generic]], shape: Index3
) -> tuple[float, float]:
    """(low, high) for :func:`connectoscope.networks.normalise.normalise`.

    Of an imported model they lie :data:`WIDE` ranges to both sides of its ``a``, so that nothing that matters is clipped;
    2 * WIDE times what comes of that is what the model asked for.

    Args:
        read: Gives the intensities of a box of the grid.
        shape: Of the grid.

    Raises:
        UserError: the sample is constant or holds what is no number.
    """
    if isinstance(wanted, Normalisation):
        return intensity_range(read, shape, wanted.low, wanted.high)
    if wanted.method == "scale-range":
        a, b = intensity_range(read, shape, wanted.low, wanted.high)
    elif wanted.method == "fixed":
        a, b = wanted.low, wanted.high
    else:
        sample = finite_sample(read, shape).astype(np.float64)
        a = float(sample.mean())
        b = a + float(sample.std())
        if not b > a:
            raise UserError(
                f"the volume is constant (every sampled voxel is {a:g}): there is nothing to find in it"
            )
    return a - WIDE * (b - a), a + WIDE * (b - a)
