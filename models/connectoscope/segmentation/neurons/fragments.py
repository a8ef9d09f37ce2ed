"""Fragments of one cell: pieces of neurons that hardly ever hold two of them.

From affinities by the mutex watershed (Wolf et al. 2018, "The mutex watershed"): neighbours attract, and partners
further away that differ keep each other apart. From membranes by a watershed of the distance to them, whose seeds are
the voxels further away than all around. Both see a cell with a halo around it, and decide by what is near, so that
neighbouring cells find nearly the same fragments.
"""

from __future__ import annotations

import cc3d
import edt
import mwatershed
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from connectoscope.segmentation.components import Labels
from connectoscope.segmentation.neurons.offsets import pairs
from connectoscope.volumes.geometry import Float3, Index3

CRUMB = 30  # voxels; smaller fragments are given to what surrounds them, as voxels that are nobody's
FLAT = 2.5  # voxels that much longer along z than along y are seen section by section
SMOOTH = 1.5  # voxels: sigma of the Gaussian that takes the smallest hills out of the distance
NEIGHBOURS: list[Index3] = [(z, y, x) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)]
_WIDEST = 2000.0  # nm; distances beyond it are alike


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
    near = affinities[:3]
    weights[3:] = np.minimum(weights[3:], 0)  # partners further away only repel
    # In a thin volume there are no partners that far away, which mwatershed does not expect.
    fits = [i for i, offset in enumerate(offsets) if np.all(np.abs(offset) < near.shape[1:]) or i < 3]
    found = mwatershed.agglom(weights[fits], [offsets[i] for i in fits]).astype(np.int64)
    found[np.bincount(found.ravel())[found] < CRUMB] = 0
    return _grown(found.astype(np.uint32), near, offsets[:3])


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
    pieces = [_depth(section, voxel[1:]) for section in inside] if flat else [_depth(inside, voxel)]
    height = np.stack(pieces).reshape(boundary.shape)
    sigma = (0.0, SMOOTH, SMOOTH) if flat else (SMOOTH,) * 3
    height = ndimage.gaussian_filter(height, sigma, truncate=3)
    up = np.arange(height.size).reshape(height.shape)  # of each voxel, the highest one around it
    best = height.copy()
    for step in NEIGHBOURS:
        if any(step) and not (flat and step[0]):
            here, there = pairs(height.shape, step)
            higher = height[there] > best[here]
            best[here][higher] = height[there][higher]
            up[here][higher] = np.arange(height.size).reshape(height.shape)[there][higher]
    tops = up == np.arange(height.size).reshape(height.shape)
    joined = np.ones((3, 3, 3), bool)
    joined[[0, 2]] &= not flat
    seeds = ndimage.label(tops, joined)[0].ravel()  # a flat top is one seed
    way = up.ravel()
    while not np.array_equal(further := way[way], way):
        way = further
    return np.asarray(seeds[way].reshape(height.shape), dtype=np.uint32)


def _depth(inside: NDArray[np.bool_], voxel: tuple[float, ...]) -> NDArray[np.float32]:
    """Distance in nm to the nearest membrane; below 0 in it, to the nearest voxel that is none."""
    inner = edt.edt(inside, anisotropy=voxel, black_border=False)
    outer = edt.edt(~inside, anisotropy=voxel, black_border=False)
    return np.asarray(np.minimum(inner, _WIDEST) - np.minimum(outer, _WIDEST), dtype=np.float32)


def split(labels: Labels) -> Labels:
    """Connected pieces (6-connectivity) of labels, numbered 1..n; (z, y, x) uint32."""
    z, y, x = labels.shape
    padded = np.pad(labels, [(0, 1)] * 3)  # cc3d 4.1 takes too small a union-find array for a line of voxels
    pieces = cc3d.connected_components(padded, connectivity=6, out_dtype=np.uint32)[:z, :y, :x]
    return np.ascontiguousarray(pieces, dtype=np.uint32)


def _grown(labels: Labels, affinities: NDArray[np.uint8], offsets: tuple[Index3, ...]) -> Labels:
    """Give voxels of 0, layer by layer, to the neighbour of the highest affinity.

    Args:
        labels: (z, y, x); 0 is nobody's.
        affinities: (offsets, z, y, x).
        offsets: To the neighbours.
    """
    padded = np.pad(labels, 1)
    strength = np.pad(affinities, [(0, 0), (1, 1), (1, 1), (1, 1)]).reshape(len(offsets), -1)
    flat = padded.ravel()
    steps = [
        int(np.dot(offset, (padded.shape[1] * padded.shape[2], padded.shape[2], 1))) for offset in offsets
    ]
    inner = np.zeros(padded.shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    left = np.flatnonzero((flat == 0) & inner.ravel())
    while len(left):
        best = np.full(len(left), -1, np.int16)
        label = np.zeros(len(left), np.uint32)
        for own, step in zip(strength, steps, strict=True):
            for other, affinity in ((left + step, own[left]), (left - step, own[left - step])):
                better = (flat[other] > 0) & (affinity > best)
                best[better], label[better] = affinity[better], flat[other][better]
        if not label.any():
            break
        flat[left] = label
        left = left[label == 0]
    return np.ascontiguousarray(padded[1:-1, 1:-1, 1:-1])
