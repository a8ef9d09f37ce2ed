"""Cells of a volume as a file of points: blocks of the engine, merged and sorted at the end.

::

    volume -> grid -> tiles -> points of each block (scratch) -> NAME.csv or NAME.xml, and NAME.json beside it
                                                 with a cascade -> NAME.cascade.ome.zarr, what was done with each cell

``NAME.json`` carries the request, the signature and, when the points are complete, the summary; it is there from the
start of a run, so that a file of points that has none is never taken for one of ours.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.destination import (
    check_apart,
    check_same,
    check_writable,
    found_at,
    write_file,
)
from connectoscope.blockwise.engine import Engine
from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.mask import Mask, read_mask
from connectoscope.blockwise.plan import Place, Signature, place_of
from connectoscope.blockwise.tile import told_of_tiles
from connectoscope.cascade.make import cascade_of
from connectoscope.cascade.plan import CascadePlan
from connectoscope.cascade.run import Cascade, read_share
from connectoscope.cascade.use import FLOOR, facts, given_plan, kept_plan, signed, told_of_plan, write_map
from connectoscope.detection.blobs import Blob, plane_noise
from connectoscope.detection.cascaded import candidates, plan_detection
from connectoscope.detection.cells import (
    NAME,
    CellDetector,
    close_to_brighter,
    large_core,
    lattice_of,
    load_points,
)
from connectoscope.detection.points import Points, named_after, points_csv, points_xml
from connectoscope.errors import UserError
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import NANOMETRES, Box, Index3, parse_box, sizes_text

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.detect import Detect
    from connectoscope.volumes import Volume

LIBRARIES = ("connectoscope", "numpy", "scipy", "tensorstore")
SMALLEST = 2.0  # voxels across a cell, below which nothing can be told from noise
LARGEST = 100.0  # voxels across, above which a coarser level shows as much at a thousandth of the work
LEAST = 3  # voxels a side of a volume in which a blob has a surrounding


@dataclass(frozen=True)
class Search:
    """Which cells are looked for, and where."""

    grid: Grid
    box: Box
    diameter: float  # micrometres
    threshold: float  # noise units

    @property
    def radius(self) -> float:
        """Of a cell, in the volume's unit."""
        return (
            self.diameter / 2 * NANOMETRES["micrometer"] / NANOMETRES[self.grid.volume.unit or "micrometer"]
        )

    @property
    def blob(self) -> Blob:
        return Blob.of(2 * self.radius, self.grid.scale)

    def noise(self, threads: int = 1) -> list[float]:
        """The unit of the threshold, for each plane; reads a sample of the grid.

        Raises:
            UserError: the sample is constant.
        """
        measured = plane_noise(self.grid.read, self.grid.shape, threads)
        if not measured.all():
            raise UserError(
                f"{self.grid.volume.name} is constant wherever it was sampled: there is nothing to find in it"
            )
        return [float(f"{value:.6g}") for value in measured]

    def detector(
        self, noise: list[float], core: Index3 | None = None, threads: int = 1, mask: Mask | None = None
    ) -> CellDetector:
        """The detector on cores of that shape; None: large ones. Which cores does not change the points."""
        z, y, x = (self.radius / s for s in self.grid.scale)
        lattice = lattice_of(core or large_core(self.grid.shape), self.blob)
        return CellDetector(
            self.grid,
            lattice,
            self.blob,
            np.array(noise, np.float32),
            self.threshold,
            (z, y, x),
            threads,
            mask,
        )

    def identity(self, mask: Volume | None = None) -> Signature:
        """What the points are of, for the signature."""
        return {
            "input": self.grid.volume.identity(),
            "parameters": {
                "detector": NAME,
                "level": self.grid.level,
                "box": str(self.box),
                "diameter": self.diameter,
                "threshold": self.threshold,
            },
            "within": None if mask is None else mask.identity(),
        }


def search_for(volume: Volume, *, box: str | None, level: int, diameter: float, threshold: float) -> Search:
    """Check what is asked for against the volume.

    Raises:
        UserError: voxel size unknown, no such level, box outside, flat volume, or cells of under 2 or over 100 voxels.
    """
    size = volume.voxel_size_nm(level)
    grid = Grid(volume, level)
    if min(grid.shape) < LEAST:
        raise UserError(
            f"{volume.name} is {sizes_text(grid.shape)} voxels; cells need a volume of at least {LEAST} voxels a side"
        )
    across = [diameter * NANOMETRES["micrometer"] / s for s in size]
    if min(across) < SMALLEST:
        coarsest = max(size) / NANOMETRES["micrometer"]
        raise UserError(
            f"cells of {diameter:g} µm are under {SMALLEST:g} voxels of {coarsest:g} µm: use a finer --level or volume, "
            f"or a --diameter of at least {SMALLEST * coarsest:g}"
        )
    if max(across) > LARGEST:
        raise UserError(
            f"cells of {diameter:g} µm are {max(across):.0f} voxels across: use a coarser --level or volume, or a "
            f"--diameter of at most {LARGEST * min(size) / NANOMETRES['micrometer']:.3g}"
        )
    part = Box.of(grid.shape) if box is None else grid.box_from_level(parse_box(box), level)
    return Search(grid, part, diameter, threshold)


def detect_cells(volume: Volume, parameters: Detect, context: Context) -> dict[str, Any]:
    """Make or go on with ``parameters.destination`` (.csv or .xml); returns the summary.

    Raises:
        UserError: unusable input or destination, or a destination made by another request.
        Cancelled: between blocks; what is finished is kept.
    """
    search = search_for(
        volume,
        box=parameters.box,
        level=parameters.level,
        diameter=parameters.diameter,
        threshold=parameters.threshold,
    )
    outer = None if parameters.within is None else open_volume(parameters.within)
    basis = search.identity(outer)
    mask = None if outer is None else read_mask(outer, search.grid)
    planned = given_plan(parameters.cascade, basis)
    identity = signed(basis, parameters.cascade, planned)
    destination = Path(parameters.destination)
    for place in (destination, _map_of(destination)):
        check_apart(volume.source, place)
        if outer is not None:
            check_apart(outer.source, place, "mask")
    for text in [*volume.warnings, *([] if mask is None else mask.told(search.grid, search.box))]:
        context.warn(text)
    found = _found(destination)
    found_at(_map_of(destination))  # a map of another origin is refused before anything is made
    existing = None if context.overwrite else found
    if existing is not None:
        check_same(destination, {k: existing["signature"].get(k) for k in identity}, identity)
        if existing["finished"] and destination.exists():
            context.log(f"{destination} is already complete")
            context.result("points", destination, NAME, objects=existing["summary"]["objects"])
            return {**existing["summary"], "already_complete": True}
    check_writable(destination)
    own = _own_plan(existing, context)
    unit = own["plan"]["noise"] if own is not None else search.noise(context.threads)
    if parameters.cascade == "auto":
        asked = parameters.model_dump(exclude={"destination", "cascade"})
        planned = kept_plan(
            context,
            basis,
            lambda: plan_detection(search, unit, basis, context, mask=mask, asked=asked, floor=FLOOR, seed=0),
            None if existing is None or existing["finished"] else destination,
        )
    for text in told_of_plan(planned, parameters.cascade):
        context.warn(text)
    core = planned.core if planned is not None and planned.pays else None
    detector = search.detector(unit, core, context.threads, mask)
    cascade = None
    if planned is not None and planned.pays:
        cascade = cascade_of(planned, candidates(search, detector.lattice), detector.lattice)
    goes_on = existing is not None and context.job.plan_path.exists()
    signature = _signature(identity, detector, destination, own)
    if not goes_on:
        context.job.forget_progress()
        write_file(context.job.plan_path, json.dumps(signature, indent=1).encode())
    old = [] if goes_on else [destination, _beside(destination), _map_of(destination)]
    with context.replacing(*old):
        return _Run(search, detector, signature, destination, context, cascade, planned).all()


def _map_of(destination: Path) -> Path:
    return named_after(destination, ".cascade.ome.zarr")


def _beside(destination: Path) -> Path:
    return named_after(destination, ".json")


def _found(destination: Path) -> dict[str, Any] | None:
    """What the JSON beside the destination says; None where neither is.

    Raises:
        UserError: something of another origin is there.
    """
    beside = _beside(destination)
    if not os.path.lexists(beside):
        if os.path.lexists(destination):
            raise UserError(
                f"{destination} exists and was not made by connectoscope: choose another destination"
            )
        return None
    try:
        found = json.loads(beside.read_bytes())
        if not (isinstance(found["signature"], dict) and isinstance(found["finished"], bool)):
            raise ValueError
        made = found["file"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{beside}, where the request would be kept, is something else: choose another destination"
        ) from None
    if made != destination.name:
        raise UserError(f"{beside.name} belongs to {made}: choose another name than {destination.name}")
    result: dict[str, Any] = found
    return result


def _own_plan(existing: dict[str, Any] | None, context: Context) -> Signature | None:
    """The signature in the job folder, or beside the result that this run would go on with."""
    path = context.job.plan_path
    if existing is None:
        return None
    own: Signature = json.loads(path.read_bytes()) if path.exists() else existing["signature"]
    return own


def _signature(
    identity: Signature, detector: CellDetector, destination: Path, own: Signature | None
) -> Signature:
    """The signature of the run; raises UserError where its ``own`` one, of the run that is to go on, differs."""
    fresh: Signature = json.loads(
        json.dumps(
            {
                **identity,
                "plan": {
                    "core": detector.lattice.core,
                    "halo": detector.lattice.halo,
                    "noise": [float(f"{value:.6g}") for value in detector.noise],
                    "libraries": {name: version(name) for name in LIBRARIES},
                },
            }
        )
    )
    if own is not None:
        check_same(destination, own, fresh)
    return fresh


@dataclass
class _Run:
    search: Search
    detector: CellDetector
    signature: Signature
    destination: Path
    context: Context
    cascade: Cascade | None
    planned: CascadePlan | None

    def all(self) -> dict[str, Any]:
        """Run what is left; the summary."""
        began = time.monotonic()
        self._mark(finished=False)
        folder = self.context.scratch / NAME
        weights = dict.fromkeys(self.cascade.phase_names, 0.1) if self.cascade else {}
        self.context.phases(**weights, **{NAME: 1.0})
        blocks = self.detector.blocks(self.search.box)
        skipped: dict[str, Any] = {}
        with Ledger(self.context.job.ledger_path) as ledger:
            engine = Engine(self.context, ledger, revision=0)
            if self.cascade is None:
                voxels = engine.run(self.detector.phase(blocks, folder))
            else:
                by_place = {place_of(block.id): block for block in blocks}
                accepted, woken, voxels = self.cascade.run(
                    engine,
                    ledger,
                    set(by_place),
                    lambda some: self.detector.phase([by_place[place] for place in sorted(some)], folder),
                )
                skipped = self._tell_cascade(ledger, set(by_place), accepted, woken)
            entries = list(ledger.entries(f"{NAME}/"))
        for text in told_of_tiles(entries):
            self.context.warn(text)
        ids = [entry["id"].removeprefix(f"{NAME}/") for entry in entries if entry["points"]]
        points = load_points(folder, ids)
        world = points[:, :3] * np.array(self.search.grid.scale)
        if near := close_to_brighter(world, points[:, 3], self.search.radius):
            self.context.warn(
                f"{near} of {len(points)} points lie less than a cell's radius from a brighter one: "
                "cells that lean may be counted twice"
            )
        self._write(points)
        summary = {
            "task": "detect",
            "detector": NAME,
            "blocks": math.prod(map(len, self.detector.lattice.places(self.search.box))),
            "objects": {NAME: len(points)},
            "warnings": self.context.warnings,
            **skipped,
        }
        self._mark(finished=True, summary=summary)
        self.context.result("points", self.destination, NAME, objects=summary["objects"])
        rate = voxels / 1e6 / max(time.monotonic() - began, 1e-9)
        return {**summary, "megavoxels_per_second": round(rate, 3)}

    def _tell_cascade(
        self, ledger: Ledger, cells: set[Place], accepted: set[Place], woken: set[Place]
    ) -> dict[str, Any]:
        """The map beside the points, and what ``--json`` says of the cascade."""
        if self.cascade is None or self.planned is None:
            return {}
        lattice, grid = self.detector.lattice, self.search.grid
        path = _map_of(self.destination)
        write_map(path, lattice, self.search.box, grid, cells, accepted, woken, self.context)
        share = 1.0 if self.cascade.made else read_share(accepted | woken, lattice, grid.shape)
        return {
            "level0_read": round(share, 4),
            "cascade": facts(self.planned, self.cascade.calls(ledger, NAME), len(woken)),
        }

    def _write(self, points: NDArray[np.float64]) -> None:
        """The whole file at once, by way of .part."""
        grid = self.search.grid
        world = np.array(grid.translation) + points[:, :3] * np.array(grid.scale)
        if self.destination.suffix.lower() == ".xml":
            finest = grid.volume.levels[0]
            voxels = (world - np.array(finest.translation)) / np.array(finest.scale)
            data = points_xml(voxels, grid.volume.name)
        else:
            radius = np.full(len(points), self.search.radius)
            data = points_csv(Points(world, radius, points[:, 3], grid.volume.unit or "")).encode()
        write_file(self.destination, data)

    def _mark(self, **more: Any) -> None:
        about = {
            "file": self.destination.name,
            "request": self.context.provenance,
            "signature": self.signature,
            **more,
        }
        write_file(_beside(self.destination), (json.dumps(about, indent=1) + "\n").encode())
