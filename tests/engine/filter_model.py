"""A tiny stand-in for a trained model: a fixed filter with a known halo, so that whole-volume results are exact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from connectoscope.errors import Cancelled
from connectoscope.jobs.context import Context
from connectoscope.zoo import Card

OUTPUTS = ("synapses", "boundary")
HALO = (2, 2, 2)


def filtered(array):
    """Local mean of 5 x 5 x 5 as a probability, and its opposite; whole numbers, so exact in float32."""
    total = np.rint(array * 510).astype(np.int64)
    for axis in range(3):
        total = ndimage.convolve1d(total, np.ones(5, np.int64), axis=axis, mode="nearest")
    p = np.clip(total // 125 // 2 + 128, 0, 255).astype(np.uint8)
    return np.stack([p, 255 - p])


@dataclass
class FilterPredictor:
    tile: tuple[int, int, int]
    halo: tuple[int, int, int] = HALO
    outputs: tuple[str, ...] = OUTPUTS
    calls: int = 0

    def __call__(self, tile):
        assert tile.shape == self.tile
        assert tile.dtype == np.float32
        self.calls += 1
        inner = tuple(slice(h, t - h) for h, t in zip(self.halo, self.tile, strict=True))
        return filtered(tile)[(slice(None), *inner)]


class FilterBundle:
    """What the run needs of a bundle."""

    path = Path("filter")
    hash = "0" * 64
    card = Card(
        schema=1, name="filter", version="1", description="test", architecture={"name": "none", "arguments": {}},
        inputs={"voxel_size": (8.0, 8.0, 8.0)},
        outputs=[
            {"name": "synapses", "meaning": "", "instances": True, "threshold": 140, "min_volume_nm3": 3 * 512.0},
            {"name": "boundary", "meaning": "", "instances": False, "threshold": 128, "min_volume_nm3": 0.0},
        ],
        receptive_field=(5, 5, 5), stride=(2, 2, 2), halo={"exact": HALO, "practical": HALO}, licence="BSD-3-Clause",
        files=[],
    )  # fmt: skip

    def __init__(self):
        self.made = []

    def halo(self, exact):
        return HALO

    def tile_voxels(self):
        return 1_000_000

    def predictor(self, *, tile, exact, device, precision, threads):
        self.made.append(FilterPredictor(tile))
        return self.made[-1]


class Killed(BaseException):
    """Ends a run with no chance to record what is under way, as a kill does."""


class Interrupting(Context):
    """Ends the run at the k-th look between blocks."""

    stop_at: int | None = None
    looks = 0
    end: type[BaseException] = Cancelled

    def check_cancelled(self):
        self.looks += 1
        if self.stop_at is not None and self.looks > self.stop_at:
            raise self.end("test")


def files_of(folder):
    """Relative path -> bytes of every file."""
    root = Path(folder)
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def blobs(shape, seed=0, dtype=np.uint8):
    """Smooth noise: some objects, some across blocks."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5, mode="reflect")
    noise -= noise.min()
    checker = np.indices(shape).sum(axis=0) % 2  # no tile is constant
    return (np.rint(noise / max(noise.max(), 1e-9) * 250) + checker).astype(dtype)
