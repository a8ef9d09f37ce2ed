"""From direction vectors, as NIfTI and NRRD state them, to axes, voxel size and offset."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from connectoscope.volumes.geometry import Float3

_SLANT = 1e-3  # of a voxel, for each voxel: rounding of rotation matrices


def axes_from_directions(
    directions: Sequence[Sequence[float]], origin: Sequence[float]
) -> tuple[str, Float3 | None, Float3 | None, tuple[str, ...]]:
    """Letters of the file's axes, voxel size and translation (z, y, x), and doubts.

    Args:
        directions: For each of three axes of the file, fastest first, the world vector (x, y, z) of one voxel.
        origin: World position (x, y, z) of the centre of voxel 0.

    Voxels keep their stored order. An oblique or mirrored grid cannot be told by size and offset alone: what is left
    out is said.
    """
    matrix = np.abs(np.asarray(directions, dtype=float))  # file axis, world axis
    lengths = np.sqrt((matrix**2).sum(axis=1))
    if not np.isfinite(matrix).all() or (lengths <= 0).any():
        return "xyz", None, None, ("the directions in the file are not usable: the voxel size is unknown",)
    world = [int(k) for k in matrix.argmax(axis=1)]
    doubts: list[str] = []
    oblique = sorted(world) != [0, 1, 2] or any(
        matrix[i, k] < (1 - _SLANT) * lengths[i] for i, k in enumerate(world)
    )
    if sorted(world) != [0, 1, 2]:
        world = [0, 1, 2]
    if oblique:
        doubts.append("the grid is oblique in its world: voxel size and offset are kept, the rotation is not")
    scale, shift = [1.0] * 3, [0.0] * 3
    mirrored = []
    for i, k in enumerate(world):
        scale[k] = float(lengths[i])
        if directions[i][k] > 0 or oblique:
            shift[k] = float(origin[k]) if math.isfinite(origin[k]) else 0.0
        else:
            mirrored.append("xyz"[k])
    if mirrored:
        doubts.append(
            f"{', '.join(mirrored)} runs against the world axis: voxels keep their stored order, the offset there is "
            "left out"
        )
    letters = "".join("xyz"[k] for k in world)
    return letters, (scale[2], scale[1], scale[0]), (shift[2], shift[1], shift[0]), tuple(doubts)
