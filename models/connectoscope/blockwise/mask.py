"""``--within MASK``: a foreground image that restricts any other task to where it is not 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.grid import Grid
from connectoscope.errors import UserError
from connectoscope.volumes.geometry import NANOMETRES, Box, Float3, Index3
from connectoscope.volumes.labels import without_nothing

if TYPE_CHECKING:
    from connectoscope.volumes import Volume

HELD = 256 * 2**20  # voxels of a mask that are held in memory; finer levels are not looked at


@dataclass(frozen=True)
class Mask:
    """A mask in memory.

    Attributes:
        inside: (z, y, x).
        scale, translation: Of its voxels, in nm.
        name: Of its volume.
        assumed: Whether the volume states no voxel size, and is taken to lie on the one that it restricts.
    """

    inside: NDArray[np.bool_]
    scale: Float3
    translation: Float3
    name: str = "the mask"
    assumed: bool = False

    def on(self, grid: Grid, box: Box) -> NDArray[np.bool_]:
        """The mask's nearest voxel at each voxel of ``box`` (grid voxels inside the grid), (z, y, x)."""
        part: NDArray[np.bool_] = self.inside[np.ix_(*self._index(grid, box))]
        return part

    def told(self, grid: Grid, box: Box) -> list[str]:
        """Lines for people: that it leaves nothing of ``box``, and what was assumed of it."""
        index = [np.unique(numbers) for numbers in self._index(grid, box)]
        nothing = not self.inside[np.ix_(*index)].any()
        return [
            *([f"mask {self.name} is 0 in all that is asked for: nothing will be looked for"] * nothing),
            *([f"mask {self.name} states no voxel size: taken to lie as the volume does"] * self.assumed),
        ]

    def _index(self, grid: Grid, box: Box) -> list[NDArray[np.int64]]:
        unit = NANOMETRES[grid.volume.unit or "nanometer"]
        index = []
        for a in range(3):
            world = (grid.translation[a] + np.arange(box.start[a], box.stop[a]) * grid.scale[a]) * unit
            nearest = np.floor((world - self.translation[a]) / self.scale[a] + 0.5).astype(np.int64)
            index.append(nearest.clip(0, self.inside.shape[a] - 1))
        return index


def read_mask(volume: Volume, grid: Grid) -> Mask:
    """Read a mask for a grid.

    Raises:
        UserError: its voxel size is unknown, it is too large, or it covers another part of the world than the grid.
    """
    level = next((k for k, lv in enumerate(volume.levels) if np.prod(lv.shape) <= HELD), None)
    if level is None:
        raise UserError(
            f"mask {volume.name} has {np.prod(volume.levels[-1].shape):,} voxels in its coarsest level; "
            f"use one of at most {HELD:,}"
        )
    shape = volume.levels[level].shape
    frame = volume
    if volume.unit is None:
        if level > 0 or shape != grid.volume.shape:
            raise UserError(
                f"mask {volume.name} states no voxel size, and has another shape than the volume ({volume.shape} and "
                f"{grid.volume.shape}): make one that states it (connectoscope convert … --voxel-size)"
            )
        frame = grid.volume
    scale = frame.voxel_size_nm(level)
    unit = NANOMETRES[frame.unit or "nanometer"]
    z, y, x = (t * unit for t in frame.levels[level].translation)
    voxels, _ = without_nothing(volume.read(Box.of(shape), level))
    mask = Mask(voxels > 0, scale, (z, y, x), volume.name, volume.unit is None)
    own = _extent(mask.inside.shape, scale, mask.translation)
    nm = NANOMETRES[grid.volume.unit or "nanometer"]
    scaled = [tuple(v * nm for v in values) for values in (grid.scale, grid.translation)]
    wanted = _extent(grid.shape, *scaled)  # type: ignore[arg-type]
    for a, axis in enumerate("zyx"):
        if any(abs(m - w) > scale[a] for m, w in zip(own[a], wanted[a], strict=True)):
            raise UserError(
                f"mask {volume.name} covers {axis} {own[a][0]:g} to {own[a][1]:g} nm, the volume "
                f"{wanted[a][0]:g} to {wanted[a][1]:g} nm: use a mask that was made of this volume"
            )
    return mask


def _extent(shape: tuple[int, ...] | Index3, scale: Float3, translation: Float3) -> list[tuple[float, float]]:
    """World positions of the outer faces along each axis."""
    return [(t - s / 2, t + (n - 0.5) * s) for n, s, t in zip(shape, scale, translation, strict=True)]
