"""How alike two images are, by the field's usual measures; both are of one shape, intensities 0-1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.floating]


def psnr(image: Array, truth: Array) -> float:
    """Peak signal-to-noise ratio in dB, for a peak of 1."""
    return float(-10 * np.log10(np.mean(np.square(image - truth), dtype=np.float64)))


def ssim(image: Array, truth: Array) -> float:
    """Mean structural similarity (Wang et al. 2004): Gaussian windows of sigma 1.5 voxels, cut at 3.5 sigma, for a range
    of 1; voxels whose window is not whole are left out.
    """
    a, b = (np.asarray(v, np.float64) for v in (image, truth))

    def mean(v: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth: NDArray[np.float64] = ndimage.gaussian_filter(v, 1.5, truncate=3.5)
        return smooth

    ma, mb = mean(a), mean(b)
    va, vb, cab = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * ma * mb + c1) * (2 * cab + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    inner = tuple(slice(5, -5) if n > 10 else slice(None) for n in similarity.shape)
    return float(similarity[inner].mean())
