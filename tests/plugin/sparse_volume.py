"""A light-sheet-like volume that is nearly all background, on disk with a pyramid: a cascade pays on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from connectoscope.volumes import ImageSpec, create_image, pyramid_factors
from connectoscope.volumes.conversion import fill_pyramid

SHAPE = (64, 576, 576)
VOXEL = (5.0, 2.0, 2.0)  # micrometres
CELLS = 8
_RADIUS = 7.0  # micrometres, of a cell


def write_sparse_volume(path: Path, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Noise around 100, and eight bright balls in one corner; their centres in micrometres, (8, 3)."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(100, 10, shape).astype(np.float32)
    corners = (32, 100, 100) + np.stack(np.unravel_index(range(CELLS), (2, 2, 2)), 1) * (12, 40, 40)
    around = np.stack(np.indices((7, 15, 15)), -1) - (3, 7, 7)
    distance = np.linalg.norm(around * VOXEL, axis=-1)
    ball = 300 / (1 + np.exp(distance - _RADIUS))
    for z, y, x in corners:
        pixels[z - 3 : z + 4, y - 7 : y + 8, x - 7 : x + 8] += ball
    voxels = pixels.clip(0).astype(np.uint16)
    spec = ImageSpec(
        shape=shape, dtype=voxels.dtype, scale=VOXEL, translation=(0.0, 0.0, 0.0), unit="micrometer",
        chunks=(32, 96, 96), factors=pyramid_factors(shape, VOXEL, smallest=48), name="sparse",
    )  # fmt: skip
    fill_pyramid(
        path, create_image(path, spec), spec, lambda lead, box: voxels[box.slices],
        source_chunks=spec.chunks, progress=lambda *_: None,
    )  # fmt: skip
    return corners * VOXEL
