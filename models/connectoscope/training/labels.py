"""Images and labels on the grid of a recipe: resampled within planes, and boundaries derived from instances.

A training volume whose pixels are not those of the recipe is averaged or interpolated in y and x; sections stay as they
are, so that splits by planes hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from connectoscope.blockwise.grid import Grid, choose_grid
from connectoscope.blockwise.resample import resample_axis, taps
from connectoscope.errors import UserError
from connectoscope.volumes import Volume
from connectoscope.volumes.geometry import Float3, convert_length, sizes_text

HALF = 0.5 - 1e-4  # of a new voxel's area: labelled from here on, with room for rounding


def check_whole_numbers(dtype: np.dtype[Any], labels: str) -> None:
    """Raises UserError where ``labels`` (said so in the message) are none: probabilities, say."""
    if dtype.kind not in "biu":
        raise UserError(f"{labels} hold {dtype} values; labels are whole numbers")


def check_voxel_size(labels: Volume, volume: Volume) -> None:
    """Raises UserError where labels state another voxel size than their image."""
    if labels.unit is None or volume.unit is None:
        return
    size = convert_length(labels.levels[0].scale, labels.unit, volume.unit)
    if not np.allclose(size, volume.levels[0].scale, rtol=1e-3):
        raise UserError(
            f"labels {labels.name} have voxels of {sizes_text(size)}, {volume.name} of "
            f"{sizes_text(volume.levels[0].scale)} {volume.unit}: they must be on the voxels of the volume"
        )


def check_classes(share: float, labels: str, where: str, *, instances: bool) -> None:
    """Raises UserError where none or all of the voxels of ``where`` are labelled.

    Args:
        share: Of the voxels that are labelled, 0 to 1.
        instances: What is labelled are the boundaries of instances.
    """
    if 0 < share < 1:
        return
    what = "of one segment only, so there are no boundaries" if instances else "all background"
    if share == 1:
        what = "all membrane, without cells" if instances else "all of one class, without background"
    raise UserError(f"{labels} are {what} in {where}: there is nothing to learn from them")


def plane_grid(volume: Volume, voxel_size: Float3) -> Grid:
    """``volume`` with pixels of ``voxel_size`` (nm; z is not looked at).

    A volume that does not state its voxel size is taken as it is.
    """
    if volume.unit is None:
        return Grid(volume)
    return choose_grid(volume, voxel_size, planes=True)


def resampled_mask(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """``mask`` ``(z, y, x)`` of the grid's whole source level, on the grid: True where at least half of the voxel is."""
    array = mask.astype(np.float32)
    for axis in range(3):
        rows = taps(0, grid.shape[axis], grid.factor[axis], mask.shape[axis])
        array = resample_axis(array, axis, rows, 0)
    result: NDArray[np.bool_] = array >= HALF
    return result


def boundaries(instances: NDArray[np.generic], wall: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Boundaries of instance labels ``(z, y, x)``: voxels next to another label (6 neighbours), dilated once.

    0 is a label like the others here: where nothing is labelled, boundaries enclose it.

    Args:
        wall: Voxels that somebody labelled as the boundary itself: as one more label it would come out hollow, with a rim
            inside each of its neighbours.
    """
    edge = np.zeros(instances.shape, bool)
    for axis in range(3):
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        here, there = tuple(low), tuple(high)
        differs = instances[here] != instances[there]
        if wall is not None:
            differs &= ~(wall[here] | wall[there])
        edge[here] |= differs
        edge[there] |= differs
    dilated: NDArray[np.bool_] = ndimage.binary_dilation(edge)
    return dilated if wall is None else dilated | wall
