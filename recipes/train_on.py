"""Train a model on, from its weights, by a recipe for the same outputs and voxels; keep the best weights for each output.

    python recipes/train_on.py RECIPE MODEL OUT --steps 3000 --learning-rate 1e-3 --seed 2

OUT/NAME becomes the model with the averaged weights that were best for the output NAME on the choosing planes: one output may
begin to suffer while another still improves. ``join_models.py`` makes one model of them. The architecture stays; the recipe's
other numbers hold, with cross-entropy alone and all patches as late in its schedule. An interrupted training goes on from OUT.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from connectoscope.errors import ConnectoscopeError
from connectoscope.pruning.recipes import of_model
from connectoscope.training.finish import finish
from connectoscope.training.recipe import Recipe, load_recipe
from connectoscope.training.sampler import load_volume
from connectoscope.training.trainer import Trainer
from connectoscope.zoo import Bundle, find_model

CHOOSE_EVERY = 250  # updates
log = logging.getLogger("train_on")


def recipe_of(recipe: Recipe, bundle: Bundle, steps: int, learning_rate: float, seed: int) -> Recipe:
    """The recipe with the model's architecture and the schedule that was asked for."""
    recipe = of_model(recipe, bundle, recipe.name, seed, log.warning)
    changed = {
        "steps": steps,
        "learning_rate": learning_rate,
        "warm_up": steps // 30,
        "choose_every": min(CHOOSE_EVERY, steps),
        "dice_until": 0,
    }
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changed)})


class BestForEach:
    """Keeps averaged weights in files; told of each choosing."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder

    def __call__(self, step: int, values: dict[str, float]) -> None:
        log.info("%d %s", step, values)
        for output in self.trainer.recipe.outputs:
            key = f"choose/{output.name}"
            if key in values and values[key] >= max(row[key] for row in self.trainer.progress.curve):
                weights = {k: v.contiguous() for k, v in self.trainer.average.items()}
                save_file(weights, self.folder / f"{output.name}.safetensors")

    def write(self, bundle: Bundle, line: str) -> None:
        """A bundle for each output."""
        trainer, progress = self.trainer, self.trainer.progress
        parent = {"name": bundle.path.name, "version": bundle.card.version, "hash": bundle.hash}
        for output in trainer.recipe.outputs:
            name = output.name
            best = max(progress.curve, key=lambda row: (row[f"choose/{name}"], row["step"]))
            trainer.best = {
                k: v.to(trainer.device) for k, v in load_file(self.folder / f"{name}.safetensors").items()
            }
            facts = {"made_by": "recipes/train_on.py", "parent": parent, "best_for": name}
            finish(
                trainer.recipe, trainer.finished_network(), trainer.volumes, replace(progress, best_step=int(best["step"])),
                self.folder / name, trainer.device, line, log.warning, (*bundle.card.lineage, facts),
            )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("model", help="name or folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        bundle = find_model(asked.model)
        recipe = recipe_of(load_recipe(asked.recipe), bundle, asked.steps, asked.learning_rate, asked.seed)
        volumes = [load_volume(recipe, entry) for entry in recipe.volumes]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(os.cpu_count() or 1)
        trainer = Trainer(recipe, volumes, device, bundle.load_network().state_dict(), bundle.hash)
        asked.out.mkdir(exist_ok=True)
        checkpoint = asked.out / "checkpoint.safetensors"
        if checkpoint.exists():
            trainer.resume(checkpoint)
        keep = BestForEach(trainer, asked.out)
        trainer.run(checkpoint, keep)
        line = f"python recipes/train_on.py {asked.recipe} {asked.model} OUT --steps {asked.steps}"
        keep.write(bundle, f"{line} --learning-rate {asked.learning_rate:g} --seed {asked.seed}")
    except ConnectoscopeError as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
