"""Patches of a volume, and what a network makes of them: bottleneck features (arXiv 2503.06196).

A feature vector is the deepest encoder level of a U-Net, averaged over space. Source and target must be embedded by the
same network; which patches are drawn follows from the seed and the shape of the volume alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from connectoscope.blockwise.grid import Grid, choose_grid
from connectoscope.errors import UserError
from connectoscope.networks.normalise import normalise
from connectoscope.networks.unet3d import UNet3d
from connectoscope.volumes import Volume
from connectoscope.volumes.geometry import Box, Index3, sizes_text
from connectoscope.zoo import Card
from connectoscope.zoo.intensity import wanted_range

VECTORS = 512  # feature vectors of a volume
FEWEST = 16  # of them that tell what a volume looks like
TRIES = 4  # patches that are looked at for each one wanted
FLAT = 0.02  # standard deviation of a patch that shows nothing; 1 is the range of the volume
PLANE, SLAB, CUBE = (1, 128, 128), (8, 128, 128), (48, 48, 48)
BATCH_VOXELS = 2**20  # of patches that go through the network together


def patch_shape(card: Card) -> Index3:
    """Voxels (z, y, x) of the patches that a network of this card is asked about; multiples of its stride."""
    z, _, x = card.inputs.voxel_size
    wanted = PLANE if card.planes else SLAB if z > 2 * x else CUBE
    return tuple(-(-n // s) * s for n, s in zip(wanted, card.stride, strict=True))  # type: ignore[return-value]


def sees(card: Card, volume: Volume) -> Grid:
    """The grid on which the network of a card sees a volume.

    Raises:
        UserError: voxel size unknown or unsuitable.
    """
    return choose_grid(volume, card.inputs.voxel_size, planes=card.planes)


def intensity_of(card: Card, grid: Grid) -> tuple[float, float]:
    """(low, high) of the normalisation of a whole grid, as the card wants it."""
    return wanted_range(card.inputs.normalisation, grid.read, grid.shape)


def sample_patches(
    grid: Grid, card: Card, count: int, seed: int, part: Box | None = None, fewest: int = FEWEST
) -> NDArray[np.float32]:
    """Normalised patches of tissue at places drawn evenly, in raster order of these: (n, z, y, x) float32.

    Patches without contrast, or half of whose voxels have one and the same value, are passed over. Of a large volume
    only the patches themselves, and the sample of the normalisation, are read.

    Args:
        grid: What the network of ``card`` sees.
        count: How many, at most; fewer where there is less tissue.
        part: Only inside this box of the grid (voxels); as much as it can be met.
        fewest: Different patches that will do.

    Raises:
        UserError: the part is under half a patch along an axis or has too few places for a patch, or there is hardly any
            tissue in it.
    """
    part = Box.of(grid.shape) if part is None else part
    shape = patch_shape(card)
    name = grid.volume.name
    if any(2 * n < p for n, p in zip(part.shape, shape, strict=True)):
        raise UserError(
            f"{name} is too small: {sizes_text(part.shape)} voxels on the grid of '{card.name}', "
            f"whose patches are {sizes_text(shape)}; take a larger volume"
        )
    room = [max(n - p, 0) for n, p in zip(part.shape, shape, strict=True)]
    if math.prod(r + 1 for r in room) < fewest:
        raise UserError(
            f"{name} is too small for {fewest} different patches of {sizes_text(shape)} voxels: "
            f"{sizes_text(part.shape)} on the grid of '{card.name}'; take a larger volume"
        )
    low, high = intensity_of(card, grid)
    rng = np.random.default_rng(seed)
    found: dict[Index3, NDArray[np.float32]] = {}
    seen: set[tuple[int, ...]] = set()
    # In rounds, each in raster order: neighbours come from chunks that are still in the cache. A round holds no more
    # places than are missing and is looked at to its end, or the last ones in raster order would be chosen less often.
    left = TRIES * count
    while left and len(found) < count:
        size = min(count - len(found), left)
        left -= size
        places = {tuple(int(rng.integers(0, r + 1)) for r in room) for _ in range(size)}
        for place in sorted(places - seen):
            seen.add(place)
            start = tuple(a + b for a, b in zip(part.start, place, strict=True))
            patch = grid.read(Box(start, start).grown((0, 0, 0), shape))  # type: ignore[arg-type]
            if shows_something(patch, low, high):
                found[place] = normalise(patch, low, high)  # type: ignore[index]
    if len(found) < fewest:
        raise UserError(
            f"{name} shows hardly any tissue: {len(found)} of {len(seen)} patches do; choose another part or volume"
        )
    return np.stack([found[place] for place in sorted(found)])


def shows_something(patch: NDArray[np.float32], low: float, high: float) -> bool:
    """Whether a patch is tissue: it has contrast, and no value fills half of it. Finite values only."""
    if not np.isfinite(patch).all() or patch.std() < FLAT * (high - low):
        return False
    return bool((patch == np.median(patch)).mean() <= 0.5)


def embed(
    network: UNet3d,
    patches: NDArray[np.float32],
    device: str = "cpu",
    report: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Bottleneck features (n, features) float32 of normalised patches (n, z, y, x).

    Args:
        network: In evaluation mode.
        report: Called with how many are done, of how many; may raise to stop.
    """
    network = network.to(device)
    step = max(1, BATCH_VOXELS // int(np.prod(patches.shape[1:])))
    rows = []
    for start in range(0, len(patches), step):
        x = torch.from_numpy(patches[start : start + step])[:, None].to(device)
        with torch.inference_mode():
            deepest = network.encode(x.contiguous(memory_format=torch.channels_last_3d))[-1]
        rows.append(deepest.mean((2, 3, 4)).float().cpu().numpy())
        if report is not None:
            report(min(start + step, len(patches)), len(patches))
    return np.concatenate(rows)
