"""Train a model on, from its weights, by a recipe for the same outputs and voxels.

    python recipes/train_on.py RECIPE MODEL OUT --steps 3000 --learning-rate 1e-3 --seed 2

Its architecture stays; the recipe's other numbers hold, with cross-entropy alone and all patches as late in its schedule.
An interrupted training goes on from ``OUT.checkpoint``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import torch

from connectoscope.errors import ConnectoscopeError
from connectoscope.pruning.recipes import of_model
from connectoscope.training.finish import finish
from connectoscope.training.recipe import Recipe, load_recipe
from connectoscope.training.sampler import load_volume
from connectoscope.training.trainer import Trainer
from connectoscope.zoo import Bundle, find_model
from connectoscope.zoo.writing import check_new

log = logging.getLogger("train_on")


def recipe_of(asked: argparse.Namespace, bundle: Bundle) -> Recipe:
    """The recipe with the model's architecture and the schedule that was asked for."""
    recipe = of_model(load_recipe(asked.recipe), bundle, asked.out.name, asked.seed, log.warning)
    changed = {
        "steps": asked.steps,
        "learning_rate": asked.learning_rate,
        "warm_up": min(recipe.training.warm_up, asked.steps // 10),
        "choose_every": min(recipe.training.choose_every, asked.steps),
        "dice_until": 0,
    }
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changed)})


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
        check_new(asked.out, replace=False)
        bundle = find_model(asked.model)
        recipe = recipe_of(asked, bundle)
        volumes = [load_volume(recipe, entry) for entry in recipe.volumes]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(os.cpu_count() or 1)
        trainer = Trainer(recipe, volumes, device, bundle.load_network().state_dict(), bundle.hash)
        checkpoint = asked.out.with_name(asked.out.name + ".checkpoint")
        if checkpoint.exists():
            trainer.resume(checkpoint)
        trainer.run(checkpoint, lambda step, values: log.info("%d %s", step, values))
        line = f"python recipes/train_on.py RECIPE {asked.model} OUT --steps {asked.steps} "
        line += f"--learning-rate {asked.learning_rate:g} --seed {asked.seed}"
        parent = {"name": bundle.path.name, "version": bundle.card.version, "hash": bundle.hash}
        finish(
            recipe, trainer.finished_network(), volumes, trainer.progress, asked.out, device, line, log.warning,
            (*bundle.card.lineage, {"made_by": "recipes/train_on.py", "parent": parent}),
        )  # fmt: skip
        checkpoint.unlink()
    except ConnectoscopeError as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
