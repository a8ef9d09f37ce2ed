"""X-ray holography of one projection: propagation to several distances, detection, phase retrieval.

A projection is an array (z, t): z along the rotation axis, t across it, one voxel of the X-ray grid per pixel, as if
the geometric magnification were undone. Lengths are in nanometres, spatial frequencies f in cycles per nanometre.

The geometry is that of a cone beam from a focus (ESRF ID16A, settings of nikitinvv/holotomocupy): a specimen at z1
from the focus and z12 - z1 from the detector is imaged as by a parallel beam after z_eff = z1 (z12 - z1) / z12,
magnified z12 / z1 (Fresnel scaling theorem; Paganin, Coherent X-Ray Optics, 2006, Appendix B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from connectoscope.errors import UserError

Real = NDArray[np.float32]
Complex = NDArray[np.complex64]

PLANCK_KEV_NM = 1.2398420  # h c
FWHM = 2.3548200  # full width at half maximum of a Gaussian, in standard deviations


@dataclass(frozen=True)
class Optics:
    """A beam line, the staining and the detector.

    Attributes:
        energy_kev: Photon energy.
        focus_to_detector_nm: z12.
        detector_pixel_nm: Pixel of the detector; its image in the specimen is the voxel.
        spread: Distances of the specimen from the focus, relative to the first; the first gives the voxel size.
        delta: Refractive index decrement of the densest stain above that of the least dense tissue.
        delta_beta: delta / beta, the same everywhere: one material.
        focus_nm: Size of the focus, full width at half maximum: the blur of every image.
        counts: Photons per pixel, distance and angle without a specimen.
        rings: Standard deviation of the logarithm of each pixel's gain error, constant over the angles.
        motion_nm: Standard deviation of the displacement along z and t that the specimen is given at each angle, known
            and undone, so that a bad pixel does not always see the same ring.
        jitter_nm: The same of the displacement that remains unknown.
        alpha: Regularisation of the phase retrieval.
    """

    energy_kev: float = 17.1
    focus_to_detector_nm: float = 1.217e9
    detector_pixel_nm: float = 2950.0
    spread: tuple[float, ...] = (1.0, 8.599 / 8.245, 10.014 / 8.245, 12.952 / 8.245)
    delta: float = 1.5e-6
    delta_beta: float = 24.0
    focus_nm: float = 50.0
    counts: float = 1e4
    rings: float = 0.01
    motion_nm: float = 20.0
    jitter_nm: float = 10.0
    alpha: float = 0.5

    @property
    def wavelength_nm(self) -> float:
        return PLANCK_KEV_NM / self.energy_kev

    def distances_nm(self, voxel_nm: float) -> tuple[float, ...]:
        """Effective propagation distances z_eff for voxels of ``voxel_nm``: 8.2 mm at 20 nm, 12.2 mm at 30 nm.

        Raises:
            UserError: the specimen would have to stand behind the detector.
        """
        z12 = self.focus_to_detector_nm
        first = z12 * voxel_nm / self.detector_pixel_nm
        if first * max(self.spread) > z12 / 2:
            most = z12 / 2 / max(self.spread) * self.detector_pixel_nm / z12
            raise UserError(
                f"voxels of {voxel_nm:g} nm cannot be simulated for this beam line; choose at most {most:.0f} nm"
            )
        return tuple(first * s * (z12 - first * s) / z12 for s in self.spread)


def frequencies_squared(shape: tuple[int, int], voxel_nm: float, *, real: bool = False) -> Real:
    """f² of every coefficient of a 2D Fourier transform (``real``: of ``rfft2``)."""
    rows = fft.fftfreq(shape[0], voxel_nm)
    columns = (fft.rfftfreq if real else fft.fftfreq)(shape[1], voxel_nm)
    return np.asarray(rows[:, None] ** 2 + columns[None, :] ** 2, dtype=np.float32)


def exit_wave(thickness: Real, optics: Optics, voxel_nm: float) -> Complex:
    """The wave behind the specimen, exp(-B + i phi), B = 2 pi / lambda * integral beta, phi = -2 pi / lambda *
    integral delta.

    Args:
        thickness: Integral of the stain density (0 to 1) along the ray, in voxels.
    """
    phase = np.float32(-2 * np.pi / optics.wavelength_nm * optics.delta * voxel_nm) * thickness
    wave: Complex = np.exp((1j + 1 / optics.delta_beta) * phase).astype(np.complex64)
    return wave


@lru_cache(maxsize=2)  # the same for all angles
def fresnel_kernels(shape: tuple[int, int], optics: Optics, voxel_nm: float) -> Complex:
    """exp(-i pi lambda z f²) for each effective distance z: (distance, z, t), in the order of ``fft2``."""
    squared = frequencies_squared(shape, voxel_nm).astype(np.float64)
    distances = np.array(optics.distances_nm(voxel_nm))[:, None, None]
    phase = -np.pi * optics.wavelength_nm * distances * squared
    kernels: Complex = np.exp(1j * phase).astype(np.complex64)
    return kernels


def propagate(wave: Complex, kernels: Complex, shift: tuple[float, float] = (0, 0)) -> Real:
    """Intensities (distance, z, t) of a wave after free space: |F⁻¹{F[wave] kernel}|².

    Args:
        wave: (z, t); taken as periodic, so the caller pads it.
        kernels: Of :func:`fresnel_kernels`, for the padded shape.
        shift: Of the specimen along z and t, in pixels; exact, also where it is not whole.
    """
    rows, columns = (
        np.exp(-2j * np.pi * s * fft.fftfreq(n)).astype(np.complex64)
        for s, n in zip(shift, wave.shape, strict=True)
    )
    spectrum = fft.fft2(wave) * rows[:, None] * columns
    out: Real = np.abs(fft.ifft2(spectrum * kernels, overwrite_x=True)) ** 2
    return out


def blur_of_focus(intensities: Real, optics: Optics, voxel_nm: float) -> Real:
    """Intensities (distance, z, t) seen with a focus of finite size."""
    sigma = optics.focus_nm / FWHM / voxel_nm
    blurred: Real = ndimage.gaussian_filter(intensities, sigma, axes=(1, 2))
    return blurred


def gain(planes: Sequence[int], width: int, distances: int, optics: Optics, seed: int) -> Real:
    """Gain of each detector pixel (distance, z, t), the same at every angle: what makes rings.

    Args:
        planes: Number of each z in the volume; a plane has the same errors whatever it is simulated with.
    """
    errors = [np.random.default_rng([seed, 1, p]).normal(0, optics.rings, (distances, width)) for p in planes]
    gains: Real = np.exp(np.stack(errors, axis=1)).astype(np.float32)
    return gains


def detect(
    intensities: Real, gains: Real, planes: Sequence[int], optics: Optics, seed: int, angle: int
) -> Real:
    """Photons counted over those expected without a specimen; shape (distance, z, t) is kept.

    Poisson noise; from 5000 counts on its normal limit, which is three times faster.
    """
    expected = intensities * gains
    out = np.empty_like(expected)
    for i, plane in enumerate(planes):
        generator = np.random.default_rng([seed, 2, plane, angle])
        if optics.counts < 5000:
            out[:, i] = generator.poisson(optics.counts * expected[:, i]) / optics.counts
        else:
            out[:, i] = generator.standard_normal(out[:, i].shape, dtype=np.float32)
    if optics.counts >= 5000:
        out = expected + np.sqrt(expected / np.float32(optics.counts)) * out
    return out


def motion(optics: Optics, voxel_nm: float, seed: int, angle: int) -> tuple[int, int]:
    """Known displacement (z, t) of the specimen at one angle, in whole pixels: undone by rolling back."""
    generator = np.random.default_rng([seed, 3, angle])
    z, t = generator.normal(0, optics.motion_nm / voxel_nm, 2)
    return round(z), round(t)


def jitter(optics: Optics, voxel_nm: float, seed: int, angle: int) -> tuple[float, float]:
    """Displacement (z, t) of the specimen at one angle that nobody knows, in pixels."""
    z, t = np.random.default_rng([seed, 4, angle]).normal(0, optics.jitter_nm / voxel_nm, 2)
    return float(z), float(t)


@lru_cache(maxsize=2)
def transfer_weights(shape: tuple[int, int], optics: Optics, voxel_nm: float) -> Real:
    """What a weak phase of one material becomes in F[I - 1]: w_j = 2 sin x_j + 2 (beta / delta) cos x_j, x_j = pi
    lambda z_j f²; (distance, z, t), in the order of ``rfft2``.
    """
    squared = frequencies_squared(shape, voxel_nm, real=True)
    distances = np.array(optics.distances_nm(voxel_nm), dtype=np.float32)[:, None, None]
    x = np.float32(np.pi * optics.wavelength_nm) * distances * squared
    weights: Real = 2 * np.sin(x) + np.float32(2 / optics.delta_beta) * np.cos(x)
    return weights


def retrieve_ctf(images: Real, optics: Optics, voxel_nm: float) -> Real:
    """Phase (z, t) from normalised images (distance, z, t) by the contrast transfer function of one material.

    phase = F⁻¹{sum_j w_j F[I_j - 1] / (sum_j w_j² + n alpha)} (Cloetens et al. 1999; Turner et al. 2004): least
    squares for weak phases, at any distance. Images are taken as periodic.
    """
    weights = transfer_weights(_shape(images), optics, voxel_nm)
    spectra = fft.rfft2(images - 1)
    top, bottom = (weights * spectra).sum(0), (weights**2).sum(0) + np.float32(len(images) * optics.alpha)
    phase: Real = fft.irfft2(top / bottom, s=_shape(images))
    return phase


def retrieve_paganin(images: Real, optics: Optics, voxel_nm: float) -> Real:
    """Phase (z, t) from normalised images (distance, z, t) in the near-field approximation (Paganin et al. 2002).

    phase = (delta / 2 beta) ln F⁻¹{mean_j(t_j F[I_j]) / (mean_j t_j² + alpha)}, t_j = 1 + pi lambda z_j (delta / beta)
    f². Right only where pi lambda z f² is well below 1: details coarser than sqrt(pi lambda z), 1.7 µm at 30 nm
    voxels.
    """
    squared = frequencies_squared(_shape(images), voxel_nm, real=True)
    distances = np.array(optics.distances_nm(voxel_nm), dtype=np.float32)[:, None, None]
    t = 1 + np.float32(np.pi * optics.wavelength_nm * optics.delta_beta) * distances * squared
    mean = (t * fft.rfft2(images)).mean(0) / ((t**2).mean(0) + np.float32(optics.alpha))
    contact = fft.irfft2(mean, s=_shape(images))
    phase: Real = np.float32(optics.delta_beta / 2) * np.log(np.maximum(contact, 1e-6))
    return phase


def _shape(images: Real) -> tuple[int, int]:
    return (images.shape[-2], images.shape[-1])
