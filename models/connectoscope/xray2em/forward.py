"""The wave model: an EM volume as X-ray holographic nano-tomography would show it (Kuan et al. 2020).

::

    EM -> stain density -> projection -> exit wave -> Fresnel propagation -> detector -> phase -> filtered
          (0 to 1)         (per angle)                 (4 distances)         (counts)           back-projection

Each arrow is a pure function of :mod:`.optics` or :mod:`.tomography`; here they are joined, angle by angle, so that no
sinogram is kept. What is simulated is a cylinder of tissue whose surroundings have its mean density: specimens are
wider than the field of view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from connectoscope.xray2em.optics import (
    Optics,
    blur_of_focus,
    detect,
    exit_wave,
    fresnel_kernels,
    gain,
    jitter,
    motion,
    propagate,
    retrieve_ctf,
    retrieve_paganin,
)
from connectoscope.xray2em.tomography import (
    angle_count,
    back_project,
    disc,
    project,
    ramp_filter,
    shadow_matrix,
)

Real = NDArray[np.float32]
Retrieval = Literal["ctf", "paganin"]

LEAST_NM = 6000.0  # extent to which small specimens are mirrored: several times the coarsest halo
_MIRRORED = 2**24  # added to the number of a plane for that of its mirror image
MARGIN_NM = 1500.0  # planes simulated beyond what is kept of a slab: the reach of the propagation


def stain_density(em: NDArray[np.generic], low: float, high: float) -> Real:
    """Density of the stain, 0 (``high``, the brightest) to 1 (``low``, the darkest): EM shows heavy metal dark."""
    density = (np.float32(high) - em.astype(np.float32)) / np.float32(high - low)
    return np.asarray(np.clip(density, 0, 1))


def simulated_extent(shape: Sequence[int], voxel_nm: float) -> tuple[int, int]:
    """Planes beyond each end, and width of the slices, that are simulated for a part of ``shape`` (z, y, x).

    The slices are at least ``LEAST_NM`` wide and hold the part in their inscribed circle; the planes, mirrored once
    more when they are imaged, are at least half as long.
    """
    least = math.ceil(LEAST_NM / voxel_nm)
    planes = max(math.ceil(MARGIN_NM / voxel_nm), math.ceil((least / 2 - shape[0]) / 2))
    width = max(least, math.ceil(math.hypot(shape[1], shape[2])) + 12)
    return planes, width + (width - shape[1]) % 2


def surrounded(thickness: Real) -> Real:
    """A projection (z, t) in the field of view: twice as long, mirrored along z, where the specimen goes on, and twice
    as wide, 0 (the mean density) along t.

    The field of view is periodic and nothing is cut from it until the phase is retrieved: at 30 nm voxels a detail of
    90 nm is spread over lambda z / 90 nm = 10 µm, which would leave a smaller field.
    """
    rows, columns = thickness.shape
    wide = fft.next_fast_len(2 * columns, real=True)
    tall = np.pad(thickness, ((0, rows), (0, 0)), mode="symmetric")
    return np.pad(tall, ((0, 0), (0, wide - columns)))


def measure(
    thickness: Real,
    planes: Sequence[int],
    gains: Real,
    optics: Optics,
    voxel_nm: float,
    *,
    seed: int,
    angle: int,
) -> Real:
    """What the detector says at one angle: normalised images (distance, z, t).

    Args:
        thickness: Density integrated along the rays (z, t), in voxels, :func:`surrounded`.
        planes: Number of each z, not negative; noise belongs to the plane.
        gains: Of the detector's pixels (distance, z, t).
    """
    kernels = fresnel_kernels((thickness.shape[0], thickness.shape[1]), optics, voxel_nm)
    known = motion(optics, voxel_nm, seed, angle)
    unknown = jitter(optics, voxel_nm, seed, angle)
    shift = (known[0] + unknown[0], known[1] + unknown[1])
    intensities = propagate(exit_wave(thickness, optics, voxel_nm), kernels, shift)
    images = detect(blur_of_focus(intensities, optics, voxel_nm), gains, planes, optics, seed, angle)
    return np.roll(images, (-known[0], -known[1]), axis=(1, 2))


def retrieve(images: Real, optics: Optics, voxel_nm: float, method: Retrieval = "ctf") -> Real:
    """Density integrated along the rays (z, t), in voxels, from the images (distance, z, t) of one angle."""
    phase = {"ctf": retrieve_ctf, "paganin": retrieve_paganin}[method](images, optics, voxel_nm)
    return np.asarray(phase / np.float32(-2 * np.pi / optics.wavelength_nm * optics.delta * voxel_nm))


def scan(
    density: Real,
    planes: Sequence[int],
    keep: slice,
    optics: Optics,
    voxel_nm: float,
    *,
    seed: int,
    mean: float,
    retrieval: Retrieval = "ctf",
    angles: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Real:
    """Two independent reconstructions (2, z, y, x) of a density, from the even and the odd angles.

    Their mean is the reconstruction; their shell correlation its resolution. 0 is the mean density.

    Args:
        density: (z, n, n), 0 to 1; what lies outside the inscribed circle is replaced by ``mean``.
        planes: Number of each plane in the whole volume, not negative, so that slabs get the same noise.
        keep: Planes that are reconstructed; the others only take part in the propagation.
        angles: Over half a turn, even; default :func:`tomography.angle_count`.
        progress: Told the angles done and their total; may raise to stop.
    """
    depth, width = density.shape[0], density.shape[-1]
    columns = np.ascontiguousarray(((density - np.float32(mean)) * disc(width)).reshape(depth, -1).T)
    total = angle_count(width) if angles is None else angles
    seen = [*planes, *(p + _MIRRORED for p in reversed(planes))]
    gains = gain(seen, fft.next_fast_len(2 * width, real=True), len(optics.spread), optics, seed)
    halves = np.zeros((2, width * width, len(range(*keep.indices(depth)))), dtype=np.float32)
    for k in range(total):
        progress(k, total)
        shadow = shadow_matrix(width, np.pi * k / total)
        thickness = surrounded(project(columns, shadow))
        images = measure(thickness, seen, gains, optics, voxel_nm, seed=seed, angle=k)
        found = retrieve(images, optics, voxel_nm, retrieval)[:depth, :width][keep]
        halves[k % 2] += back_project(ramp_filter(found), shadow)
    progress(total, total)
    halves *= np.float32(2 * np.pi / total)
    return halves.transpose(0, 2, 1).reshape(2, -1, width, width)
