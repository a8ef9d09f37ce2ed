"""A search for cells behind a cascade: its cells, its gates, and its plan (:mod:`connectoscope.cascade`)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from connectoscope.blockwise.mask import Mask
from connectoscope.blockwise.plan import Lattice, Signature
from connectoscope.cascade.gates import CLASSICAL
from connectoscope.cascade.ladder import find_rungs
from connectoscope.cascade.make import make_plan
from connectoscope.cascade.pilot import Candidate
from connectoscope.cascade.plan import CascadePlan
from connectoscope.volumes.geometry import Index3

if TYPE_CHECKING:
    from connectoscope.detection.run import Search
    from connectoscope.jobs.context import Context

CELL = 48  # voxels a side of a cascade's cells: small enough to leave out much, large against the halo


def cell_core(shape: Index3) -> Index3:
    """Core of a cascade's cells on a grid of that shape."""
    z, y, x = (min(CELL, n) for n in shape)
    return (z, y, x)


def candidates(search: Search, lattice: Lattice) -> list[Candidate]:
    """The classical gates at each coarser level, nearest first: cells are bright."""
    return [(rung, gate) for rung in find_rungs(search.grid, lattice.core) for gate in CLASSICAL]


def plan_detection(
    search: Search,
    noise: list[float],
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
        noise: The unit of the threshold.
        mask: Where to look; None: everywhere.
        asked: Parameters for who wants to run the plan.
        floor: Recall relative to one level.
    """
    fine = search.detector(noise, cell_core(search.grid.shape), context.threads, mask)
    best = search.detector(noise, None, context.threads, mask)
    return make_plan(
        "detect",
        fine,
        best,
        candidates(search, fine.lattice),
        search.box,
        context,
        identity=identity,
        asked=asked,
        floor=floor,
        seed=seed,
        startup_seconds=time.monotonic() - context.began,
    )
