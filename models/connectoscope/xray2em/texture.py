"""What tells an X-ray volume from others, by its normalised intensities alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

NAMES = ("skewness", "neighbours")


def texture(parts: Iterable[NDArray[np.float32]]) -> tuple[float, float]:
    """Skewness of the intensities, and correlation of neighbours along x, of an image seen in parts (z, y, x)."""
    values, before, after = [], [], []
    for part in parts:
        values.append(part.ravel())
        before.append(part[..., :-1].ravel())
        after.append(part[..., 1:].ravel())
    correlation = np.corrcoef(np.concatenate(before), np.concatenate(after))[0, 1]
    return float(stats.skew(np.concatenate(values))), float(correlation)
