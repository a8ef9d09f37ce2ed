"""Prune a model: keep the connections that are worth keeping, by what its units do (:mod:`connectoscope.pruning`).

Training goes on with masks that follow the rule; then channels that do nothing are removed. The original model stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import model_validator

from connectoscope.errors import UserError
from connectoscope.paths import expanded
from connectoscope.tasks.base import MenuEntry, NewModel, Parameters, Task, checked_by, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.networks.unet3d import UNet3d
    from connectoscope.training.recipe import Recipe
    from connectoscope.zoo import Bundle

TIMED = (64, 1024, 1024)  # voxels of the volume whose tile is timed for the receipt


def _check_page(text: str) -> None:
    page = expanded(text)
    if page.suffix != ".html" or page.is_dir():
        raise UserError(f"{page.name or text}: the report is a page; name it NAME.html")


class Prune(Parameters):
    """A smaller model from a model and labelled data."""

    model: str = parameter(role="model", argument=True, help="Model: a name from 'models list' or a folder.")
    destination: NewModel = parameter(
        role="new_model", argument=True, help="New model: a folder, or a bare name among your own models."
    )
    data: str = parameter(
        role="recipe", label="Recipe", help="Recipe (TOML) that names the volumes and labels for retraining."
    )
    rule: Literal["budgeted-broadcast", "magnitude", "shuffled", "reversed", "rigl", "set"] = parameter(
        "budgeted-broadcast",
        help="Which connections are kept: by activity (budgeted-broadcast), or for comparison the strongest (magnitude), "
        "by shuffled or reversed activity, or as RigL or SET choose.",
    )
    actuator: Literal["in", "out", "both"] = parameter(
        "out",
        help="Which connections a unit's activity limits: those that it receives (in), sends (out), or both.",
    )
    density: float = parameter(0.3, gt=0, le=1, help="Share of the connections that is kept.")
    structured: bool = parameter(
        False, help="Remove whole channels, so that the model becomes faster on every device."
    )
    steps: int = parameter(600, ge=50, help="Training steps in total.")
    report: Annotated[str | None, checked_by(_check_page)] = parameter(
        None,
        role="page",
        advanced=True,
        help="Also write a report (before and after, balance of the units, layers) as a web page: NAME.html.",
    )
    seed: int = parameter(0, ge=0, advanced=True, help="Random seed.")

    @property
    def limits_activity(self) -> bool:
        """Whether ``actuator`` has a part in what stays."""
        return not self.structured and self.rule in ("budgeted-broadcast", "shuffled", "reversed")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.actuator != "out" and not self.limits_activity:
            what = "whole channels" if self.structured else f"rule {self.rule}"
            raise UserError(f"--actuator {self.actuator} has no part in pruning by {what}: leave it out")
        return self


def run(parameters: Prune, context: Context) -> dict[str, Any]:
    """Train on with masks, compact, measure before and after, write the bundle.

    Goes on from the job's checkpoint, exactly, where there is one.

    Raises:
        UserError: destination exists, recipe and model do not go together, or the density cannot be reached.
    """
    from pathlib import Path

    import torch

    from connectoscope.blockwise.destination import check_writable, write_file
    from connectoscope.networks.fold import fold_batch_norm
    from connectoscope.networks.predictor import choose_tile
    from connectoscope.pruning.compact import compacted
    from connectoscope.pruning.pruner import Pruner, Schedule
    from connectoscope.pruning.rates import OnRates, watching_likeness
    from connectoscope.pruning.receipt import figures, rows
    from connectoscope.pruning.report import report_html
    from connectoscope.training.finish import as_shipped, finish
    from connectoscope.training.recipe import load_recipe
    from connectoscope.training.sampler import load_volume
    from connectoscope.training.trainer import Trainer, score_planes
    from connectoscope.zoo import find_model
    from connectoscope.zoo.writing import check_new

    out = Path(parameters.destination)
    check_new(out, replace=context.overwrite or context.resumed)
    page = None if parameters.report is None else Path(parameters.report)
    if page is not None:
        check_writable(page)
        if page.exists() and not (context.overwrite or context.resumed):
            raise UserError(f"{page} exists; choose another name for the report, or --overwrite")
    bundle = find_model(parameters.model)
    if out.resolve() == bundle.path.resolve():
        raise UserError(f"{out} is the model itself, which is never changed; choose another name")
    parent = bundle.load_network()
    recipe = _recipe(load_recipe(Path(parameters.data)), bundle, out.name, parameters, context)
    torch.set_num_threads(context.threads)
    volumes = [load_volume(recipe, entry) for entry in recipe.volumes]
    for volume in volumes:
        for text in volume.warnings:
            context.warn(text)
    teacher = fold_batch_norm(parent).to(context.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    # Whole channels are chosen early, so that most updates are those of the small network, which is fast.
    masked = max(parameters.steps // 10, 20) if parameters.structured else parameters.steps
    trainer = Trainer(shortened(recipe, masked), volumes, context.device, parent.state_dict(), bundle.hash)
    trainer.teacher = teacher
    pruner = trainer.pruner = Pruner(
        trainer.network,
        Schedule(masked, warm_up=max(masked // 6, 1), every=max(min(100, masked // 6), 1)),
        parameters.rule,
        parameters.density,
        actuator=parameters.actuator,
        structured=parameters.structured,
        seed=parameters.seed,
    )
    pruner.check()

    def train(trainer: Trainer, name: str, before: int) -> None:
        checkpoint = context.scratch / f"{name}.safetensors"
        if checkpoint.exists():
            trainer.resume(checkpoint)
            context.log(f"goes on from step {before + trainer.progress.step}")

        def report(step: int, values: dict[str, float]) -> None:
            chosen = {k.removeprefix("choose/"): v for k, v in values.items() if k.startswith("choose/")}
            if chosen:
                context.metric("accuracy on the choosing planes", before + step, chosen)
                units: dict[str, Any] = pruner.balance()
                context.plot("balance", units, x="log((1 − a) / a)", y="fan-out")
            else:
                context.metric("loss", before + step, values)
                context.metric("units", before + step, pruner.figures())
            context.progress(before + step, parameters.steps, "pruning")
            context.check_cancelled()

        trainer.run(checkpoint, report)

    train(trainer, "checkpoint", 0)
    network, progress = compacted(as_shipped(trainer.finished_network())), trainer.progress
    if parameters.structured:
        small = of_widths(recipe, network)
        trainer = Trainer(
            shortened(small, parameters.steps - masked),
            volumes,
            context.device,
            network.state_dict(),
            bundle.hash,
        )
        trainer.teacher = teacher
        train(trainer, "compacted", masked)
        network, progress = as_shipped(trainer.finished_network()), trainer.progress.after(progress)
    bundle_recipe = of_widths(trainer.recipe, network)  # as it ran, of whole channels the second part
    tile = choose_tile(TIMED, bundle.card.halo.practical, bundle.card.stride)
    sides = {}
    for name, side in (("before", parent), ("after", network)):
        side.to(context.device)
        rates = OnRates(side)
        with rates.watching(), watching_likeness(side) as likeness:
            curves = score_planes(side, recipe, volumes, "choose", context.device)
        sides[name] = figures(side, curves, rates.values(), likeness, tile, context.device)
    card = bundle.card
    lineage = (
        *card.lineage,
        {
            "made_by": "prune",
            "parent": {"name": bundle.path.name, "version": card.version, "hash": bundle.hash},
            **_asked(parameters),
            "receipt": sides,
        },
    )
    made = finish(
        bundle_recipe,
        network,
        volumes,
        progress,
        out,
        context.device,
        _line(bundle.path.name, parameters),
        context.warn,
        lineage,
    )
    if page is not None:
        masks = {name: mask.cpu().numpy() for name, mask in pruner.masks.items()}
        title = f"{made.card.name}, pruned from {bundle.path.name}"
        text = report_html(
            title, _asked(parameters), rows(**sides), pruner.wiring, masks, pruner.rates.values()
        )
        write_file(page, text.encode())
    context.result(
        "model",
        made.path,
        made.card.name,
        text=_verdict(sides),
        table=rows(**sides),
        task="segment",
        parameters={"model": made.reference},
    )
    return {
        "task": "prune",
        "model": str(made.path),
        "steps": progress.step,
        "chosen_step": progress.best_step,
        "receipt": sides,
        "warnings": context.warnings,
    }


def _recipe(recipe: Recipe, bundle: Bundle, name: str, parameters: Prune, context: Context) -> Recipe:
    """The recipe with the model's architecture, voxel size and licence, and the new name and seed.

    The weights are the model's: its licence goes along, and its data's licences stand before those of the recipe.

    Raises:
        UserError: it has other outputs, another voxel size or other intensities than the model.
    """
    import numpy as np

    from connectoscope.volumes.geometry import sizes_text

    card = bundle.card
    own, wanted = [o.name for o in recipe.outputs], [o.name for o in card.outputs]
    if own != wanted:
        raise UserError(
            f"recipe {parameters.data} has labels for {', '.join(own)}, model '{card.name}' makes "
            f"{', '.join(wanted)}: they must be the same, in this order"
        )
    seen, size = recipe.inputs.voxel_size, card.inputs.voxel_size
    if not np.allclose(seen, size, rtol=0.01):
        raise UserError(
            f"recipe {parameters.data} is for voxels of {sizes_text(seen)} nm, model '{card.name}' sees {sizes_text(size)}: "
            f"write voxel_size = {list(size)} into the recipe"
        )
    scale = (card.inputs.normalisation.low, card.inputs.normalisation.high)
    if recipe.inputs.percentiles != scale:
        raise UserError(
            f"recipe {parameters.data} scales intensities by the percentiles {_both(recipe.inputs.percentiles)}, "
            f"model '{card.name}' by {_both(scale)}: write percentiles = {list(scale)} into the recipe"
        )
    if recipe.licence != card.licence:
        context.warn(
            f"the licence stays the model's, {card.licence}; recipe {parameters.data} says {recipe.licence}: "
            "check that both allow what you will do with the new model"
        )
    return recipe.model_copy(
        update={
            "name": name,
            "seed": parameters.seed,
            "architecture": recipe.architecture.model_copy(
                update={"name": card.architecture.name, "arguments": card.architecture.arguments}
            ),
            "inputs": recipe.inputs.model_copy(update={"voxel_size": size}),
            "licence": card.licence,
            "data_licences": tuple(dict.fromkeys((*card.data_licences, *recipe.data_licences))),
            "neurons": recipe.neurons or card.neurons,
            "sampling": recipe.sampling.model_copy(update={"plain_from": 0}),
        }
    )


def _both(values: tuple[float, float]) -> str:
    return f"{values[0]:g} and {values[1]:g}"


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with a short schedule from half its learning rate, for weights that are nearly right."""
    training = recipe.training
    short = training.model_copy(
        update={
            "steps": steps,
            "learning_rate": training.learning_rate / 2,
            "warm_up": min(training.warm_up, steps // 10),
            "choose_every": min(max(steps // 10, 1), training.choose_every),
            "dice_until": 0,
            "average": min(training.average, 1 - 20 / max(steps, 40)),
        }
    )
    return recipe.model_copy(update={"training": short})


def of_widths(recipe: Recipe, network: UNet3d) -> Recipe:
    """The recipe for a network with fewer channels."""
    arguments = network.arguments.to_json()
    architecture = recipe.architecture.model_copy(update={"arguments": arguments})
    return recipe.model_copy(update={"architecture": architecture})


def _asked(parameters: Prune, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """What was asked, as far as it has a part in the result."""
    unused = set() if parameters.limits_activity else {"actuator"}
    return parameters.model_dump(
        exclude={"destination", "model", "data", "report", *unused}, exclude_defaults=exclude_defaults
    )


def _line(model: str, parameters: Prune) -> str:
    """The command for the card; the recipe and the new model lie elsewhere on every machine."""
    chosen = _asked(parameters, exclude_defaults=True)
    chosen.pop("structured", None)
    words = [f"--{name} {value}" for name, value in chosen.items()] + ["--structured"] * parameters.structured
    return " ".join([f"connectoscope prune {model} OUT --data RECIPE", *words])


def _verdict(sides: dict[str, Any]) -> str:
    """The receipt in a sentence."""
    before, after = sides["before"], sides["after"]
    faster = before["seconds_per_megavoxel"] / after["seconds_per_megavoxel"]
    change = [after["average_precision"][name] - old for name, old in before["average_precision"].items()]
    return (
        f"{faster:.1f} times as fast, {after['parameters'] / before['parameters']:.0%} of the parameters, "
        f"average precision {sum(change) / len(change):+.3f} in the mean of the outputs."
    )


def render(summary: dict[str, Any]) -> str:
    """The receipt."""
    from connectoscope.pruning.receipt import rows

    table = [["", "before", "after"], *rows(**summary["receipt"])]
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    lines = ["  ".join((r[0].ljust(widths[0]), r[1].rjust(widths[1]), r[2].rjust(widths[2]))) for r in table]
    return "\n".join([summary["model"], _verdict(summary["receipt"]), *lines])


TASK = Task(
    name="prune",
    summary="Make a model smaller and faster by removing connections or channels.",
    parameters=Prune,
    run=run,
    destination="destination",
    menu=(MenuEntry("Models", "Prune", {"model": "synapse-vnc"}),),
    render=render,
)
