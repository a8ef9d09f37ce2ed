"""A made EM volume, and a recipe that learns X-ray to EM on it in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

RECIPE = """
name = "tiny-xray"
version = "1"
description = "A test."
seed = 3
licence = "CC0-1.0"
data_licences = []
[architecture]
name = "unet3d-upscaling"
arguments = { members = 2, scale = 3, features = [8, 12], kernels = [[[3, 3, 3]], [[3, 3, 3]]], strides = [[2, 2, 2]] }
[inputs]
voxel_size = [30.0, 30.0, 30.0]
[[outputs]]
name = "em"
meaning = "EM"
instances = false
[[outputs]]
name = "aleatoric_sd"
meaning = "open"
instances = false
[[outputs]]
name = "epistemic_sd"
meaning = "unknown"
instances = false
[[volumes]]
name = "made"
published = "nowhere"
raw = "em.ome.tif"
train = [0, 40]
choose = [42, 50]
report = [52, 66]
[sampling]
patch = [12, 12, 12]
batch = 2
[training]
steps = 40
learning_rate = 5e-3
warm_up = 2
average = 0.8
choose_every = 20
[xray]
"""


def tissue(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Dark lines between cells, uint8."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), s, mode="wrap") for s in (3.0, 6.0)]
    lines = sum(np.exp(-((f / f.std()) ** 2) / 0.1) for f in fields)
    return np.clip(180 - 70 * lines + rng.normal(0, 6, shape), 0, 255).astype(np.uint8)


def write_em(folder: Path) -> None:
    """``em.ome.tif``, (66, 75, 72) uint8 at 10 nm."""
    facts = {"axes": "ZYX"} | {f"PhysicalSize{a}": 10 for a in "XYZ"}
    facts |= {f"PhysicalSize{a}Unit": "nm" for a in "XYZ"}
    tifffile.imwrite(folder / "em.ome.tif", tissue((66, 75, 72), 0), metadata=facts)
