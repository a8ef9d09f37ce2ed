"""Fragments of one cell: pieces of neurons that hardly ever hold two of them.

From affinities by the mutex watershed (Wolf et al. 2018, "The mutex watershed"): neighbours attract, and partners
further away that differ keep each other apart. From membranes by a watershed whose seeds are the voxels furthest from
any membrane. Both see a cell with a halo around it, so that neighbouring cells find nearly the same fragments.
"""

from __future__ import annotations

import cc3d
import edt
import mwatershed
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from connectoscope.segmentation.components import Labels
from connectoscope.volumes.geometry import Float3, Index3

CRUMB = 30  # voxels; smaller fragments are given to what surrounds them, as voxels that are nobody's
SEED_APART = 7  # voxels: the window in which a seed is the furthest from any membrane
FLAT = 2.5  # voxels that much longer along z than along y are seen section by section
_WIDEST = 500.0  # nm; distances to membranes beyond it are alike


def mutex_fragments(affinities: NDArray[np.uint8], offsets: tuple[Index3, ...], threshold: int) -> Labels:
    """The mutex watershed of a cell, (z, y, x) uint32; 0 where nothing attracts.

    Args:
        affinities: (offsets, z, y, x); the first three are to neighbours along z, y, x.
        offsets: To the partners.
        threshold: Affinities from it on attract, smaller ones repel (0-255).
    """
    if not (affinities[:3] >= threshold).any():
        return np.zeros(affinities.shape[1:], np.uint32)
    weights = affinities - (threshold - 0.5)
    # Many affinities are equal: the surroundings decide between them, and not where the cell begins.
    for weight, affinity in zip(weights, affinities, strict=True):
        around = affinity.astype(np.int32)
        for axis in range(3):
            around = ndimage.convolve1d(around, np.ones(5, np.int32), axis=axis, mode="nearest")
        weight += 0.9 * (around / (125 * 255) - 0.5)  # less than half a step: no sign changes
    weights[3:] = np.minimum(weights[3:], 0)  # partners further away only repel
    found = mwatershed.agglom(weights, offsets).astype(np.int64)
    found[np.bincount(found.ravel())[found] < CRUMB] = 0
    height = 255 - affinities[:3].mean(axis=0).astype(np.uint8)
    return _grow(found, height, ndimage.generate_binary_structure(3, 1))


def seeded_fragments(boundary: NDArray[np.uint8], threshold: int, voxel: Float3) -> Labels:
    """The watershed of a cell from seeds far from membranes, (z, y, x) uint32; 0 where there is no seed near.

    Sections that are much thicker than their pixels are taken one by one.

    Args:
        boundary: (z, y, x), the probability of membrane.
        threshold: Membrane from it on.
        voxel: Its size z, y, x in nm.
    """
    inside = boundary < threshold
    flat = voxel[0] > FLAT * voxel[1]
    if flat:
        distance = np.stack(
            [edt.edt(section, anisotropy=voxel[1:], black_border=False) for section in inside]
        )
    else:
        distance = edt.edt(inside, anisotropy=voxel, black_border=False)
    along = (0.0, 1.0, 1.0) if flat else (1.0, 1.0, 1.0)
    window = (1, SEED_APART, SEED_APART) if flat else (SEED_APART,) * 3
    smooth = ndimage.gaussian_filter(np.minimum(distance, _WIDEST), along, truncate=3)
    tops = inside & (smooth == ndimage.maximum_filter(smooth, window))
    joined = ndimage.generate_binary_structure(3, 1)
    joined[[0, 2]] &= not flat
    seeds = ndimage.label(tops, joined)[0].astype(np.int64)
    height = 20.0 * boundary + (1 - smooth / _WIDEST) * 1000
    return _grow(seeds, height.astype(np.uint16), joined)


def split(labels: Labels) -> Labels:
    """Connected pieces (6-connectivity) of labels, numbered 1..n; (z, y, x) uint32."""
    z, y, x = labels.shape
    padded = np.pad(labels, [(0, 1)] * 3)  # cc3d 4.1 takes too small a union-find array for a line of voxels
    pieces = cc3d.connected_components(padded, connectivity=6, out_dtype=np.uint32)[:z, :y, :x]
    return np.ascontiguousarray(pieces, dtype=np.uint32)


def _grow(seeds: NDArray[np.int64], height: NDArray[np.unsignedinteger], joined: NDArray[np.bool_]) -> Labels:
    """Give what is nobody's to the seeds around it, the lowest first."""
    if not seeds.any():
        return np.zeros(seeds.shape, np.uint32)
    ids, number = np.unique(seeds, return_inverse=True)
    number = (number.reshape(seeds.shape) + int(ids[0] != 0)).astype(np.int32)
    return np.asarray(ndimage.watershed_ift(height, number, structure=joined), dtype=np.uint32)
