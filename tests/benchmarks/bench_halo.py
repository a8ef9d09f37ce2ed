"""How much the bundled models compute for nothing: the halo of their default tile on a large volume."""

from __future__ import annotations

import math

import torch
from section import Section
from torch.utils.flop_counter import FlopCounterMode

from connectoscope.errors import UserError
from connectoscope.networks.predictor import choose_tile
from connectoscope.volumes.geometry import Index3
from connectoscope.zoo import Bundle, list_models

GRID = (512, 4096, 4096)
GOAL = 0.40


def measure() -> Section:
    """Nothing is timed: this follows from the tile that a run would take."""
    rows = [
        [
            "model",
            "tile",
            "halo",
            "share of the tile",
            "tiles per volume",
            "share of the multiplications",
            "≤ 40 %",
        ]
    ]
    for bundle in list_models():
        if bundle.card.reconstructs:
            continue
        halo = bundle.halo(False)
        try:
            tile = choose_tile(GRID, halo, bundle.card.stride, bundle.tile_voxels())
        except UserError:
            continue
        z, y, x = (t - 2 * h for t, h in zip(tile, halo, strict=True))
        core = (z, y, x)
        share = 1 - math.prod(core) / math.prod(tile)
        cover = math.prod(-(-n // c) * t for n, c, t in zip(GRID, core, tile, strict=True)) / math.prod(GRID)
        work = 1 - multiplications(bundle, core, (0, 0, 0)) / multiplications(bundle, tile, halo)
        held = "both" if share <= GOAL else "multiplications" if work <= GOAL else "neither"
        rows.append(
            [
                bundle.path.name,
                _text(tile),
                _text(halo),
                f"{100 * share:.0f} %",
                f"{cover:.2f}",
                f"{100 * work:.0f} %",
                held,
            ]
        )
    return Section(
        "Halo of the default tile",
        f"The halo's share of the tile that each bundled model takes on {_text(GRID)} voxels, and of its multiplications: "
        "decoders compute no more than the core needs, so the halo costs less than it is large. All tiles together have so "
        "many times the voxels of the volume.",
        rows,
    )


def multiplications(bundle: Bundle, shape: Index3, halo: Index3) -> int:
    """Twice as many as of one forward pass; counted by torch, on shapes alone."""
    network = bundle.load_network().to("meta")
    with FlopCounterMode(display=False) as counter:
        network(torch.empty((1, 1, *shape), device="meta"), halo)
    return counter.get_total_flops()


def _text(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
