"""Made tissue: cells of a Voronoi diagram with membranes between them, in looks that differ from domain to domain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from connectoscope.networks.registry import build_network
from connectoscope.zoo import Bundle, Card
from connectoscope.zoo.writing import write_bundle

SHAPE = (8, 160, 160)
ARGUMENTS = {
    "outputs": 1,
    "features": [8, 12],
    "kernels": [[[1, 3, 3], [1, 3, 3]], [[1, 3, 3]]],
    "strides": [[1, 2, 2]],
}
RECIPE = """
name = "NAME"
version = "1"
description = "A test."
seed = 1
licence = "CC0-1.0"
data_licences = []
[architecture]
name = "unet3d"
arguments = { outputs = 1, features = [8, 12], kernels = [[[1, 3, 3], [1, 3, 3]], [[1, 3, 3]]], strides = [[1, 2, 2]] }
[inputs]
voxel_size = [40.0, 8.0, 8.0]
[[outputs]]
name = "boundary"
meaning = "membranes"
instances = false
[[volumes]]
name = "cells"
published = "nowhere"
raw = "cells.ome.tif"
labels = { boundary = "cells_labels.ome.tif" }
train = [0, 4]
choose = [4, 6]
report = [6, 8]
[sampling]
patch = [1, 64, 64]
batch = 4
plain = 0.5
[training]
steps = 60
learning_rate = 2e-2
warm_up = 2
average = 0.8
choose_every = 30
"""


def tissue(seed: int, look: str) -> tuple[np.ndarray, np.ndarray]:
    """Image (uint8) and cells (uint16), both SHAPE. Looks: ``cells`` dark membranes, ``inverted``, ``grainy``, ``fine``."""
    rng = np.random.default_rng(seed)
    count = 240 if look == "fine" else 60
    points = rng.uniform(0, 160, (count, 2))
    grid = np.indices(SHAPE[1:]).reshape(2, -1).T
    image, cells = np.empty(SHAPE, np.float32), np.empty(SHAPE, np.uint16)
    for z in range(SHAPE[0]):
        near, which = cKDTree(points + 1.5 * z).query(grid, k=2)
        membrane = ((near[:, 1] - near[:, 0]) < 2.5).reshape(SHAPE[1:])
        cells[z] = which[:, 0].reshape(SHAPE[1:]) + 1
        plane = 170 - 90 * ndimage.gaussian_filter(membrane.astype(float), 0.7)
        image[z] = 255 - plane if look == "inverted" else plane
    noise = 45 if look == "grainy" else 12
    return np.clip(image + rng.normal(0, noise, SHAPE), 0, 255).astype(np.uint8), cells


def membranes(cells: np.ndarray) -> np.ndarray:
    """Where the cell of a voxel is not that of a neighbour in its plane; uint8."""
    edge = np.zeros(cells.shape, bool)
    for axis in (1, 2):
        edge |= cells != np.roll(cells, 1, axis)
    return ndimage.binary_dilation(edge, np.ones((1, 3, 3))).astype(np.uint8)


def save(path: Path, data: np.ndarray, pixel: float = 8) -> Path:
    """An OME-TIFF with voxels of 40 x pixel x pixel nm."""
    facts = {"axes": "ZYX", "PhysicalSizeX": pixel, "PhysicalSizeY": pixel, "PhysicalSizeZ": 40}
    units = {f"PhysicalSize{a}Unit": "nm" for a in "XYZ"}
    tifffile.imwrite(path, data, metadata=facts | units, ome=True)
    return path


def random_bundle(path: Path, seed: int = 0, output: str = "boundary") -> Bundle:
    """A model that has learned nothing; its features tell textures apart all the same."""
    torch.manual_seed(seed)
    network = build_network("unet3d", ARGUMENTS)
    card = {
        "schema": 1, "name": path.name, "version": "1", "description": "A test.",
        "architecture": {"name": "unet3d", "arguments": ARGUMENTS},
        "inputs": {"voxel_size": [40.0, 8.0, 8.0]},
        "outputs": [{"name": output, "meaning": "something", "instances": False}],
        "receptive_field": network.arguments.receptive_field(), "stride": network.arguments.total_stride,
        "halo": {"exact": network.arguments.halo(), "practical": network.arguments.halo()},
        "licence": "CC0-1.0", "files": (),
    }  # fmt: skip
    return write_bundle(path, Card.model_validate(card), network.state_dict())
