"""Volumes to measure on: a bundled sample, mirrored until it fills a shape, so that there is real texture at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box, Index3


def mirrored(shape: Index3, sample: str = "sample:vnc") -> NDArray[np.uint8]:
    """(z, y, x), the sample and its mirror images."""
    volume = open_volume(sample)
    block = volume.read(Box.of(volume.shape))
    pad = [(0, max(n - m, 0)) for n, m in zip(shape, block.shape, strict=True)]
    image: NDArray[np.uint8] = np.pad(block, pad, mode="symmetric")[: shape[0], : shape[1], : shape[2]]
    return image


def make_volume(
    path: Path,
    shape: Index3,
    sample: str = "sample:vnc",
    chunks: Index3 = (16, 128, 128),
    shards: Index3 | None = None,
) -> None:
    """An OME-Zarr of one level, with the voxel size of the sample."""
    volume = open_volume(sample)
    image = mirrored(shape, sample)
    spec = ImageSpec(
        shape=shape,
        dtype=image.dtype,
        scale=volume.levels[0].scale,
        translation=(0.0, 0.0, 0.0),
        unit=volume.unit,
        chunks=chunks,
        shards=shards,
    )
    create_image(path, spec)[0].write(image).result()
