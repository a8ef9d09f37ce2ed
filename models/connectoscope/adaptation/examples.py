"""Labelled patches as a network sees them: on its grid, with tissue around them, and which voxels are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from connectoscope.adaptation.features import intensity_of
from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.resample import resample_axis, taps
from connectoscope.blockwise.tile import finite
from connectoscope.networks.normalise import normalise
from connectoscope.training.labels import HALF
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.zoo import Card

CONTEXT = 16  # voxels of the grid around a patch, at most: what the network needs to know of its surroundings


@dataclass(frozen=True)
class Example:
    """A patch and what is around it, on the model's grid.

    Attributes:
        image: (z, y, x) float32, normalised; square in y and x.
        label: (z, y, x) bool: the object.
        known: (z, y, x) bool: inside of the patch, where the label counts.
        not_finite: How many voxels of the image were not finite and were taken as 0.
    """

    image: NDArray[np.float32]
    label: NDArray[np.bool_]
    known: NDArray[np.bool_]
    not_finite: int = 0


def make_examples(
    grid: Grid, card: Card, boxes: Sequence[Box], masks: Sequence[NDArray[np.bool_]]
) -> list[Example]:
    """Examples of one shape, a multiple of the network's stride.

    Args:
        grid: What the network sees.
        boxes: The patches, level-0 voxels.
        masks: Of each patch, the object on its voxels.
    """
    if not boxes:
        return []
    low, high = intensity_of(card, grid)
    on_grid = [grid.box_from_level(box, 0) for box in boxes]
    sides = [max(b.shape[a] for b in on_grid) + 2 * min(card.halo.practical[a], CONTEXT) for a in range(3)]
    steps = [card.stride[0], math.lcm(*card.stride[1:]), math.lcm(*card.stride[1:])]
    sides = [sides[0], max(sides[1:]), max(sides[1:])]  # square in y and x, to be turned
    shape = _three([-(-n // s) * s for n, s in zip(sides, steps, strict=True)])
    examples = []
    for box, inside, mask in zip(boxes, on_grid, masks, strict=True):
        start = _three([a - (n - m) // 2 for a, n, m in zip(inside.start, shape, inside.shape, strict=True)])
        region = Box(start, start).grown((0, 0, 0), shape)
        image, bad = finite(grid.read(region))
        label, known = np.zeros(shape, bool), np.zeros(shape, bool)
        where = inside.within(region).slices
        label[where] = _on_grid(grid, mask, box, inside) >= HALF
        known[where] = _on_grid(grid, np.ones_like(mask), box, inside) > 1 - 1e-3
        examples.append(Example(normalise(image, low, high), label & known, known, bad))
    return examples


def _on_grid(grid: Grid, mask: NDArray[np.bool_], box: Box, inside: Box) -> NDArray[np.float32]:
    """Share of the grid voxels of ``inside`` that a mask of ``box`` (level-0 voxels) covers; nothing beyond the box."""
    finest = grid.volume.levels[0]
    factor = [Fraction(a / b).limit_denominator(64) for a, b in zip(grid.scale, finest.scale, strict=True)]
    rows = [taps(inside.start[a], inside.stop[a], factor[a], finest.shape[a]) for a in range(3)]
    read = Box(_three([r.start for r in rows]), _three([r.stop for r in rows]))
    array = np.zeros(read.shape, np.float32)
    common = read.intersection(box)
    array[common.within(read).slices] = mask[common.within(box).slices]
    for axis in range(3):
        array = resample_axis(array, axis, rows[axis], read.start[axis])
    return array


def _three(values: list[int]) -> Index3:
    return (values[0], values[1], values[2])
