"""What tells an X-ray volume from others: its voxels, and its normalised intensities."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from connectoscope.errors import UserError
from connectoscope.volumes import Volume
from connectoscope.volumes.geometry import sizes_text

NAMES = ("skewness", "neighbours", "details")
FINE = 4.0  # voxels: details are what a Gaussian of this sd blurs away
ANISOTROPIC = 1.1  # ratio of voxel sizes that an X-ray volume does not have


def check_isotropic(volume: Volume) -> None:
    """Raises UserError unless the voxels, whose size must be known, are as long as wide."""
    sizes = volume.voxel_size_nm()
    if max(sizes) > ANISOTROPIC * min(sizes):
        shown = sizes_text(sizes)
        raise UserError(
            f"{volume.name} has voxels of {shown} nm, X-ray volumes have equal sides: choose another volume, or correct "
            "the size with --voxel-size"
        )


def texture(parts: Iterable[NDArray[np.float32]]) -> tuple[float, float, float]:
    """Skewness of the intensities, correlation of neighbours along x, and skewness of details, of an image seen in parts
    (z, y, x).

    Membranes are thin and lie in much that is none, so that details are skewed, and to the other side where dark and
    bright are swapped. What is NaN does not count.
    """
    values, before, after, details = [], [], [], []
    for part in parts:
        known = ~np.isnan(part)
        details.append(_details(part, known))
        both = known[..., :-1] & known[..., 1:]
        values.append(part[known])
        before.append(part[..., :-1][both])
        after.append(part[..., 1:][both])
    correlation = np.corrcoef(np.concatenate(before), np.concatenate(after))[0, 1]
    skewness, fine = (float(stats.skew(np.concatenate(v))) for v in (values, details))
    return skewness, float(correlation), fine


def _details(part: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The known voxels of ``part``, in a row, less the mean of those around them."""
    blurred = ndimage.gaussian_filter(np.where(known, part, np.float32(0)), FINE)
    weight = ndimage.gaussian_filter(known.astype(np.float32), FINE)
    found: NDArray[np.float32] = part[known] - blurred[known] / weight[known]
    return found
