"""What tells an X-ray volume from others: its voxels, and its normalised intensities."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from connectoscope.errors import UserError
from connectoscope.volumes import Volume

NAMES = ("skewness", "neighbours")
ANISOTROPIC = 1.1  # ratio of voxel sizes that an X-ray volume does not have


def check_isotropic(volume: Volume) -> None:
    """Raises UserError unless the voxels, whose size must be known, are as long as wide."""
    sizes = volume.voxel_size_nm()
    if max(sizes) > ANISOTROPIC * min(sizes):
        shown = " × ".join(f"{s:g}" for s in sizes)
        raise UserError(
            f"{volume.name} has voxels of {shown} nm, X-ray volumes have equal sides: choose another volume, or correct "
            "the size with --voxel-size"
        )


def texture(parts: Iterable[NDArray[np.float32]]) -> tuple[float, float]:
    """Skewness of the intensities, and correlation of neighbours along x, of an image seen in parts (z, y, x).

    What is NaN does not count.
    """
    values, before, after = [], [], []
    for part in parts:
        known = ~np.isnan(part)
        both = known[..., :-1] & known[..., 1:]
        values.append(part[known])
        before.append(part[..., :-1][both])
        after.append(part[..., 1:][both])
    correlation = np.corrcoef(np.concatenate(before), np.concatenate(after))[0, 1]
    return float(stats.skew(np.concatenate(values))), float(correlation)
