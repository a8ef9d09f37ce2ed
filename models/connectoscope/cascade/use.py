"""A cascade in a run: the plan that it is given or makes, what of it decides the result, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from connectoscope.blockwise.destination import make_image
from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.plan import Lattice, Place, Signature
from connectoscope.cascade.plan import CascadePlan, check_plan, read_plan
from connectoscope.cascade.run import cell_map, map_image
from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.volumes.geometry import Box

FLOOR = 0.98  # of the one-level recall, that a cascade of --cascade auto is to keep; it warns where that is not sure


def given_plan(cascade: str, basis: Signature) -> CascadePlan | None:
    """The plan file that ``--cascade`` names; None for off and auto.

    Raises:
        UserError: there is none, or it was made for something else than ``basis``.
    """
    if cascade in ("off", "auto"):
        return None
    path = Path(cascade)
    plan = read_plan(path)
    check_plan(path, plan, basis)
    return plan


def kept_plan(
    context: Context, basis: Signature, make: Callable[[], CascadePlan], unfinished: Path | None
) -> CascadePlan:
    """The plan of ``--cascade auto``: made once, and kept with the job so that resuming uses the same.

    Args:
        basis: What it has to be of.
        unfinished: The result that an earlier run with a plan of its own has begun; None: there is none.

    Raises:
        UserError: that plan is gone. Another one may leave out other parts.
    """
    path = context.folder / "auto.cascade.json"
    if path.exists() and (plan := read_plan(path)).differs_from(basis) is None:
        return plan
    if unfinished is not None:
        raise UserError(
            f"{unfinished} is unfinished, and its job folder, which held the plan of its cascade, is gone: "
            "use --overwrite to start over"
        )
    plan = make()
    plan.write(path)
    if not told_of_plan(plan, "auto"):
        context.log(plan.verdict)
    return plan


def told_of_plan(plan: CascadePlan | None, cascade: str) -> list[str]:
    """What a run warns of: that it does not use the plan, or uses one that nobody has seen and that promises too little."""
    if plan is None or (plan.pays and (plan.promised or cascade != "auto")):
        return []
    return [plan.verdict]


def signed(basis: Signature, cascade: str, plan: CascadePlan | None) -> Signature:
    """``basis`` with what of the cascade decides the result."""
    if plan is None:
        return basis | {"cascade": None if cascade == "off" else cascade}
    gates = [gate.model_dump(mode="json") for gate in plan.gates]
    return basis | {"cascade": json.dumps([list(plan.tile), gates])}


def facts(plan: CascadePlan, calls: list[int], woken: int) -> dict[str, Any]:
    """What ``--json`` says: predicted and measured calls at each level, level 0 first, and predicted seconds."""
    predicted = plan.predicted
    return {
        "calls": calls,
        "calls_predicted": [round(n, 1) for n in predicted.calls],
        "woken": woken,
        "cells": predicted.cells,
        "seconds_predicted": round(predicted.seconds, 1),
        "one_level_seconds_predicted": round(predicted.one_level_seconds, 1),
        "recall_predicted": [round(r, 4) for r in predicted.recall_interval],
    }


def write_map(
    path: Path,
    lattice: Lattice,
    box: Box,
    grid: Grid,
    cells: set[Place],
    accepted: set[Place],
    woken: set[Place],
    context: Context,
) -> None:
    """Write what was done with each cell of ``box`` as a label image, and tell of it as a result."""
    first, values = cell_map(lattice, box, cells, accepted, woken)
    spec = map_image(values, first, lattice.core, grid)
    make_image(path, spec, context.scratch)[0].write(values).result()
    context.result("labels", path, "cascade")
