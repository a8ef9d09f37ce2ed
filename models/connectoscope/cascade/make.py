"""From a pilot to a plan, its verdict and its plot; and from a plan back to gates that run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from connectoscope.blockwise.plan import Lattice, Signature
from connectoscope.cascade.pilot import Candidate, Fine, Pilot, take_pilot
from connectoscope.cascade.plan import CascadePlan, GatePlan, Prediction
from connectoscope.cascade.planner import Option, Planner, one_level, upper_bound
from connectoscope.cascade.run import Cascade, Step
from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.volumes.geometry import Box
from connectoscope.words import duration


def make_plan(
    task: Literal["segment", "detect"],
    fine: Fine,
    best: Fine,
    gates: Sequence[Candidate],
    box: Box,
    context: Context,
    *,
    identity: Signature,
    asked: dict[str, Any],
    floor: float,
    seed: int,
    startup_seconds: float,
) -> CascadePlan:
    """Measure a pilot and choose levels and thresholds by least expected time.

    Args:
        fine, best: The fine detector on the cells of a cascade, and on the tiles it would take without one.
        gates: Candidates, nearest level first.
        box: What a run would make, in voxels of the grid.
        identity: What the plan is for.
        asked: Parameters for who wants to run it.
        floor: Recall relative to the one-level detector.
        startup_seconds: That passed before the first block.

    Raises:
        UserError: the volume is too small for a coarser level, or the pilot met nothing.
    """
    if not fine.blocks(box):
        raise UserError("the mask leaves nothing of the volume: there is nothing to plan")
    if not gates:
        raise UserError(
            f"the volume is too small for a cascade: its {len(fine.blocks(box))} regions have no coarser level; "
            "run it with one level (--cascade off)"
        )
    if any(rung.made for rung, _ in gates):
        context.warn(
            "the file holds no coarser level: it is averaged on the fly, which reads all of level 0; "
            "'connectoscope convert' makes levels on disk"
        )
    pilot = take_pilot(fine, best, gates, box, context, seed=seed, startup_seconds=startup_seconds)
    if not pilot.positives.any():
        raise UserError(
            f"nothing was found in the pilot ({int(pilot.children[pilot.units].sum())} of {pilot.level0_cells} regions): "
            f"with 95 % confidence at most {100 * upper_bound(pilot):.3g} % of the regions hold an object. "
            "No recall can be promised for a cascade; run with one level, or plan on a --box that holds objects"
        )
    planner = Planner(pilot, floor, seed)
    options = planner.options()
    cascades = [option for option in options if option.gates]
    offered = min(cascades, key=planner.rank)
    pays = planner.pays(offered)
    chosen = offered if pays else one_level(pilot)
    verdict = _verdict(pilot, offered, pays, floor)
    _plot(context, planner, cascades, offered, pilot)
    return CascadePlan(
        task=task,
        parameters=asked,
        identity=identity,
        core=fine.lattice.core,
        tile=fine.lattice.tile,
        gates=tuple(
            GatePlan(factor=g.rung.factor, gate=g.gate.name, threshold=t)
            for g, t in zip(chosen.gates, chosen.thresholds, strict=True)
        ),
        predicted=Prediction(
            calls=chosen.calls,
            cells=pilot.level0_cells,
            seconds=chosen.seconds,
            one_level_seconds=pilot.one_level_seconds,
            recall=chosen.recall,
            recall_interval=chosen.recall_interval,
        ),
        verdict=verdict,
        pilot={
            "seed": seed,
            "floor": floor,
            "seconds": pilot.seconds,
            "cells": int(pilot.children[pilot.units].sum()),
            "positives": int(pilot.positives.sum()),
            "effective_positives": planner.effective_positives,
            "startup_seconds": pilot.startup_seconds,
            "fine_seconds_per_call": pilot.fine_seconds,
            "best": {
                "gates": [[list(g.rung.factor), g.gate.name] for g in offered.gates],
                "thresholds": list(offered.thresholds),
                "seconds": offered.seconds,
                "recall": offered.recall,
                "recall_interval": list(offered.recall_interval),
                "floor_held": offered.enough,
                "gate_seconds_per_call": [g.seconds for g in offered.gates],
            },
            "theory": planner.theory(offered),
        },
    )


def _verdict(pilot: Pilot, option: Option, pays: bool, floor: float) -> str:
    low, high = option.recall_interval
    saved = f"{duration(option.seconds)} instead of {duration(pilot.one_level_seconds)}"
    if not pays:
        share = 100 * pilot.weights @ pilot.positives / (pilot.weights @ pilot.children[pilot.units])
        return (
            f"A cascade is not worth it here: objects lie in {share:.3g} % of the regions, and the best one would take "
            f"{saved}. One level is the better choice."
        )
    kept = "all" if low > 0.9995 else f"{100 * low:.3g} to {100 * high:.3g} %"
    text = f"A cascade will take {saved} and should keep {kept} of what the full detector finds."
    if not option.enough:
        text += (
            f" The pilot saw {int(pilot.children[pilot.units].sum())} of {pilot.level0_cells} regions, "
            f"{int(pilot.positives.sum())} with objects: too few to promise {100 * floor:g} %."
        )
    return text


def _plot(
    context: Context, planner: Planner, cascades: Sequence[Option], chosen: Option, pilot: Pilot
) -> None:
    """Time against recall: the front of the best cascade and of the fastest others."""
    shown = {_label(chosen): chosen} | {
        _label(option): option for option in sorted(cascades, key=lambda o: o.seconds)[:3]
    }
    series = {label: planner.curve(option.gates) for label, option in shown.items()}
    point = (chosen.seconds / pilot.one_level_seconds, chosen.recall)
    series[_label(chosen)] = sorted({*series[_label(chosen)], point})
    context.plot(
        "time against recall",
        series,
        x="time relative to one level",
        y="recall relative to one level",
        marked={"chosen": point},
    )


def _label(option: Option) -> str:
    return ", ".join(f"{g.gate.name} at {'×'.join(map(str, g.rung.factor))}" for g in option.gates)


def table(plan: CascadePlan) -> list[list[str]]:
    """What is predicted, as rows (what, one level, cascade) for people."""
    p = plan.predicted
    return [
        ["time", duration(p.one_level_seconds), duration(p.seconds)],
        ["calls of the detector", f"{p.cells}", f"{p.calls[0]:.0f}"],
        *(
            [f"calls of the gate '{g.gate}' at {'×'.join(map(str, g.factor))}", "0", f"{n:.0f}"]
            for g, n in zip(plan.gates, p.calls[1:], strict=True)
        ),
        [
            "recall relative to one level",
            "100 %",
            f"{100 * p.recall:.1f} % ({100 * p.recall_interval[0]:.1f}–{100 * p.recall_interval[1]:.1f})",
        ],
    ]


def cascade_of(plan: CascadePlan, gates: Sequence[Candidate], lattice: Lattice) -> Cascade:
    """The gates of a plan, ready to run.

    Args:
        gates: Candidates, as for the plan.

    Raises:
        UserError: one of the plan's gates is not there any more.
    """
    there = {(rung.factor, gate.name): (rung, gate) for rung, gate in gates}
    steps = []
    for wanted in reversed(plan.gates):
        found = there.get((wanted.factor, wanted.gate))
        if found is None:
            raise UserError(
                f"the plan's gate '{wanted.gate}' at {'×'.join(map(str, wanted.factor))} is not there any more; "
                "plan again with 'connectoscope plan-cascade'"
            )
        steps.append(Step(*found, wanted.threshold))
    return Cascade(lattice, steps)
