"""Stand-ins for models that see neurons: the image holds ids, and the "network" compares or outlines them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from filter_model import FilterBundle
from scipy import ndimage

from connectoscope.segmentation.neurons.offsets import pairs
from connectoscope.zoo import Card

HALO = (4, 4, 4)
OFFSETS = [tuple(-d if a == k else 0 for a in range(3)) for d in (1, 3) for k in range(3)]
AFFINITIES = tuple("affinity_" + "_".join(map(str, o)) for o in OFFSETS)


def tissue(shape, cells=12, seed=0, anisotropy=(1, 1, 1)):
    """Ids 1..cells (z, y, x) uint8 of the nearest of some points: bodies that fill the volume."""
    rng = np.random.default_rng(seed)
    scale = np.array(anisotropy)
    points = rng.uniform(0, np.array(shape) * scale, (cells, 3))
    at = np.moveaxis(np.indices(shape), 0, -1) * scale
    nearest = np.stack([((at - p) ** 2).sum(axis=-1) for p in points]).argmin(axis=0)
    return (rng.permutation(cells) + 1)[nearest].astype(np.uint8)


def ids_of(tile):
    """Ids again, of intensities that normalisation has moved and stretched: the steps stay."""
    return np.rint((tile + 1) * 10000).astype(np.int64)


def affinities(tile):
    """uint8 (c, z, y, x)."""
    ids, out = ids_of(tile), []
    for offset in OFFSETS:
        same = np.ones(ids.shape, np.int64)
        here, there = pairs(ids.shape, offset)
        same[here] = ids[here] == ids[there]
        out.append((255 * same).astype(np.uint8))
    return np.stack(out)


def outlines(tile, flat=False):
    """uint8 (1, z, y, x): high between bodies, falling off; flat: between those of one section."""
    ids, around = ids_of(tile), (1, 3, 3) if flat else 3
    edge = ndimage.maximum_filter(ids, around) != ndimage.minimum_filter(ids, around)
    near = ndimage.maximum_filter(edge, around)
    return (edge * 140 + near * 100).astype(np.uint8)[None]


@dataclass
class NeuronPredictor:
    tile: tuple[int, int, int]
    outputs: tuple[str, ...]
    flat: bool = False
    halo: tuple[int, int, int] = HALO
    calls: int = field(default=0)

    def __call__(self, tile):
        assert tile.shape == self.tile
        self.calls += 1
        inner = tuple(slice(h, t - h) for h, t in zip(self.halo, self.tile, strict=True))
        made = outlines(tile, self.flat) if self.outputs == ("boundary",) else affinities(tile)
        return made[(slice(None), *inner)]


class NeuronBundle(FilterBundle):
    """A model with affinities, or with ``boundary`` alone."""

    def __init__(self, outputs=AFFINITIES, voxel_size=(8.0, 8.0, 8.0), min_volume_nm3=40 * 512.0):
        super().__init__()
        facts = FilterBundle.card.model_dump(by_alias=True)
        self.card = Card.model_validate(
            facts
            | {
                "inputs": {"voxel_size": voxel_size},
                "outputs": [{"name": o, "meaning": "", "instances": False} for o in outputs],
                "halo": {"exact": HALO, "practical": HALO},
                "neurons": {"threshold": 128, "min_volume_nm3": min_volume_nm3},
            }
        )

    def halo(self, exact):
        return HALO

    def predictor(self, *, tile, exact, device, precision, threads):
        voxel = self.card.inputs.voxel_size
        self.made.append(NeuronPredictor(tile, tuple(o.name for o in self.card.outputs), voxel[0] > voxel[1]))
        return self.made[-1]
