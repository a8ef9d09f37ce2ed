"""A network made ready to run on tiles: folded, laid out for speed, one fixed input shape.

::

      tile (input)                core (kept) = tile - 2 * halo
    +--------------+
    |  halo        |   every forward pass of a run has the same tile shape, so that the arithmetic, and with it
    |   +------+   |   every byte, is the same wherever and whenever a tile is computed
    |   | core |   |
    |   +------+   |
    +--------------+
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from connectoscope.errors import UserError
from connectoscope.networks.fold import fold_batch_norm
from connectoscope.networks.precision import PRECISIONS
from connectoscope.networks.split import split
from connectoscope.networks.unet3d import UNet3d
from connectoscope.volumes.geometry import Index3

TILE_VALUES = 576_000_000  # that one convolution reads and writes on the default tile, which runs in 4 GB
TILE_VOXELS = 6_000_000  # of tiles whose network is not known, and of previews, which must come soon
LARGEST_TILE = 30_000_000  # voxels: of the narrowest network, whose outputs weigh as much as its layers


def default_tile(values_per_voxel: float) -> int:
    """Voxels of the tiles of a network whose widest convolution reads and writes so many values per voxel."""
    return min(round(TILE_VALUES / values_per_voxel), LARGEST_TILE)


def choose_tile(grid: Index3, halo: Index3, stride: Index3, voxels: int = TILE_VOXELS) -> Index3:
    """A tile shape for a grid: near ``voxels`` in size, wasting little on halo, no larger than the grid needs.

    Args:
        grid: Shape of the whole grid (never of a box: a box runs the same tiles).
        halo: Voxels per side that are computed and thrown away; multiples of ``stride``.
        stride: Total stride; the tile is a multiple of it.

    Returns:
        The shape with the highest useful share, ``prod(core) / prod(tile)`` over the cover of the grid.
    """
    whole = [_up(n, s) + 2 * h for n, h, s in zip(grid, halo, stride, strict=True)]
    best: tuple[float, int, Index3] | None = None
    for depth in sorted(
        {min(whole[0], _up(c, stride[0]) + 2 * halo[0]) for c in (8, 12, 16, 24, 32, 48, 64, 96, 128, 192)}
    ):
        side = math.isqrt(voxels // depth)
        tile = [depth]
        for axis in (1, 2):
            # The fewest tiles along this axis that stay under the side, then as even as they can be.
            room = max(side - 2 * halo[axis], stride[axis])
            count = -(-grid[axis] // room)
            tile.append(min(whole[axis], _up(-(-grid[axis] // count), stride[axis]) + 2 * halo[axis]))
        cost = math.prod(
            -(-n // (t - 2 * h)) * t for n, t, h in zip(grid, tile, halo, strict=True)
        )  # voxels computed in all
        candidate = (cost, math.prod(tile), (tile[0], tile[1], tile[2]))
        if best is None or candidate < best:
            best = candidate
    if best is None:
        raise ValueError(f"no tile for a grid of {grid}")
    return best[2]


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass
class Predictor:
    """Probabilities of one tile.

    Attributes:
        network: Folded, in evaluation mode, on its device.
        tile: Input shape z, y, x.
        halo: Cut off at each side of the output.
        outputs: Names of the channels.
        precision: ``float32`` or ``bfloat16``.
    """

    network: nn.Module
    tile: Index3
    halo: Index3
    outputs: tuple[str, ...]
    device: str
    precision: str

    @property
    def core(self) -> Index3:
        z, y, x = (t - 2 * h for t, h in zip(self.tile, self.halo, strict=True))
        return (z, y, x)

    def __call__(self, tile: NDArray[np.float32]) -> NDArray[np.uint8]:
        """``round(255 p)`` of the core, ``(C, *core)`` uint8, of a normalised ``(*tile)`` float32.

        Raises:
            ValueError: when the input has another shape than every tile of this run.
        """
        if tile.shape != self.tile:
            raise ValueError(f"predictor takes tiles of {self.tile}, got {tile.shape}")
        dtype = PRECISIONS[self.precision]
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(tile, dtype=np.float32))[None, None]
            x = x.to(self.device, dtype).contiguous(memory_format=torch.channels_last_3d)
            p = torch.sigmoid(self.network(x, self.halo)[0].float())  # (C, *core)
            # round half up, spelled out: torch.round is half to even
            return torch.floor(p * 255 + 0.5).to(torch.uint8).cpu().numpy()


def make_predictor(
    network: nn.Module,
    outputs: tuple[str, ...],
    *,
    tile: Index3,
    halo: Index3,
    stride: Index3,
    device: str = "cpu",
    precision: str = "float32",
    threads: int | None = None,
) -> Predictor:
    """Split and fold a network and bind it to one tile shape.

    Args:
        threads: Of this whole process on the CPU; None leaves torch's setting.

    Raises:
        UserError: when the tile has no core, or tile or halo are off the total stride.
    """
    if any(t <= 2 * h for t, h in zip(tile, halo, strict=True)):
        raise UserError(f"a tile of {tile} has nothing left between halos of {halo}; take a larger tile")
    if any(t % s or h % s for t, h, s in zip(tile, halo, stride, strict=True)):
        raise UserError(
            f"tile {tile} and halo {halo} must be multiples of the network's total stride {stride}"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    network = split(network) if isinstance(network, UNet3d) else network
    network = fold_batch_norm(network).to(device, PRECISIONS[precision])
    network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return Predictor(network, tile, halo, outputs, device, precision)
