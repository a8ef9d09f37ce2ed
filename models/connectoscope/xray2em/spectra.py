"""Shells of equal spatial frequency: Fourier shell correlation, transfer and noise of an image of something known.

Volumes are (z, y, x) with cubic voxels; a Hann window keeps their borders from counting. Frequencies are in cycles per
voxel, 0 to 0.5, whatever the shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Shells:
    """Sums over the shells of two volumes a and b.

    Attributes:
        frequency: Centre of each shell, cycles per voxel.
        aa, bb: Power of a and of b.
        ab: Real part of the cross power.
        count: Coefficients in the shell.
    """

    frequency: Array
    aa: Array
    bb: Array
    ab: Array
    count: Array

    @property
    def correlation(self) -> Array:
        """Fourier shell correlation (Harauz and van Heel 1986), -1 to 1."""
        return self.ab / np.sqrt(np.maximum(self.aa * self.bb, 1e-300))

    @property
    def transfer(self) -> Array:
        """Gain from a to b: cross power over the power of a."""
        return self.ab / np.maximum(self.aa, 1e-300)

    @property
    def noise(self) -> Array:
        """Power per coefficient of what in b does not come from a."""
        return np.maximum(self.bb - self.transfer * self.ab, 0) / self.count


def shells(a: NDArray[np.generic], b: NDArray[np.generic], count: int = 24) -> Shells:
    """Sums over ``count`` shells between 0 and 0.5 cycles per voxel; corners beyond are left out.

    Power is that of one voxel: white noise of variance v has power v in every shell.
    """
    window = np.float64(1)
    for axis, n in enumerate(a.shape):
        shape = [1] * a.ndim
        shape[axis] = n
        window = window * np.sin(np.pi * (np.arange(n) + 0.5) / n).reshape(shape)
    energy = float((window**2).sum())
    spectra = [fft.fftn((v - v.mean(dtype=np.float64)) * window) for v in (a, b)]
    radius = np.sqrt(
        sum(np.square(f) for f in np.meshgrid(*map(fft.fftfreq, a.shape), indexing="ij", sparse=True))
    )
    index = np.floor(radius * 2 * count).astype(int).ravel()
    inside = index < count

    def sums(values: Array) -> Array:
        return np.asarray(np.bincount(index[inside], values.ravel()[inside], count), dtype=np.float64)

    first, second = spectra
    return Shells(
        frequency=(np.arange(count) + 0.5) / (2 * count),
        aa=sums(np.abs(first) ** 2 / energy),
        bb=sums(np.abs(second) ** 2 / energy),
        ab=sums((first * second.conj()).real / energy),
        count=np.maximum(sums(np.ones(a.shape)), 1),
    )


def resolution(correlation: Array, frequency: Array, threshold: float = 0.143) -> float | None:
    """Length in voxels of the finest period that both halves agree on: 1 / frequency where the correlation falls below
    ``threshold`` (Rosenthal and Henderson 2003), linear between shells; the coarsest three shells, which hold few
    coefficients and the halos, are passed over. None: it never falls below, so the resolution is that of the grid,
    2 voxels.
    """
    below = np.flatnonzero(correlation[3:] < threshold)
    if len(below) == 0:
        return None
    i = int(below[0]) + 3
    if correlation[i - 1] <= threshold:
        return float(1 / frequency[i])
    share = (correlation[i - 1] - threshold) / (correlation[i - 1] - correlation[i])
    return float(1 / (frequency[i - 1] + share * (frequency[i] - frequency[i - 1])))
