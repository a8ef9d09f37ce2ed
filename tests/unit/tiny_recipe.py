"""Bright discs on noise, and recipes that learn them in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

_RECIPE = """
name = "tiny"
version = "1"
description = "A test."
seed = 1
licence = "CC0-1.0"
data_licences = []
[architecture]
name = "unet3d"
arguments = { outputs = 1, features = FEATURES, kernels = KERNELS, strides = [[1, 2, 2]] }
[inputs]
voxel_size = [40.0, 8.0, 8.0]
[[outputs]]
name = "synapses"
meaning = "discs"
instances = true
[[volumes]]
name = "discs"
published = "nowhere"
raw = "raw.ome.tif"
labels = { synapses = "labels.ome.tif" }
train = [0, 6]
choose = [6, 8]
report = [8, 10]
[sampling]
patch = [4, 32, 32]
batch = 2
centred = { synapses = 0.5 }
[training]
steps = STEPS
learning_rate = RATE
warm_up = 2
average = AVERAGE
choose_every = EVERY
"""


def made(**values: object) -> str:
    """The recipe with a network and a training."""
    text = _RECIPE
    for name, value in values.items():
        text = text.replace(name.upper(), str(value))
    return text


RECIPE = made(
    features=[6, 8],
    kernels=[[[1, 3, 3], [1, 3, 3]], [[3, 3, 3]]],
    steps=40,
    rate=2e-2,
    average=0.8,
    every=20,
)


def write_discs(folder: Path) -> None:
    """``raw.ome.tif`` and ``labels.ome.tif``, (10, 64, 64) uint8, as the recipe names them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    labels = np.zeros((10, 64, 64), np.uint8)
    for cy, cx in rng.integers(8, 56, (6, 2)):
        labels[:, (y - cy) ** 2 + (x - cx) ** 2 < 30] = 1
    raw = np.clip(rng.normal(80 + 80 * labels, 20), 0, 255).astype(np.uint8)
    facts = {"axes": "ZYX", "PhysicalSizeX": 8, "PhysicalSizeY": 8, "PhysicalSizeZ": 40}
    units = {f"PhysicalSize{a}Unit": "nm" for a in "XYZ"}
    for name, data in (("raw", raw), ("labels", labels)):
        tifffile.imwrite(folder / f"{name}.ome.tif", data, metadata=facts | units)
