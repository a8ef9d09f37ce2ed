"""Bright blobs of one size in one tile: a filter, maxima, positions. Pure functions.

The filter smooths along z and takes the difference of two Gaussians in the planes, of widths s = r / sqrt(3) (where
the Laplacian of a Gaussian answers most strongly to a ball of radius r; Lindeberg 1998) and 1.6 s (Marr and Hildreth
1980). Widths are the same in micrometres on every axis, so that anisotropic voxels need nothing further. There is no
difference along z: light sheets smear cells along z, and planes are brighter or darker with depth and from one
physical section to the next. For the same reason responses are in units of the voxel noise of their own plane, measured
once for the whole grid (:func:`plane_noise`). So a fibre along z answers as a row of cells does.

A *peak* is a voxel whose response is the greatest within a radius (equal ones: the first in raster order). Which plane
of a smeared cell is the brightest says little about where it is. Its position in z is therefore the middle of its
*run*: the planes above and below the peak in which the response stays above the threshold::

    z   response        run                   A peak in whose run a greater response lies is another view of the
    0   .               threshold ---         same cell and is dropped.
    1   ####            |
    2   ######          |  position
    3   #########       |  <- peak
    4   .               threshold ---

In y and x the position is the vertex of a parabola through three voxels. Everything about a peak is decided by voxels
within the halo, and SciPy sums each voxel's neighbours in one fixed order, so blocks of any shape give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from connectoscope.volumes.geometry import Box, Float3, Index3

RATIO = 1.6  # outer width over inner
TRUNCATE = 3.0  # widths after which a Gaussian is cut off
RUN = 2.5  # half of the longest run, in diameters: what light sheets make of a cell in z
COLUMNS, SIDE = 4, 64  # the noise is measured in 4 x 4 columns of 64 x 64 voxels, in all planes
SLAB = 64  # planes read at once for that
FLOOR = 0.1  # smallest noise of a plane, as a share of the median plane's: empty planes are no reason to divide by 0
CLEAN = 1e-4  # and as a share of the range of intensities, for simulated volumes without any noise
MAD = 1.4826  # standard deviation of normal noise over its median absolute deviation
SMALL = 10**6  # voxels of a tile up to which one thread filters faster than several
GATHER = 2**16  # candidates compared with their neighbours at once


@dataclass(frozen=True)
class Blob:
    """What is looked for, in voxels (z, y, x).

    Attributes:
        sigma: Width along z, and of the inner Gaussian in y and x.
        window: A peak is the greatest within this many voxels per side.
        run: Planes per side that a run may have.
    """

    sigma: Float3
    window: Index3
    run: int

    @classmethod
    def of(cls, diameter: float, voxel: Float3) -> Blob:
        """For blobs of ``diameter``, in the unit of the voxel size ``voxel`` (z, y, x)."""
        z, y, x = (diameter / 2 / math.sqrt(3) / v for v in voxel)
        c, b, a = (max(1, math.floor(diameter / 2 / v)) for v in voxel)
        return cls((z, y, x), (c, b, a), max(1, math.floor(RUN * diameter / voxel[0])))

    @property
    def margin(self) -> Index3:
        """Voxels of response per side that decide about a peak."""
        return (max(self.window[0], self.run), self.window[1], self.window[2])

    @property
    def reach(self) -> Index3:
        """Voxels per side that the filters see."""
        z, y, x = self.sigma
        return (_radius(z), _radius(RATIO * y), _radius(RATIO * x))

    @property
    def halo(self) -> Index3:
        """Intensities per side that decide about a peak."""
        z, y, x = (m + r for m, r in zip(self.margin, self.reach, strict=True))
        return (z, y, x)


@dataclass(frozen=True)
class Blobs:
    """Blobs of a tile.

    Attributes:
        peak: Voxels of greatest response, from the core's first, (n, 3) int64.
        position: Centres in the same frame, (n, 3) float64.
        response: Over the noise, at the peaks, (n,) float32.
    """

    peak: NDArray[np.int64]
    position: NDArray[np.float64]
    response: NDArray[np.float32]


def response(array: NDArray[np.float32], blob: Blob, threads: int = 1) -> NDArray[np.float32]:
    """Response to intensities (z, y, x), in their unit, smaller than ``array`` by ``blob.reach`` per side."""
    (depth, height, width), (z, y, x) = blob.reach, blob.sigma
    flat = _along(array, 0, z, depth, threads)
    inner = _along(_along(flat, 1, y, height, threads), 2, x, width, threads)
    inner -= _along(_along(flat, 1, RATIO * y, height, threads), 2, RATIO * x, width, threads)
    return inner


def find_blobs(values: NDArray[np.float32], blob: Blob, threshold: float, inside: Box) -> Blobs:
    """Blobs whose peak lies in the core: ``values`` without ``blob.margin`` per side.

    Args:
        values: Response over the noise (z, y, x), float32; changed outside the volume.
        threshold: Smallest one of a peak; greater than 0.
        inside: The volume, in voxels from the core's first. What is reflected beyond its borders is no rival of a
            peak at the border, and no part of a run.
    """
    for axis, (start, stop) in enumerate(zip(inside.start, inside.stop, strict=True)):
        at = np.moveaxis(values, axis, 0)
        at[: max(start + blob.margin[axis], 0)] = -np.inf
        at[max(stop + blob.margin[axis], 0) :] = -np.inf
    level = np.float32(threshold)
    margin = np.array(blob.margin)
    core = values[tuple(slice(m, n - m) for m, n in zip(blob.margin, values.shape, strict=True))]
    peak = np.argwhere(core >= level) + margin
    for offsets in (_window((1, 1, 1)), _window(blob.window)):  # few are left after the nearest neighbours
        peak = peak[_is_first_greatest(values, peak, offsets)]
    score: NDArray[np.float32] = values[tuple(peak.T)]
    low, high, best = _runs(values, peak, level, blob.run)
    peak, score = peak[best], score[best]
    position = peak.astype(np.float64)
    position[:, 0] += (high - low)[best] / 2
    for axis in (1, 2):
        position[:, axis] += _vertex(values, peak, axis)
    return Blobs(peak - margin, position - margin, score)


def plane_noise(
    read: Callable[[Box], NDArray[np.generic]], shape: Index3, threads: int = 1
) -> NDArray[np.float32]:
    """Robust standard deviation of the noise of a voxel, in each plane of a grid, (z,); all 0 where it is constant.

    From the differences between voxels and their four neighbours in the plane (Immerkær 1996 does so with eight), which
    hardly see anything as large as a cell, so that it does not matter how many there are. Measured in 16 columns spread
    evenly over the grid, whatever part of it is searched: the upper quartile of the columns, so that dark surroundings
    do not decide; columns without any noise (masked parts) do not count.

    Args:
        read: Intensities of a box; may hold what is not finite (taken as 0).
        shape: Of the grid (z, y, x), at least 3 voxels in y and x.
        threads: Columns measured at once.
    """
    found = np.full((COLUMNS * COLUMNS, shape[0]), np.nan)

    def measure(column: int) -> tuple[float, float]:
        """Fill in one column; its lowest and highest intensity."""
        (y, b), (x, a) = (_middle(i, n) for i, n in zip(divmod(column, COLUMNS), shape[1:], strict=True))
        low, high = math.inf, -math.inf
        for z in range(0, shape[0], SLAB):
            c = min(z + SLAB, shape[0])
            array = np.nan_to_num(read(Box((z, y, x), (c, b, a))).astype(np.float32), posinf=0.0, neginf=0.0)
            low, high = min(low, float(array.min())), max(high, float(array.max()))
            around = array[:, :-2, 1:-1] + array[:, 2:, 1:-1] + array[:, 1:-1, :-2] + array[:, 1:-1, 2:]
            around -= 4 * array[:, 1:-1, 1:-1]
            found[column, z:c] = MAD / math.sqrt(20) * np.median(np.abs(around), axis=(1, 2))
        return low, high

    with ThreadPoolExecutor(threads, "noise") as pool:
        ends = list(pool.map(measure, range(COLUMNS * COLUMNS)))
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if not high > low:
        return np.zeros(shape[0], np.float32)
    found[found == 0] = np.nan
    noise = np.zeros(shape[0])
    seen = ~np.isnan(found).all(axis=0)
    noise[seen] = np.nanquantile(found[:, seen], 0.75, axis=0)
    floor = CLEAN * (high - low)
    if seen.any():
        floor = max(floor, FLOOR * float(np.median(noise[seen])))
    return np.maximum(noise, floor).astype(np.float32)


def _middle(i: int, length: int) -> tuple[int, int]:
    """Ends of the i-th of ``COLUMNS`` places spread evenly over an axis."""
    start = max(min(int((i + 0.5) * length / COLUMNS) - SIDE // 2, length - SIDE), 0)
    return start, min(start + SIDE, length)


def _radius(sigma: float) -> int:
    return max(1, int(TRUNCATE * sigma + 0.5))


def _along(
    array: NDArray[np.float32], axis: int, sigma: float, crop: int, threads: int
) -> NDArray[np.float32]:
    out = np.empty_like(array)
    across = 1 if axis == 0 else 0
    parts = threads if array.size > SMALL else 1
    cuts = np.linspace(0, array.shape[across], parts + 1).astype(int)

    def part(k: int) -> None:
        where = (slice(None),) * across + (slice(cuts[k], cuts[k + 1]),)
        ndimage.gaussian_filter1d(
            array[where], sigma, axis, output=out[where], mode="nearest", radius=_radius(sigma)
        )

    if len(cuts) == 2:
        part(0)
    else:
        with ThreadPoolExecutor(parts, "blobs") as pool:
            list(pool.map(part, range(parts)))
    return out[(slice(None),) * axis + (slice(crop, out.shape[axis] - crop),)]


def _window(reach: Index3) -> NDArray[np.int64]:
    """Offsets of all voxels within ``reach``, in raster order, (k, 3); the middle one is 0, 0, 0."""
    sides = [np.arange(-r, r + 1) for r in reach]
    return np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 3)


def _is_first_greatest(
    values: NDArray[np.float32], at: NDArray[np.int64], offsets: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether no voxel of the window is greater, and no earlier one equal."""
    strides = np.array([values.shape[1] * values.shape[2], values.shape[2], 1])
    flat, steps = np.ascontiguousarray(values).ravel(), offsets @ strides
    middle = len(offsets) // 2
    index = at @ strides
    first = [
        flat[index[k : k + GATHER, None] + steps].argmax(axis=1) == middle
        for k in range(0, len(index), GATHER)
    ]
    return np.concatenate([np.zeros(0, np.bool_), *first])


def _runs(
    values: NDArray[np.float32],
    peak: NDArray[np.int64],
    level: np.float32,
    longest: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Planes of each run below and above its peak, and whether the peak is the greatest of it (or the first)."""
    plane = peak[:, :1] + np.arange(-longest, longest + 1)
    column = values[plane, peak[:, 1:2], peak[:, 2:]]
    inside = column >= level
    down = np.logical_and.accumulate(inside[:, longest - 1 :: -1], axis=1)
    up = np.logical_and.accumulate(inside[:, longest + 1 :], axis=1)
    score = column[:, longest, None]
    greater = (down & (column[:, longest - 1 :: -1] >= score)).any(axis=1)
    greater |= (up & (column[:, longest + 1 :] > score)).any(axis=1)
    return down.sum(axis=1), up.sum(axis=1), ~greater


def _vertex(values: NDArray[np.float32], peak: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
    """Where a parabola through the peak and its two neighbours has its vertex, in voxels, -0.5 to 0.5.

    Beyond the border the peak is its own neighbour.
    """
    step = np.eye(3, dtype=np.int64)[axis]
    at = values[tuple(peak.T)].astype(np.float64)
    before, after = (values[tuple((peak + k * step).T)].astype(np.float64) for k in (-1, 1))
    before, after = np.where(np.isinf(before), at, before), np.where(np.isinf(after), at, after)
    bend = before - 2 * at + after
    flat = bend >= 0
    shift: NDArray[np.float64] = np.where(flat, 0.0, (before - after) / np.where(flat, 1.0, 2 * bend))
    return shift
