"""The coarse levels that a cascade looks at, and which cells of one level lie under those of another.

A *cell* has the same number of voxels at every level, so a cell of a coarse level covers a whole number of finer ones::

    level 1 (factor 2)   |   cell 0    |   cell 1    |
    level 0              |  0   |  1   |  2   |  3   |      parent of a place = place // factor
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.grid import ONE, Grid, reflected
from connectoscope.blockwise.plan import Place
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.volumes.pyramid import downsample, pyramid_factors

MAX_RUNGS = 3
MIN_CELLS = 2  # along the longest axis; a coarser level would be one cell


class CoarseSource(Protocol):
    """Intensities of a coarse level."""

    @property
    def shape(self) -> Index3: ...

    @property
    def level(self) -> int:
        """That of the file which is read."""
        ...

    def skipped_in(self, box: Box) -> list[Box]:
        """The corrupt chunks (voxels of that level) that :meth:`read` of ``box`` took as 0."""
        ...

    def read(self, box: Box) -> NDArray[np.float32]:
        """``box`` (voxels of this level, may reach outside: symmetric reflection), (z, y, x) float32."""
        ...


@dataclass(frozen=True)
class Averaged:
    """A coarse level that no file holds: means over windows of the grid, made whenever they are read."""

    grid: Grid
    factor: Index3

    @property
    def shape(self) -> Index3:
        z, y, x = (-(-n // f) for n, f in zip(self.grid.shape, self.factor, strict=True))
        return (z, y, x)

    @property
    def level(self) -> int:
        return self.grid.level

    def skipped_in(self, box: Box) -> list[Box]:
        return self.grid.skipped_in(self._inside(box)[1])

    def _inside(self, box: Box) -> tuple[list[NDArray[np.int64]], Box]:
        """For each axis the indices that ``box`` shows, and the part of the grid that they are made of."""
        shape = self.shape
        index = [reflected(box.start[a], box.stop[a], shape[a]) for a in range(3)]
        low = tuple(int(i.min()) * f for i, f in zip(index, self.factor, strict=True))
        high = tuple((int(i.max()) + 1) * f for i, f in zip(index, self.factor, strict=True))
        return index, Box(low, high).intersection(Box.of(self.grid.shape))  # type: ignore[arg-type]

    def read(self, box: Box) -> NDArray[np.float32]:
        index, inside = self._inside(box)
        coarse = np.asarray(downsample(self.grid.read(inside), self.factor, labels=False), dtype=np.float32)
        return coarse[np.ix_(*(i - i.min() for i in index))]


@dataclass(frozen=True)
class Rung:
    """One coarse level.

    Attributes:
        factor: Grid voxels per voxel of this level, and cells of level 0 per cell of this one (z, y, x).
        source: Its intensities.
        made: Averaged from level 0 on the fly, because the file has no such level.
    """

    factor: Index3
    source: CoarseSource
    made: bool

    @property
    def covers(self) -> int:
        """M_k: cells of level 0 in one cell."""
        return math.prod(self.factor)

    def parent(self, place: Place) -> Place:
        """The cell of this level that holds a cell of level 0."""
        z, y, x = (i // f for i, f in zip(place, self.factor, strict=True))
        return (z, y, x)

    def cell(self, place: Place, core: Index3, halo: Index3) -> Box:
        """Voxels of this level in a cell, with a halo."""
        start = tuple(i * c for i, c in zip(place, core, strict=True))
        return Box(start, tuple(s + c for s, c in zip(start, core, strict=True))).grown(halo)  # type: ignore[arg-type]


def find_rungs(grid: Grid, core: Index3) -> tuple[Rung, ...]:
    """The coarse levels over a grid, nearest first: those of the file, else made by averaging."""
    rungs: list[Rung] = []
    previous: Index3 = (1, 1, 1)
    stored = _stored(grid)
    for factor in stored or pyramid_factors(grid.shape, grid.scale, smallest=1)[1:]:
        cells = [-(-n // (c * f)) for n, c, f in zip(grid.shape, core, factor, strict=True)]
        nested = all(f % p == 0 for f, p in zip(factor, previous, strict=True))
        if max(cells) < MIN_CELLS or not nested or len(rungs) == MAX_RUNGS:
            break
        if stored:
            rungs.append(Rung(factor, stored[factor], made=False))
        else:
            rungs.append(Rung(factor, Averaged(grid, factor), made=True))
        previous = factor
    return tuple(rungs)


def _stored(grid: Grid) -> dict[Index3, Grid]:
    """Levels of the file whose voxels are whole multiples of the grid's, by factor."""
    found: dict[Index3, Grid] = {}
    if grid.factor != (ONE, ONE, ONE):
        return found
    base = grid.volume.levels[grid.level].scale
    for level in range(grid.level + 1, len(grid.volume.levels)):
        ratio = [s / b for s, b in zip(grid.volume.levels[level].scale, base, strict=True)]
        z, y, x = (max(round(r), 1) for r in ratio)
        if all(abs(r / f - 1) < 0.02 for r, f in zip(ratio, (z, y, x), strict=True)):
            found[(z, y, x)] = Grid(grid.volume, level, (Fraction(1), Fraction(1), Fraction(1)))
    return found
