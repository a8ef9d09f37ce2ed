"""Train a network by a recipe and make a bundle of it (:mod:`connectoscope.training`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectoscope.errors import UserError
from connectoscope.tasks.base import MenuEntry, NewModel, Parameters, Task, parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectoscope.jobs.context import Context
    from connectoscope.training.sampler import LabelledVolume
    from connectoscope.xray2em.pairs import EmVolume


class Train(Parameters):
    """A model from labelled volumes."""

    recipe: str = parameter(role="recipe", argument=True, help="Recipe: a TOML file, see recipes/.")
    destination: NewModel = parameter(
        role="new_model", argument=True, help="New model: a folder, or a bare name among your own models."
    )
    xray: str | None = parameter(
        None,
        role="truth",
        label="X-ray volume",
        help="X-ray volume of a real pair (with --em and --transform), instead of the volumes in an X-ray to EM recipe.",
    )
    em: str | None = parameter(
        None, role="truth", label="EM volume", help="EM volume of the same tissue as --xray."
    )
    transform: str | None = parameter(
        None,
        role="recipe",
        help='Affine transform from --xray to --em (world z, y, x), JSON: {"unit": "nm", "matrix": 3 rows of 4}.',
    )


def run(parameters: Train, context: Context) -> dict[str, Any]:
    """Train to the recipe's last step; goes on from the job's checkpoint, exactly, where there is one."""
    from pathlib import Path

    import torch

    from connectoscope.training.finish import finish
    from connectoscope.training.recipe import load_recipe
    from connectoscope.training.sampler import load_volume
    from connectoscope.training.trainer import Trainer
    from connectoscope.xray2em.finish import finish as finish_xray
    from connectoscope.xray2em.real_pairs import open_pair
    from connectoscope.xray2em.training import XrayTrainer
    from connectoscope.zoo.writing import check_new

    recipe = load_recipe(Path(parameters.recipe))
    out = Path(parameters.destination)
    check_new(out, replace=context.may_overwrite)
    torch.set_num_threads(context.threads)
    given = [path for path in (parameters.xray, parameters.em, parameters.transform) if path is not None]
    if given and recipe.xray is None:
        raise UserError(
            f"--xray, --em and --transform are for X-ray to EM recipes, with a table [xray]; {recipe.name} has none"
        )
    if given and len(given) < 3:
        raise UserError("a real pair needs all of --xray, --em and --transform")
    fit: dict[str, Any] = {}
    if recipe.xray is not None:
        pair = open_pair(recipe, *given) if given else None
        learning = XrayTrainer(recipe, recipe.xray, context.device, pair)
        if pair is not None and learning.registration is not None:
            fit = {"registration": learning.registration.to_json(pair)}
            told = learning.registration.warnings(pair)
            for text in [*pair.warnings(recipe.inputs.voxel_size), *told]:
                context.warn(text)
        told_by: Sequence[EmVolume | LabelledVolume] = learning.ems
        trainer: Trainer = learning
    else:
        told_by = volumes = [load_volume(recipe, entry) for entry in recipe.volumes]
        trainer = Trainer(recipe, volumes, context.device)
    for volume in told_by:
        for text in volume.warnings:
            context.warn(text)
    checkpoint = context.scratch / "checkpoint.safetensors"
    if checkpoint.exists():
        trainer.resume(checkpoint)
        context.log(f"goes on from step {trainer.progress.step}")

    def report(step: int, values: dict[str, float]) -> None:
        context.metric("training", step, values)
        context.progress(step, recipe.training.steps, "training")
        context.check_cancelled()

    trainer.run(checkpoint, report)
    context.write_now()
    if isinstance(trainer, XrayTrainer):
        bundle = finish_xray(trainer, trainer.finished_network(), out)
        scores = {"scores": {s.metric: s.value for s in bundle.card.scores}}
    else:
        network = trainer.finished_network()
        line = "connectoscope train RECIPE OUT"
        bundle = finish(
            recipe, network, trainer.volumes, trainer.progress, out, context.device, line, context.warn
        )
        scores = {"average_precision": {s.metric.split()[0]: s.value for s in bundle.card.scores}}
    context.result("model", bundle.path, recipe.name)
    return {
        "task": "train",
        "model": str(bundle.path),
        "seconds": trainer.progress.seconds,
        "steps": trainer.progress.step,
        "chosen_step": trainer.progress.best_step,
        **scores,
        **fit,
        "halo": bundle.card.halo.practical,
        "warnings": context.warnings,
    }


TASK = Task(
    name="train",
    summary="Train a model from a recipe.",
    parameters=Train,
    run=run,
    destination="destination",
    menu=(MenuEntry("Models", "Train"),),
)
