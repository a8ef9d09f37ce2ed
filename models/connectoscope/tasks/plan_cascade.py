"""Plan a cascade: measure beforehand what looking coarsely first saves and what it misses (:mod:`connectoscope.cascade`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectoscope.tasks.base import MenuEntry, Searching, Task, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class PlanCascade(Searching):
    """Levels and thresholds of a cascade, for a model or a detector on one volume."""

    source: str = parameter(role="source", argument=True, help="Volume: file, folder, URL or sample:NAME.")
    destination: str = parameter(
        role="destination", argument=True, help="The plan that is made: NAME.cascade.json."
    )
    model: str | None = parameter(
        None, role="model", help="Plan for 'segment' with this model (or give --detector)."
    )
    target: tuple[str, ...] = parameter((), help="Outputs of the model that count, as for 'segment'.")
    threshold: int | None = parameter(
        None, ge=1, le=255, advanced=True, help="Foreground from this probability on, as for 'segment'."
    )
    min_volume: float | None = parameter(
        None, ge=0, unit="nm³", advanced=True, help="Size floor of objects, as for 'segment'."
    )
    exact: bool = parameter(False, advanced=True, help="As for 'segment'.")
    recall: float = parameter(
        0.98, gt=0, lt=1, help="Share of what the full detector finds that must be kept."
    )
    seed: int = parameter(0, ge=0, advanced=True, help="Of the pilot's random choice of cells.")


def run(parameters: PlanCascade, context: Context) -> dict[str, Any]:
    """Measure a pilot and write the plan.

    Raises:
        UserError: unusable input or destination, a volume too small, or nothing found in the pilot.
    """
    from pathlib import Path

    from connectoscope.blockwise.destination import check_writable
    from connectoscope.errors import UserError

    path = Path(parameters.destination)
    if not path.name.endswith(".cascade.json"):
        raise UserError(f"{path.name}: a plan is named NAME.cascade.json")
    if path.exists() and not (context.overwrite or context.resumed):
        raise UserError(f"{path} exists: choose another destination, or use --overwrite")
    check_writable(path)
    if parameters.model is None:
        raise UserError("give what the cascade is for: --model NAME")

    from connectoscope.blockwise.mask import read_mask
    from connectoscope.cascade.make import table
    from connectoscope.segmentation.cascaded import plan_segmentation
    from connectoscope.segmentation.run import identity_of
    from connectoscope.segmentation.setup import set_up
    from connectoscope.segmentation.targets import choose_targets
    from connectoscope.volumes import open_volume
    from connectoscope.zoo import find_model

    volume = open_volume(
        parameters.source,
        channel=parameters.channel,
        time=parameters.time,
        voxel_size=parameters.voxel_size,
    )
    bundle = find_model(parameters.model)
    targets, _ = choose_targets(bundle.card, parameters.target, parameters.threshold, parameters.min_volume)
    if not targets:
        raise UserError(f"model '{bundle.card.name}' makes no objects of that: there is nothing to look for")
    setup = set_up(volume, bundle, box=parameters.box, level=parameters.level, exact=parameters.exact)
    for text in setup.warnings():
        context.warn(text)
    mask = None if parameters.within is None else open_volume(parameters.within)
    asked = parameters.model_dump(exclude={"destination", "recall", "seed"}, exclude_none=True)
    plan = plan_segmentation(
        setup,
        targets,
        identity_of(setup, targets, parameters.exact, mask),
        context,
        mask=None if mask is None else read_mask(mask, setup.grid),
        asked=asked,
        floor=parameters.recall,
        seed=parameters.seed,
    )
    plan.write(path)
    context.result(
        "plan", path, "cascade", text=plan.verdict, table=table(plan), task=plan.task, parameters=asked
    )
    predicted = plan.predicted.model_dump(mode="json")
    return {
        "task": "plan-cascade",
        "verdict": plan.verdict,
        "pays": plan.pays,
        **predicted,
        "pilot": plan.pilot,
    }


def render(summary: dict[str, Any]) -> str:
    """The verdict, and the figures behind it."""
    pilot = summary["pilot"]
    return (
        f"{summary['verdict']}\n"
        f"Pilot: {pilot['cells']} of {summary['cells']} cells, {pilot['positives']} with objects, "
        f"{pilot['seconds']:.0f} seconds"
    )


TASK = Task(
    name="plan-cascade",
    summary="Say beforehand what a cascade saves and misses on a volume.",
    parameters=PlanCascade,
    run=run,
    destination="destination",
    ending=lambda values: ".cascade.json",
    menu=(MenuEntry("Detect", "Plan a cascade", {"model": "synapse-vnc", "target": ("synapses",)}),),
    render=render,
)
