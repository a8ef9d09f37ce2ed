"""Where fragments run through the faces of their cell: what the watershed with a halo says about seams.

Inside of a cell nothing can separate the voxels of a fragment. So that a face is no weaker than the inside, an affinity
across it counts as 255 where the watersheds of both cells run through, and as half of that where one does.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from connectoscope.segmentation.components import Labels
from connectoscope.volumes.geometry import Box

Seams = dict[str, NDArray[np.bool_]]
"""Of one cell, by ``z0, z1, y0 ...`` (axis, 1: the far end): which voxel pairs across that face are of one fragment."""


def seams_of(found: Labels, cell: Box) -> Seams:
    """The seams of a cell, of its fragments with a halo; faces at the end of ``found`` are left out.

    Args:
        found: (z, y, x), the cell and what is around it.
        cell: In voxels of ``found``.
    """
    seams: Seams = {}
    for axis, name in enumerate("zyx"):
        for end, first in enumerate((cell.start[axis] - 1, cell.stop[axis] - 1)):
            if 0 <= first < found.shape[axis] - 1:
                other = tuple(slice(None) if a == axis else s for a, s in enumerate(cell.slices))
                a, b = (found[other].take(i, axis) for i in (first, first + 1))
                seams[f"{name}{end}"] = (a == b) & (a > 0)
    return seams


def strengthen(affinities: NDArray[np.uint8], within: Box, own: Seams, before: tuple[Seams, ...]) -> None:
    """Change, in place, the affinities of the first voxels of a cell to those of the cells before it.

    Args:
        affinities: (offsets, z, y, x); the first three are to the voxels before along z, y, x.
        within: The cell, in voxels of ``affinities``.
        own: Seams of the cell.
        before: Of the cells before it along z, y, x; empty where there is none.
    """
    for axis, (name, other) in enumerate(zip("zyx", before, strict=True)):
        if f"{name}1" in other and f"{name}0" in own:
            face = affinities[axis][within.slices]
            first = face[tuple(slice(0, 1) if a == axis else slice(None) for a in range(3))]
            votes = own[f"{name}0"].astype(np.uint8) + other[f"{name}1"]
            np.maximum(first, np.expand_dims(np.array([0, 127, 255], np.uint8)[votes], axis), out=first)


def to_bytes(seams: Seams) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **seams)  # type: ignore[arg-type]
    return file.getvalue()


def from_bytes(data: bytes) -> Seams:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
