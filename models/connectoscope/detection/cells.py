"""The cell detector as the block engine and the cascade's planner see it: ``read`` a block, ``compute`` its points."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from connectoscope.blockwise.destination import write_file
from connectoscope.blockwise.engine import Output, Phase
from connectoscope.blockwise.grid import Grid, reflected
from connectoscope.blockwise.mask import Mask
from connectoscope.blockwise.plan import Block, Lattice
from connectoscope.blockwise.tile import Tile, blocks_within, kept_box, read_tile
from connectoscope.detection.blobs import Blob, find_blobs, response
from connectoscope.volumes.geometry import Box, Index3

NAME = "cells"  # of the phase, its ledger lines and its progress
CORE: Index3 = (96, 320, 320)  # largest core of a run without a cascade
COLUMNS = 4  # of a block's points: z, y, x (grid voxels), response over the noise


@dataclass(frozen=True)
class CellDetector:
    """Finds the cells of a block.

    Attributes:
        grid: What is searched.
        lattice: Blocks are its cores; the points do not depend on it.
        blob: What a cell looks like.
        noise: Of each plane of the grid, (z,) float32.
        threshold: Smallest response of a cell, over the noise.
        radius: Of a cell, in grid voxels, z, y, x.
        threads: For the filters.
        mask: Where it is 0 there are no cells.
    """

    grid: Grid
    lattice: Lattice
    blob: Blob
    noise: NDArray[np.float32]
    threshold: float
    radius: tuple[float, float, float]
    threads: int = 1
    mask: Mask | None = None

    def blocks(self, box: Box) -> list[Block]:
        """Of the lattice in ``box`` (grid voxels), as far as the mask leaves them."""
        return blocks_within(self.grid, self.lattice, box, self.mask)

    def read(self, block: Block) -> Tile:
        return read_tile(self.grid, self.lattice, block)

    def compute(self, block: Block, tile: Tile) -> Output:
        """Points whose peak lies in the kept part of the core, as bytes of (n, 4) float64 (``COLUMNS``).

        Facts: ``points``, ``positive`` (there are some), ``open`` (directions in which the ball of one reaches over
        the core's face; d = (dz + 1) * 9 + (dy + 1) * 3 + dx + 1), ``constant``, ``not_finite``.
        """
        facts = tile.facts
        points = np.zeros((0, COLUMNS))
        origin = block.read.grown((-self.lattice.halo[0], -self.lattice.halo[1], -self.lattice.halo[2])).start
        open_: list[int] = []
        if not tile.constant:
            values = response(tile.intensities, self.blob, self.threads)
            first = block.read.start[0] + self.blob.reach[0]
            plane = reflected(first, first + len(values), self.grid.shape[0])
            values /= self.noise[plane, None, None]
            volume = Box.of(self.grid.shape).shifted((-origin[0], -origin[1], -origin[2]))
            found = find_blobs(values, self.blob, self.threshold, volume)
            kept = ((found.peak >= block.keep.start) & (found.peak < block.keep.stop)).all(axis=1)
            index = np.flatnonzero(kept)
            if self.mask is not None:
                inside = self.mask.on(self.grid, kept_box(self.lattice, block))
                index = index[inside[tuple((found.peak[index] - block.keep.start).T)]]
            position = found.position[index]
            points = np.column_stack([position + origin, found.response[index].astype(np.float64)])
            open_ = open_directions(position, self.radius, self.lattice.core)
        facts |= {"points": len(points), "positive": bool(len(points)), "open": open_}
        return Output(np.frombuffer(points.tobytes(), np.uint8), facts)

    def phase(self, blocks: list[Block], folder: Path) -> Phase[Tile]:
        """Points of ``blocks`` into ``folder``, a file for each block that has some."""
        folder.mkdir(parents=True, exist_ok=True)

        def write(block: Block, data: NDArray[Any]) -> None:
            if len(data):
                write_file(folder / f"{block.id}.points", data.tobytes())

        return Phase(NAME, blocks, self.read, self.compute, write)


def load_points(folder: Path, ids: Iterable[str]) -> NDArray[np.float64]:
    """Points of the blocks ``ids`` (those that have some), sorted by z, y, x, (n, 4)."""
    parts = [np.frombuffer((folder / f"{id}.points").read_bytes(), np.float64) for id in ids]
    points = np.concatenate([np.zeros(0), *parts]).reshape(-1, COLUMNS)
    z, y, x, score = points.T
    return points[np.lexsort((-score, x, y, z))]


def close_to_brighter(position: NDArray[np.float64], score: NDArray[np.float64], radius: float) -> int:
    """How many of the points, (n, 3) in the unit of ``radius``, lie less than that from one of a higher or equal score, (n,)."""
    if len(position) == 0:
        return 0
    one, other = cKDTree(position).query_pairs(radius, output_type="ndarray").T
    return len(np.unique(np.where(score[one] < score[other], one, other)))


def open_directions(
    position: NDArray[np.float64], radius: tuple[float, float, float], core: Index3
) -> list[int]:
    """Directions (0 to 26 without 13) in which a point with its radius reaches over a face, edge or corner.

    Args:
        position: z, y, x in voxels from the core's first, (n, 3).
        radius: In voxels, z, y, x.
    """
    low = (position - radius < -0.5).tolist()  # the face of voxel 0 lies half a voxel before its centre
    high = (position + radius > np.array(core) - 0.5).tolist()
    found = set()
    for below, above in zip(low, high, strict=True):
        steps = [[0] + [-1] * b + [1] * a for b, a in zip(below, above, strict=True)]
        found |= {(z + 1) * 9 + (y + 1) * 3 + x + 1 for z in steps[0] for y in steps[1] for x in steps[2]}
    return sorted(found - {13})


def large_core(shape: Index3) -> Index3:
    """Core of a run without a cascade: the grid (z, y, x) cut evenly into parts of at most ``CORE``."""
    z, y, x = (math.ceil(n / math.ceil(n / most)) for n, most in zip(shape, CORE, strict=True))
    return (z, y, x)


def lattice_of(core: Index3, blob: Blob) -> Lattice:
    """Cores of that shape with the halo that ``blob`` needs."""
    z, y, x = (c + 2 * h for c, h in zip(core, blob.halo, strict=True))
    return Lattice((z, y, x), blob.halo)
