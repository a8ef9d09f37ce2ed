"""How far logits are smoothed within sections: average precision on the choosing planes of a model's recipe, for each sigma.

    python recipes/choose_smoothing.py [MODEL ...]        default: synapse-vnc, the table of docs/models.md

Needs the data sets (docs/data.md).
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace

import torch

from connectoscope.networks.unet3d import UNet3d
from connectoscope.training.recipe import Recipe
from connectoscope.training.sampler import load_volume
from connectoscope.training.trainer import score_planes
from connectoscope.zoo import find_model

SIGMAS = (0, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6)  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["synapse-vnc"], metavar="MODEL")
    torch.set_num_threads(os.cpu_count() or 1)
    for name in parser.parse_args().models:
        model = find_model(name)
        trained = model.load_network()
        recipe = Recipe.model_validate(model.card.training["recipe"])
        volumes = [load_volume(recipe, entry) for entry in recipe.volumes]
        for sigma in SIGMAS:
            arguments = replace(trained.arguments, smooth=(sigma,) * trained.arguments.outputs)
            network = UNet3d(arguments).eval()
            network.load_state_dict(trained.state_dict())
            curves = score_planes(network, recipe, volumes, "choose", "cpu")
            figures = "  ".join(f"{o} {curve.average_precision:.4f}" for o, curve in curves.items())
            sys.stdout.write(f"{name}  sigma {sigma:g}  {figures}\n")


if __name__ == "__main__":
    main()
