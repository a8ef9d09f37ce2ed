"""Names of affinity outputs: ``affinity_-1_0_0`` is the probability that a voxel and the one before it along z are of
one object; the numbers are the offset z, y, x to the partner, in voxels of the model's grid.
"""

from __future__ import annotations

import re

from connectoscope.volumes.geometry import Index3

_NAME = re.compile(r"affinity_(-?\d+)_(-?\d+)_(-?\d+)")


def offset_of(name: str) -> Index3 | None:
    """The offset that the output of this name is about; None where it is no affinity."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    z, y, x = (int(n) for n in found.groups())
    return (z, y, x) if (z, y, x) != (0, 0, 0) else None


def pairs(shape: Index3, offset: Index3) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where the voxels lie that have a partner at ``offset`` inside ``shape``, and where their partners lie."""
    here = tuple(slice(max(-o, 0), max(n - max(o, 0), 0)) for o, n in zip(offset, shape, strict=True))
    there = tuple(slice(max(o, 0), max(n - max(-o, 0), 0)) for o, n in zip(offset, shape, strict=True))
    return here, there
