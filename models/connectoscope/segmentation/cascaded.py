"""A segmentation behind a cascade: its cells, its gates, and its plan (:mod:`connectoscope.cascade`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.mask import Mask
from connectoscope.blockwise.plan import Lattice, Signature
from connectoscope.cascade.gates import CLASSICAL
from connectoscope.cascade.ladder import find_rungs
from connectoscope.cascade.learned import learned_gate
from connectoscope.cascade.make import make_plan
from connectoscope.cascade.pilot import Candidate
from connectoscope.cascade.plan import CascadePlan
from connectoscope.cascade.run import open_directions
from connectoscope.networks.precision import best_precision
from connectoscope.networks.predictor import choose_tile
from connectoscope.segmentation.probabilities import ProbabilityMaker
from connectoscope.segmentation.setup import Setup
from connectoscope.segmentation.targets import Target
from connectoscope.volumes.geometry import Index3

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context

CELL_TILE = 2_000_000  # voxels: small enough to leave out much, large enough that halos do not eat the gain


def with_tile(setup: Setup, tile: Index3) -> Setup:
    """The same run on other tiles."""
    return replace(setup, lattice=Lattice(tile, setup.lattice.halo, setup.lattice.stride))


def with_cells(setup: Setup) -> Setup:
    """The same run on the smaller tiles of a cascade, whose cores are its cells."""
    halo, stride = setup.lattice.halo, setup.lattice.stride
    return with_tile(setup, choose_tile(setup.grid.shape, halo, stride, CELL_TILE))


def look_for(targets: Sequence[Target], voxel_nm3: float) -> Callable[[NDArray[np.uint8]], dict[str, Any]]:
    """Facts of a block: whether a part of at least a target's size floor lies in it, and which faces any part reaches."""

    def look(probabilities: NDArray[np.uint8]) -> dict[str, Any]:
        positive, reached = False, set()
        for target in targets:
            found = probabilities[target.channel] >= target.threshold
            reached |= set(open_directions(found))
            floor = target.min_volume_nm3 / voxel_nm3
            if not positive and found.any() and found.sum() >= floor:
                parts = cc3d.connected_components(np.pad(found, 1), connectivity=26)
                positive = bool(np.bincount(parts.ravel())[1:].max() >= floor)
        return {"positive": positive, "open": sorted(reached)}

    return look


def candidates(
    setup: Setup,
    targets: Sequence[Target],
    intensity: tuple[float, float],
    device: str,
    threads: int,
) -> list[Candidate]:
    """The model's own gate where its bundle has one, else the classical ones; nearest level first."""
    rungs = find_rungs(setup.grid, setup.lattice.core)
    learned = learned_gate(
        setup.bundle, targets, setup.lattice.core, intensity, device, best_precision(device), threads
    )
    if learned is not None:
        factor, gate = learned
        own = next((rung for rung in rungs if rung.factor == factor), None)
        if own is not None:
            return [(own, gate)]
    return [(rung, gate) for rung in rungs for gate in CLASSICAL]


def plan_segmentation(
    setup: Setup,
    targets: Sequence[Target],
    identity: Signature,
    context: Context,
    *,
    mask: Mask | None,
    asked: dict[str, Any],
    floor: float,
    seed: int,
) -> CascadePlan:
    """Measure a pilot and choose; see :func:`connectoscope.cascade.make.make_plan`.

    Args:
        setup: Of the one-level run.
        mask: Where to look; None: everywhere.
        asked: Parameters for who wants to run the plan.
        floor: Recall relative to one level.
    """
    cells = with_cells(setup)
    intensity = setup.intensity()
    precision = best_precision(context.device)
    look = look_for(targets, setup.voxel_nm3)

    def maker(of: Setup) -> ProbabilityMaker:
        predictor = setup.bundle.predictor(
            tile=of.lattice.tile,
            exact=of.lattice.halo == setup.bundle.halo(True),
            device=context.device,
            precision=precision,
            threads=context.threads,
        )
        return ProbabilityMaker(of.grid, of.lattice, predictor, intensity, look, mask)

    fine, best = maker(cells), maker(setup)
    gates = candidates(cells, targets, intensity, context.device, context.threads)
    return make_plan(
        "segment",
        fine,
        best,
        gates,
        setup.box,
        context,
        identity=identity,
        asked=asked,
        floor=floor,
        seed=seed,
        startup_seconds=time.monotonic() - context.began,
    )
