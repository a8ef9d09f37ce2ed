"""Plan a cascade: measure beforehand what looking coarsely first saves and what it misses (:mod:`connectoscope.cascade`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import model_validator

from connectoscope.errors import UserError
from connectoscope.paths import expanded
from connectoscope.tasks.base import MenuEntry, Searching, Task, checked_by, open_source, parameter

if TYPE_CHECKING:
    from connectoscope.cascade.plan import CascadePlan
    from connectoscope.jobs.context import Context


def _check_plan_name(text: str) -> None:
    name = expanded(text).name
    if not name.endswith(".cascade.json"):
        raise UserError(f"{name or text}: a plan is named NAME.cascade.json")


class PlanCascade(Searching):
    """Levels and thresholds of a cascade, for a model or a detector on one volume."""

    source: str = parameter(role="source", argument=True, help="Volume: file, folder, URL or sample:NAME.")
    destination: Annotated[str, checked_by(_check_plan_name)] = parameter(
        role="destination", argument=True, help="Plan to write: NAME.cascade.json."
    )
    model: str | None = parameter(
        None, role="model", help="Plan for 'segment' with this model (or give --detector)."
    )
    target: tuple[str, ...] = parameter(
        (), help="Outputs of the model to look for (repeat for several), as for 'segment'."
    )
    detector: Literal["cells"] | None = parameter(
        None, help="Plan for 'detect' with this detector (or give --model)."
    )
    diameter: float = parameter(14.0, gt=0, unit="µm", help="Diameter of the cells, as for 'detect'.")
    threshold: float | None = parameter(
        None,
        gt=0,
        advanced=True,
        help="Threshold of the model (a probability, 1-255) or of the detector (multiples of the noise). Default: theirs.",
    )
    min_volume: float | None = parameter(
        None,
        ge=0,
        unit="nm³",
        advanced=True,
        label="Smallest object",
        help="Smallest volume of an object, as for 'segment'.",
    )
    exact: bool = parameter(
        False, advanced=True, help="Read the full receptive field around each tile, as for 'segment'."
    )
    recall: float = parameter(
        0.98, gt=0, lt=1, help="Share of what would be found without a cascade that must be kept."
    )
    seed: int = parameter(0, ge=0, advanced=True, help="Random seed of the regions that are measured.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.model is None) == (self.detector is None):
            raise UserError("say what the cascade is for: either --model NAME or --detector cells")
        return self


def run(parameters: PlanCascade, context: Context) -> dict[str, Any]:
    """Measure a pilot and write the plan.

    Raises:
        UserError: unusable input or destination, a volume too small, or nothing found in the pilot.
    """
    from pathlib import Path

    from connectoscope.blockwise.destination import check_writable

    path = Path(parameters.destination)
    if path.exists() and not context.may_overwrite:
        raise UserError(f"{path} exists: choose another destination, or use --overwrite")
    check_writable(path)
    plan = _for_model(parameters, context) if parameters.model else _for_cells(parameters, context)

    from connectoscope.cascade.make import table

    context.write_now()
    plan.write(path)
    context.result(
        "plan",
        path,
        "cascade",
        text=plan.verdict,
        table=table(plan),
        task=plan.task,
        parameters=plan.parameters,
        pays=plan.pays,
    )
    predicted = plan.predicted.model_dump(mode="json")
    return {
        "task": "plan-cascade",
        "verdict": plan.verdict,
        "pays": plan.pays,
        **predicted,
        "pilot": plan.pilot,
    }


def _for_model(parameters: PlanCascade, context: Context) -> CascadePlan:
    from connectoscope.blockwise.mask import read_mask
    from connectoscope.segmentation.asked import identity_of
    from connectoscope.segmentation.cascaded import plan_segmentation
    from connectoscope.segmentation.setup import set_up
    from connectoscope.segmentation.targets import FILLED, choose_targets
    from connectoscope.volumes import open_volume
    from connectoscope.zoo import find_model

    level = parameters.threshold
    if level is not None and (level != int(level) or level > 255):
        raise UserError(f"--threshold {level:g}: for a model it must be a whole number from 1 to 255")
    volume = open_source(parameters, parameters.source)
    bundle = find_model(parameters.model or "")
    threshold = None if level is None else int(level)
    targets, _ = choose_targets(bundle.card, parameters.target, threshold, parameters.min_volume)
    if not targets:
        raise UserError(
            f"model '{bundle.card.name}' makes no objects of these targets, so there is nothing to look for; "
            "choose another --target"
        )
    if any(target.evidence for target in targets):
        raise UserError(f"{FILLED}; choose another --target")
    setup = set_up(volume, bundle, box=parameters.box, level=parameters.level, exact=parameters.exact)
    mask = None if parameters.within is None else open_volume(parameters.within)
    within = None if mask is None else read_mask(mask, setup.grid)
    for text in [*setup.warnings(), *([] if within is None else within.told(setup.grid, setup.box))]:
        context.warn(text)
    asked = _asked(parameters, "detector", "diameter")
    return plan_segmentation(
        setup,
        targets,
        identity_of(setup, targets, parameters.exact, mask),
        context,
        mask=within,
        asked=asked if threshold is None else asked | {"threshold": threshold},
        floor=parameters.recall,
        seed=parameters.seed,
    )


def _for_cells(parameters: PlanCascade, context: Context) -> CascadePlan:
    from connectoscope.blockwise.mask import read_mask
    from connectoscope.detection.cascaded import plan_detection
    from connectoscope.detection.run import search_for
    from connectoscope.tasks.detect import Detect
    from connectoscope.volumes import open_volume

    if parameters.target or parameters.min_volume is not None or parameters.exact:
        raise UserError("--target, --min-volume and --exact are for --model; leave them out")
    asked = _asked(parameters, "target", "model", "min_volume", "exact")
    detect = Detect(**asked, destination="-.csv")
    volume = open_source(parameters, parameters.source)
    search = search_for(
        volume, box=detect.box, level=detect.level, diameter=detect.diameter, threshold=detect.threshold
    )
    mask = None if parameters.within is None else open_volume(parameters.within)
    within = None if mask is None else read_mask(mask, search.grid)
    for text in [*volume.warnings, *([] if within is None else within.told(search.grid, search.box))]:
        context.warn(text)
    return plan_detection(
        search,
        search.noise(context.threads),
        search.identity(mask),
        context,
        mask=within,
        asked=asked,
        floor=parameters.recall,
        seed=parameters.seed,
    )


def _asked(parameters: PlanCascade, *without: str) -> dict[str, Any]:
    """Parameters of the run that the plan is for."""
    return parameters.model_dump(exclude={"destination", "recall", "seed", *without}, exclude_none=True)


def render(summary: dict[str, Any]) -> str:
    """The verdict, and the figures behind it."""
    pilot = summary["pilot"]
    return (
        f"{summary['verdict']}\n"
        f"Pilot: {pilot['cells']} of {summary['cells']} regions, {pilot['positives']} with objects, "
        f"{pilot['seconds']:.0f} seconds"
    )


TASK = Task(
    name="plan-cascade",
    summary="Predict what a cascade would save and miss on a volume.",
    parameters=PlanCascade,
    run=run,
    destination="destination",
    ending=lambda values: ".cascade.json",
    menu=(
        MenuEntry("Detect", "Plan a cascade for cells", {"detector": "cells"}),
        MenuEntry("Detect", "Plan a cascade for synapses", {"model": "synapse-vnc", "target": ("synapses",)}),
    ),
    render=render,
)
