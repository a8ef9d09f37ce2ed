"""Train a network by a recipe and make a bundle of it (:mod:`connectoscope.training`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectoscope.tasks.base import Parameters, Task, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class Train(Parameters):
    """A model from labelled volumes."""

    recipe: str = parameter(role="recipe", argument=True, help="Recipe: a TOML file, see recipes/.")
    destination: str = parameter(
        role="new_model", argument=True, help="New model: a folder, or a bare name among your own models."
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
    from connectoscope.xray2em.training import XrayTrainer
    from connectoscope.zoo.bundle import check_new

    recipe = load_recipe(Path(parameters.recipe))
    out = Path(parameters.destination)
    check_new(out, replace=context.overwrite or context.resumed)
    torch.set_num_threads(context.threads)
    if recipe.xray is not None:
        trainer: Trainer = XrayTrainer(recipe, recipe.xray, context.device)
    else:
        trainer = Trainer(recipe, [load_volume(recipe, entry) for entry in recipe.volumes], context.device)
    checkpoint = context.scratch / "checkpoint.safetensors"
    if checkpoint.exists():
        trainer.resume(checkpoint)
        context.log(f"goes on from step {trainer.progress.step}")

    def report(step: int, values: dict[str, float]) -> None:
        context.metric("training", step, **values)
        context.progress(step, recipe.training.steps, "training")
        context.check_cancelled()

    trainer.run(checkpoint, report)
    if isinstance(trainer, XrayTrainer):
        bundle = finish_xray(trainer, trainer.finished_network(), out)
        scores = {"scores": {s.metric: s.value for s in bundle.card.scores}}
    else:
        network = trainer.finished_network()
        bundle = finish(recipe, network, trainer.volumes, trainer.progress, out, context.device)
        scores = {"average_precision": {s.metric.split()[0]: s.value for s in bundle.card.scores}}
    if bundle.card.signature is None and recipe.xray is None:
        context.warn(
            "the model has no signature of its training data, by which 'adapt rank' could judge it: "
            "the volumes are too small or state no voxel size"
        )
    context.result("model", bundle.path, recipe.name)
    return {
        "task": "train",
        "model": str(bundle.path),
        "seconds": trainer.progress.seconds,
        "steps": trainer.progress.step,
        "chosen_step": trainer.progress.best_step,
        **scores,
        "halo": bundle.card.halo.practical,
        "warnings": context.warnings,
    }


TASK = Task(
    name="train",
    summary="Train a model by a recipe.",
    parameters=Train,
    run=run,
    destination="destination",
)
