"""A cascade as a filter of the block engine: gates, accepted cells, wakes, and the map of what happened.

::

    coarsest cells -> gate -> their children -> gate -> ... -> cells of level 0 -> fine detector
                                                                   ^                    | something found
                                                                   +---- woken <--------+ reaches the face

Cells that are rejected are never read. An object that a face to a rejected neighbour cuts wakes that neighbour, in
rounds until none is left to wake; which cells that are does not depend on the order of the blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.engine import Engine, Output, Phase
from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.plan import Block, Lattice, Place, id_of, place_of
from connectoscope.cascade.gates import Gate
from connectoscope.cascade.ladder import Rung
from connectoscope.volumes.corrupt import chunk_name
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.volumes.ome_zarr_write import ImageSpec

OUTSIDE, REJECTED, ACCEPTED, WOKEN = 0, 1, 2, 3  # values of the map
DIRECTIONS: tuple[Place, ...] = tuple((z, y, x) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1))
"""Of the 26 neighbours of a cell and, at 13, itself."""
_EMPTY = Box((0, 0, 0), (0, 0, 0))


@dataclass(frozen=True)
class Step:
    """A gate at its level, ready to run; cells scoring less than ``threshold`` are rejected."""

    rung: Rung
    gate: Gate
    threshold: float


def score_phase(name: str, places: Iterable[Place], rung: Rung, gate: Gate, core: Index3) -> Phase[Any]:
    """Scores of coarse cells, which end up in the ledger as ``score``, with the corrupt chunks that were ``skipped``."""

    def read(block: Block) -> tuple[NDArray[np.float32], list[str]]:
        cell = rung.source.read(block.read)
        skipped = [chunk_name(chunk, rung.source.level) for chunk in rung.source.skipped_in(block.read)]
        return np.nan_to_num(cell, copy=False, nan=0.0, posinf=0.0, neginf=0.0), skipped

    def compute(block: Block, seen: tuple[NDArray[np.float32], list[str]]) -> Output:
        cell, skipped = seen
        score = gate(cell)
        return Output(np.array([score]), {"score": score} | ({"skipped": skipped} if skipped else {}))

    blocks = [Block(id_of(p), rung.cell(p, core, gate.halo), _EMPTY, _EMPTY) for p in places]
    return Phase(name, blocks, read, compute, lambda block, data: None)


def open_directions(found: NDArray[np.bool_]) -> list[int]:
    """Directions in which something that was found reaches the face, edge or corner of its block (z, y, x)."""
    if not found.any():
        return []
    directions = []
    for number, direction in enumerate(DIRECTIONS):
        ends = tuple({-1: slice(0, 1), 0: slice(None), 1: slice(-1, None)}[d] for d in direction)
        if number != 13 and found[ends].any():
            directions.append(number)
    return directions


@dataclass(frozen=True)
class Cascade:
    """The gates of one run, coarsest first, over the cells of a lattice."""

    lattice: Lattice
    steps: Sequence[Step]

    @property
    def made(self) -> bool:
        """Whether a level is averaged on the fly, for which everything is read once."""
        return any(step.rung.made for step in self.steps)

    @property
    def phase_names(self) -> list[str]:
        return [self._name(step) for step in self.steps]

    def accept(self, engine: Engine, ledger: Ledger, cells: set[Place]) -> set[Place]:
        """Those of ``cells`` that all gates pass; each gate runs only under what the one before passed.

        Where chunks are corrupt a score says nothing, and the cell is passed on.
        """
        for step in self.steps:
            name = self._name(step)
            places = sorted({step.rung.parent(place) for place in cells})
            engine.run(score_phase(name, places, step.rung, step.gate, self.lattice.core))
            passed = {
                place_of(entry["id"].removeprefix(f"{name}/"))
                for entry in ledger.entries(f"{name}/")
                if entry["score"] >= step.threshold or "skipped" in entry
            }
            cells = {place for place in cells if step.rung.parent(place) in passed}
        return cells

    def run(
        self,
        engine: Engine,
        ledger: Ledger,
        cells: set[Place],
        phase: Callable[[set[Place]], Phase[Any]],
    ) -> tuple[set[Place], set[Place], int]:
        """Gates, the fine detector on what they pass, and rounds of wakes.

        Args:
            cells: All of the run.
            phase: The fine detector on some of the cells, always under one name; its blocks record ``open``.

        Returns:
            Accepted cells, woken ones, and the voxels that this call wrote.
        """
        accepted = self.accept(engine, ledger, cells)
        awake = set(accepted)
        voxels = seen = 0
        while True:
            now = phase(awake)  # all of them, so that the progress never goes back
            voxels += engine.run(now)
            new = list(itertools.islice(ledger.entries(f"{now.name}/"), seen, None))  # they only grow
            seen += len(new)
            reached = {
                _neighbour(place_of(entry["id"].removeprefix(f"{now.name}/")), direction)
                for entry in new
                for direction in entry.get("open", ())
            }
            asleep = (reached & cells) - awake
            if not asleep:
                return accepted, awake - accepted, voxels
            awake |= asleep

    def calls(self, ledger: Ledger, fine: str) -> list[int]:
        """Evaluations at each level, level 0 first; ``fine`` is the name of the fine detector's phase."""
        names = [fine, *reversed(self.phase_names)]
        return [sum("/level" not in entry["id"] for entry in ledger.entries(f"{name}/")) for name in names]

    def _name(self, step: Step) -> str:
        return "gate " + "x".join(map(str, step.rung.factor))


def _neighbour(place: Place, direction: int) -> Place:
    dz, dy, dx = DIRECTIONS[direction]
    return (place[0] + dz, place[1] + dy, place[2] + dx)


def read_share(awake: Iterable[Place], lattice: Lattice, shape: Index3) -> float:
    """Share of the grid (of ``shape``) that the tiles of ``awake`` cells read, halo included."""
    core = lattice.core
    tiles = [
        Box.of(core)
        .shifted((p[0] * core[0], p[1] * core[1], p[2] * core[2]))
        .grown(lattice.halo)
        .intersection(Box.of(shape))
        for p in awake
    ]
    if not tiles:
        return 0.0
    edges = [np.unique([v for t in tiles for v in (t.start[a], t.stop[a])]) for a in range(3)]
    seen = np.zeros([len(e) - 1 for e in edges], bool)
    for tile in tiles:
        ends = [np.searchsorted(edges[a], (tile.start[a], tile.stop[a])) for a in range(3)]
        seen[tuple(slice(low, high) for low, high in ends)] = True
    z, y, x = (np.diff(e) for e in edges)
    volume = z[:, None, None] * y[None, :, None] * x[None, None, :]
    return float((volume * seen).sum() / math.prod(shape))


def cell_map(
    lattice: Lattice, box: Box, cells: set[Place], accepted: set[Place], woken: set[Place]
) -> tuple[Place, NDArray[np.uint8]]:
    """The first cell of ``box``, and a map of its cells: 0 outside the mask, 1 rejected, 2 accepted, 3 woken."""
    z, y, x = lattice.places(box)
    first = (z.start, y.start, x.start)
    values = np.full((len(z), len(y), len(x)), OUTSIDE, np.uint8)
    for value, chosen in ((REJECTED, cells), (ACCEPTED, accepted), (WOKEN, woken)):
        for place in chosen:
            values[tuple(p - f for p, f in zip(place, first, strict=True))] = value
    return first, values


def touched(blocks: Sequence[Block], kept: Sequence[Box], core: Index3) -> list[Block]:
    """The blocks (of shape ``core``, on a lattice at voxel 0) that any of the boxes lies in."""
    wanted: set[Place] = set()
    for box in kept:
        z, y, x = (range(box.start[a] // core[a], -(-box.stop[a] // core[a])) for a in range(3))
        wanted |= {(i, j, k) for i in z for j in y for k in x}
    return [block for block in blocks if place_of(block.id) in wanted]


def map_image(cells: NDArray[np.uint8], first: Place, core: Index3, grid: Grid) -> ImageSpec:
    """The map of a cascade as an image: one voxel a cell, over the grid; ``first`` is the place of its voxel 0."""
    z, y, x = (
        t + (i * c + (c - 1) / 2) * s
        for t, i, c, s in zip(grid.translation, first, core, grid.scale, strict=True)
    )
    a, b, d = (c * s for c, s in zip(core, grid.scale, strict=True))
    meaning = {
        str(OUTSIDE): "outside",
        str(REJECTED): "rejected",
        str(ACCEPTED): "accepted",
        str(WOKEN): "woken",
    }
    return ImageSpec(
        shape=Box.of(cells.shape).shape,
        dtype=np.dtype(np.uint8),
        scale=(a, b, d),
        translation=(z, y, x),
        unit=grid.volume.unit,
        chunks=Box.of(cells.shape).shape,
        name="cascade",
        is_labels=True,
        attributes={"connectoscope": {"finished": True, "signature": {}, "cascade": meaning}},
    )
