"""A result seen on the truth's grid: where a voxel of one lies in the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.volumes import Volume
from connectoscope.volumes.geometry import Box, Index3, convert_length


@dataclass(frozen=True)
class GridMap:
    """Index on the result's grid = offset + step * index on the truth's grid, for each axis z, y, x."""

    offset: tuple[float, float, float]
    step: tuple[float, float, float]
    shape: Index3  # of the result

    def common(self, box: Box) -> Box:
        """The truth voxels of ``box`` whose centres lie in the result."""
        start, stop = [], []
        for a, b, o, s, n in zip(box.start, box.stop, self.offset, self.step, self.shape, strict=True):
            index = o + s * np.arange(a, b)
            inside = np.flatnonzero((index >= -0.5) & (index < n - 0.5))
            start.append(a + int(inside[0]) if len(inside) else a)
            stop.append(a + int(inside[-1]) + 1 if len(inside) else a)
        return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]

    def read(self, result: Volume, box: Box, *, linear: bool) -> NDArray[Any]:
        """The result at the truth voxels of ``box`` (inside :meth:`common`), in the result's dtype.

        Linear interpolation (rounded for integers) or the nearest voxel.
        """
        index = [
            np.clip(o + s * np.arange(a, b), 0, n - 1)
            for a, b, o, s, n in zip(box.start, box.stop, self.offset, self.step, self.shape, strict=True)
        ]
        low = [int(np.floor(i[0])) for i in index]
        high = [int(np.ceil(i[-1])) + 1 for i in index]
        values = result.read(Box(tuple(low), tuple(high)))  # type: ignore[arg-type]
        if all(np.array_equal(i, np.round(i)) for i in index) or not linear:
            near = [np.floor(i + 0.5).astype(np.int64) - a for i, a in zip(index, low, strict=True)]
            return values[np.ix_(*near)]
        blended = values.astype(np.float32)
        for axis, (i, a) in enumerate(zip(index, low, strict=True)):
            floor = np.floor(i).astype(np.int64)
            weight = (i - floor).astype(np.float32)
            weight = weight.reshape([-1 if k == axis else 1 for k in range(3)])
            first = np.take(blended, floor - a, axis)
            second = np.take(blended, np.minimum(floor - a + 1, values.shape[axis] - 1), axis)
            blended = first * (1 - weight) + second * weight
        if values.dtype.kind in "iu":
            blended = np.floor(blended + 0.5)
        return blended.astype(values.dtype)


def map_grids(result: Volume, truth: Volume) -> tuple[GridMap, str | None]:
    """How the truth's voxels lie in the result, and a warning where units had to be ignored.

    Index to index where shape and voxel size agree and the offset is under one voxel.

    Raises:
        UserError: when voxel sizes are unknown and shapes differ.
    """
    same = GridMap((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), result.shape)
    if result.unit is None or truth.unit is None:
        if result.shape != truth.shape:
            which, how = truth, "give it with --voxel-size z,y,xnm"
            if truth.unit is not None:
                which, how = result, "make one that states it (connectoscope convert … --voxel-size)"
            raise UserError(
                f"{which.name} has no voxel size and another shape ({result.shape} and {truth.shape}); {how}"
            )
        note = None if result.unit == truth.unit else "one volume has no voxel size; compared index to index"
        return same, note
    a, b = result.levels[0], truth.levels[0]
    scale, translation = (convert_length(v, truth.unit, result.unit) for v in (b.scale, b.translation))
    shift = [t - u for t, u in zip(translation, a.translation, strict=True)]
    if (
        result.shape == truth.shape
        and np.allclose(scale, a.scale, rtol=1e-3)
        and all(abs(d) < s * (1 - 1e-6) for d, s in zip(shift, a.scale, strict=True))
    ):
        most = max(abs(d) / s for d, s in zip(shift, a.scale, strict=True))
        note = (
            f"shifted against each other by {most:.2g} voxels: compared index to index, as if they were not"
        )
        return same, note if most > 0.5 * (1 + 1e-6) else None
    offset = tuple(d / s for d, s in zip(shift, a.scale, strict=True))
    step = tuple(t / s for t, s in zip(scale, a.scale, strict=True))
    # Ratios that are a rounding error away from whole numbers are whole.
    clean = [tuple(round(v, 6) for v in part) for part in (offset, step)]
    return GridMap(clean[0], clean[1], result.shape), None  # type: ignore[arg-type]
