"""Train a part of a model that ``join_models.py`` makes: the best weights for each output, of a training that may end early.

    python recipes/train_parts.py RECIPE OUT [--until 1000]
    python recipes/train_parts.py RECIPE OUT --from MODEL --steps 3000 --learning-rate 1e-3 --seed 2 [--until 2000]

OUT/NAME becomes the model with the averaged weights that were best for the output NAME on the choosing planes: one output may
begin to suffer while another still improves. The first line trains as the recipe says; the second trains MODEL on: with its
architecture, cross-entropy alone and all patches as late in the recipe's schedule. An interrupted training goes on from OUT.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from connectoscope.errors import Cancelled, ConnectoscopeError, UserError
from connectoscope.pruning.recipes import of_model
from connectoscope.training.finish import finish
from connectoscope.training.recipe import Recipe, load_recipe
from connectoscope.training.sampler import load_volume
from connectoscope.training.trainer import Trainer
from connectoscope.zoo import Bundle, find_model

CHOOSE_EVERY = 250  # updates, of a model that is trained on
log = logging.getLogger("train_parts")


def recipe_of(recipe: Recipe, bundle: Bundle | None, asked: argparse.Namespace) -> Recipe:
    """The recipe for the schedule that was asked for, and with the model's architecture."""
    if bundle is None:
        return recipe
    changed = {
        "choose_every": CHOOSE_EVERY,
        "steps": asked.steps,
        "learning_rate": asked.learning_rate,
        "warm_up": asked.steps // 30,
        "dice_until": 0,
    }
    recipe = of_model(recipe, bundle, recipe.name, asked.seed, log.warning)
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changed)})


class Enough(Cancelled):
    """Ends a training before its schedule does; the trainer keeps its checkpoint first."""


class BestForEach:
    """Keeps averaged weights in files; told of each choosing. Raises Enough at that of update ``until``."""

    def __init__(self, trainer: Trainer, folder: Path, until: int) -> None:
        self.trainer, self.folder, self.until = trainer, folder, until

    def __call__(self, step: int, values: dict[str, float]) -> None:
        log.info("%d %s", step, values)
        for output in self.trainer.recipe.outputs:
            key = f"choose/{output.name}"
            if key in values and values[key] >= max(row[key] for row in self.trainer.progress.curve):
                weights = {k: v.contiguous() for k, v in self.trainer.average.items()}
                save_file(weights, self.folder / f"{output.name}.safetensors")
        if "choose/mean" in values and step >= self.until:
            raise Enough(f"update {step} is the last that was asked for")

    def write(self, output: str, bundle: Bundle | None, line: str) -> Bundle:
        """The bundle of the best weights for an output."""
        trainer, progress = self.trainer, self.trainer.progress
        best = max(progress.curve, key=lambda row: (row[f"choose/{output}"], row["step"]))
        weights = load_file(self.folder / f"{output}.safetensors")
        trainer.best = {name: value.to(trainer.device) for name, value in weights.items()}
        lineage: tuple[dict[str, Any], ...] = ()
        if bundle is not None:
            parent = {"name": bundle.path.name, "version": bundle.card.version, "hash": bundle.hash}
            lineage = (*bundle.card.lineage, {"made_by": "recipes/train_parts.py", "parent": parent})
        return finish(
            trainer.recipe, trainer.finished_network(), trainer.volumes, replace(progress, best_step=int(best["step"])),
            self.folder / output, trainer.device, line, log.warning, lineage,
        )  # fmt: skip


def command_of(asked: argparse.Namespace) -> str:
    line = f"python recipes/train_parts.py {asked.recipe} OUT"
    if asked.model:
        line += f" --from {asked.model} --steps {asked.steps} --learning-rate {asked.learning_rate:g} --seed {asked.seed}"
    return line + (f" --until {asked.until}" if asked.until else "")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--until", type=int, help="last update, one at which weights are scored; default: all of them"
    )
    parser.add_argument("--from", dest="model", help="name or folder")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    if asked.model and not (asked.steps and asked.steps > 0 and asked.learning_rate):
        parser.error("--from needs --steps and --learning-rate")
    if not asked.model and (asked.steps, asked.learning_rate, asked.seed) != (None, None, None):
        parser.error("--steps, --learning-rate and --seed are the recipe's, unless there is --from")
    asked.seed = asked.seed or 0
    return asked


def main() -> int:
    asked = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        bundle = find_model(asked.model) if asked.model else None
        recipe = recipe_of(load_recipe(asked.recipe), bundle, asked)
        until, every = asked.until or recipe.training.steps, recipe.training.choose_every
        if asked.until is not None and (until < 1 or (until % every and until != recipe.training.steps)):
            raise UserError(
                f"--until {until}: weights are scored and kept every {every} updates, and after the last"
            )
        asked.out.mkdir(parents=True, exist_ok=True)
        volumes = [load_volume(recipe, entry) for entry in recipe.volumes]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(os.cpu_count() or 1)
        parent = (bundle.load_network().state_dict(), bundle.hash) if bundle is not None else ()
        trainer = Trainer(recipe, volumes, device, *parent)
        checkpoint = asked.out / "checkpoint.safetensors"
        if checkpoint.exists():
            trainer.resume(checkpoint)
        if trainer.progress.step > until:
            raise UserError(
                f"{asked.out} is at update {trainer.progress.step} already; choose another folder"
            )
        keep = BestForEach(trainer, asked.out, until)
        if trainer.progress.step < until:
            with contextlib.suppress(Enough):
                trainer.run(checkpoint, keep)
        for output in recipe.outputs:
            keep.write(output.name, bundle, command_of(asked))
    except ConnectoscopeError as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
