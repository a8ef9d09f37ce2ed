"""A cheap stand-in for the wave model, for training on the fly: what it does to an image, without the physics.

blur -> high-pass -> white noise + clouds (power f⁻²…f⁻⁴) -> rings -> drift, in the cosine transform, whose borders are
mirrors: one transform there and one back. The defaults are :func:`fit` to the wave model at 30 nm voxels
(docs/xray_forward_model.md). Densities are those of the stain, 0 to 1; what comes out has mean 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, optimize

from connectoscope.xray2em.optics import FWHM, Optics
from connectoscope.xray2em.spectra import Shells

Real = NDArray[np.float32]


@dataclass(frozen=True)
class Surrogate:
    """Strength of each effect; lengths in nm, amplitudes in units of the stain density.

    Attributes:
        resolution_nm: Blur, full width at half maximum of a Gaussian; 0: none.
        halo_nm: Period at which the high-pass transfers one half; what is much longer is lost. Infinity: none.
        white: Standard deviation of the white noise.
        cloud: Amplitude of the coarse noise: its power in a voxel's units is cloud² (period / 1 µm)^slope.
        slope: Of the power of the coarse noise, 2 to 4.
        rings: Standard deviation of the rings far from their centre.
        drift: Standard deviation of the difference of brightness between opposite ends, for each axis.
    """

    resolution_nm: float = 62.3
    halo_nm: float = 3100.0
    white: float = 0.014
    cloud: float = 0.5
    slope: float = 2.0
    rings: float = 0.037
    drift: float = 0.02


def at(voxel_nm: float, *, counts: float, rings: float) -> Surrogate:
    """What :func:`fit` found at 30 nm voxels, 1e4 counts and rings of 0.01, carried over to other settings: the focus
    blurs by its own size and the rest by voxels, noise goes with the root of the counts, halos with that of the
    distances.
    """
    optics = Optics()
    steepness = 2 * np.pi * optics.wavelength_nm * np.sqrt(np.mean(np.square(optics.distances_nm(voxel_nm))))
    fitted, noise = Surrogate(), np.sqrt(1e4 / counts)
    rest = fitted.resolution_nm**2 - optics.focus_nm**2
    return replace(
        fitted,
        resolution_nm=float(np.sqrt(optics.focus_nm**2 + rest * (voxel_nm / 30) ** 2)),
        halo_nm=float(np.sqrt(steepness) / optics.alpha**0.25),
        white=float(fitted.white * noise),
        cloud=float(fitted.cloud * noise),
        rings=fitted.rings / 0.01 * rings,
    )


def high_pass(frequency: NDArray[np.floating], like: Surrogate) -> NDArray[np.floating]:
    """(f L)⁴ / (1 + (f L)⁴), L = ``halo_nm``, f in cycles per nm: the limit, for small f, of the wave model's
    w² / (w² + alpha), w = 2 pi lambda z f².
    """
    if np.isinf(like.halo_nm):
        return np.ones_like(frequency)
    high = (frequency * like.halo_nm) ** 4
    return np.asarray(high / (1 + high))


def transfer(frequency: NDArray[np.floating], like: Surrogate) -> NDArray[np.floating]:
    """Gain at a frequency in cycles per nm: Gaussian blur times :func:`high_pass`."""
    blur = np.exp(-2 * (np.pi * like.resolution_nm / FWHM * frequency) ** 2)
    return np.asarray(blur * high_pass(frequency, like))


def noise_power(frequency: NDArray[np.floating], like: Surrogate) -> NDArray[np.floating]:
    """Power of the noise at a frequency above 0, in cycles per nm; white noise of variance v has power v."""
    clouds = like.cloud**2 * (1000 * frequency) ** -like.slope * high_pass(frequency, like)
    return np.asarray(like.white**2 + clouds)


def simulate(density: Real, voxel_nm: float, like: Surrogate, seed: int | list[int]) -> Real:
    """X-ray image (z, y, x) of a stain density of the same shape, mean 0.

    Args:
        seed: Of all that is random; also a list of numbers.
    """
    generator = np.random.default_rng(seed)
    frequency = _frequencies(density.shape, voxel_nm)
    coefficients = fft.dctn(density.astype(np.float32), norm="ortho")
    coefficients *= transfer(frequency, like).astype(np.float32)
    lowest = np.float32(1 / (2 * voxel_nm * max(density.shape)))
    noise = np.sqrt(noise_power(np.maximum(frequency, lowest), like))
    coefficients += noise.astype(np.float32) * generator.standard_normal(density.shape, dtype=np.float32)
    coefficients[0, 0, 0] = 0
    image: Real = fft.idctn(coefficients, norm="ortho", overwrite_x=True)
    if like.rings:
        image += np.float32(like.rings) * _rings(density.shape, generator)
    for axis, n in enumerate(density.shape):
        slope = np.linspace(-0.5, 0.5, n, dtype=np.float32) * np.float32(generator.normal(0, like.drift))
        image += slope.reshape([-1 if a == axis else 1 for a in range(3)])
    return image


def draw(like: Surrogate, seed: int | list[int]) -> Surrogate:
    """One of the many scans that training should see: every effect between half and twice as strong, halos from 1 to
    3 µm and beyond.
    """
    generator = np.random.default_rng(seed)

    def vary(value: float, most: float = 2.0) -> float:
        return float(value * most ** generator.uniform(-1, 1))

    return Surrogate(
        resolution_nm=vary(like.resolution_nm, 1.4),
        halo_nm=vary(like.halo_nm, 1.7),
        white=vary(like.white),
        cloud=vary(like.cloud),
        slope=float(generator.uniform(2, 4)),
        rings=vary(like.rings),
        drift=vary(like.drift),
    )


def fit(known: Shells, voxel_nm: float, like: Surrogate) -> tuple[Surrogate, float]:
    """``like`` with blur, white noise and clouds measured from an image of a known density, and the image's gain.

    Args:
        known: Shells of the density (a) and of its image (b), of any gain and without rings.
    """
    frequency = known.frequency / voxel_nm
    seen = (known.frequency > 0.06) & (known.transfer > 0.05)
    halo = transfer(frequency, replace(like, resolution_nm=0.0))
    slope, offset = np.polyfit(frequency[seen] ** 2, np.log(known.transfer[seen] / halo[seen]), 1)
    gain = float(np.exp(offset))
    blur = float(FWHM * np.sqrt(max(-slope, 0) / 2) / np.pi)
    used = known.frequency > 0.03
    power = np.log(known.noise[used] / gain**2)

    def log_power(f: NDArray[np.floating], white: float, cloud: float, slope: float) -> NDArray[np.floating]:
        model = replace(like, white=white, cloud=cloud, slope=slope)
        return np.asarray(np.log(noise_power(f, model)))

    bounds = ((1e-4, 1e-4, 2.0), (10.0, 10.0, 4.0))
    (white, cloud, fall), _ = optimize.curve_fit(
        log_power, frequency[used], power, p0=(0.05, 0.2, 2.5), bounds=bounds
    )
    return replace(like, resolution_nm=blur, white=float(white), cloud=float(cloud), slope=float(fall)), gain


def _frequencies(shape: tuple[int, ...], voxel_nm: float) -> Real:
    """|f| in cycles per nm of every coefficient of a cosine transform: k / 2n periods per voxel."""
    squared = np.float32(0)
    for axis, n in enumerate(shape):
        f = np.arange(n, dtype=np.float32) / np.float32(2 * n * voxel_nm)
        squared = squared + np.square(f).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.asarray(np.sqrt(squared))


def _rings(shape: tuple[int, ...], generator: np.random.Generator) -> Real:
    """Rings of standard deviation 1 in every plane (y, x), about an axis up to one width outside the volume."""
    depth, height, width = shape
    y0, x0 = generator.uniform(-1, 2, 2) * (height, width)
    radius = np.hypot(np.arange(height)[:, None] - y0, np.arange(width)[None, :] - x0)
    profile = generator.standard_normal((depth, int(radius.max()) + 3), dtype=np.float32)
    profile = ndimage.gaussian_filter1d(profile, 1, axis=1) - ndimage.gaussian_filter1d(profile, 4, axis=1)
    profile /= profile.std()
    low = radius.astype(np.int64)
    after = (radius - low).astype(np.float32)
    rings: Real = profile[:, low] * (1 - after) + profile[:, low + 1] * after
    return rings
