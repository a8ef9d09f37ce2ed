"""Join models of one architecture side by side in one, whose logits are weighted means of theirs. Nothing is trained.

    python recipes/join_models.py RECIPE OUT --version 2 --part LATE 0.5 1 1 --part EARLY 0.5 0 0 [--smooth 3 2 0]

RECIPE names the volumes on which thresholds, scores of the choosing planes and the practical halo are measured, and the new
model. Each part is a model, by name or folder, with its share in each output. The logits of each output are smoothed within
sections by a Gaussian of so many pixels (sigma).
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from connectoscope.errors import ConnectoscopeError
from connectoscope.pruning.join import joined
from connectoscope.pruning.recipes import of_model, of_widths
from connectoscope.training.checkpoint import Progress
from connectoscope.training.finish import finish
from connectoscope.training.recipe import load_recipe
from connectoscope.training.sampler import load_volume
from connectoscope.zoo import find_model
from connectoscope.zoo.writing import check_new

log = logging.getLogger("join_models")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--version", required=True)
    parser.add_argument("--part", nargs="+", action="append", required=True, metavar=("MODEL", "SHARE"))
    parser.add_argument("--smooth", nargs="+", type=float, metavar="PIXELS", help="default: as the parts are")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        check_new(asked.out, replace=False)
        bundles = [find_model(model) for model, *_ in asked.part]
        shares = [[float(share) for share in part[1:]] for part in asked.part]
        network = joined([bundle.load_network().eval() for bundle in bundles], shares, asked.smooth)
        recipe = load_recipe(asked.recipe)
        for bundle in bundles:
            if bundle.card.licence != bundles[0].card.licence:
                raise ValueError(f"licences differ: {', '.join(b.card.licence for b in bundles)}")
            recipe = of_model(recipe, bundle, recipe.name, recipe.seed, log.warning)
        recipe = of_widths(recipe.model_copy(update={"version": asked.version}), network)
        volumes = [load_volume(recipe, entry) for entry in recipe.volumes]
        parts = [
            {"name": b.path.name, "hash": b.hash, "shares": share, "lineage": b.card.lineage, "training": b.card.training}
            for b, share in zip(bundles, shares, strict=True)
        ]  # fmt: skip
        progress = Progress()
        progress.seconds = sum(float(bundle.card.training["seconds"]) for bundle in bundles)
        line = f"python recipes/join_models.py {asked.recipe} OUT --version {asked.version}"
        for part in asked.part:
            line += f" --part {' '.join([Path(part[0]).name, *part[1:]])}"
        if asked.smooth:
            line += f" --smooth {' '.join(f'{sigma:g}' for sigma in asked.smooth)}"
        made = finish(
            recipe, network, volumes, progress, asked.out, "cpu", line, log.warning,
            ({"made_by": "recipes/join_models.py", "parts": parts},),
        )  # fmt: skip
    except (ConnectoscopeError, ValueError) as error:
        log.error("%s", error)
        return 2
    for score in made.card.scores:
        log.info("%s %.4f (%s)", score.metric, score.value, score.split)
    return 0


if __name__ == "__main__":
    sys.exit(main())
