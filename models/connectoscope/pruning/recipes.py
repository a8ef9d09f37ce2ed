"""The recipe of a pruning: the user's volumes and labels with the model's architecture, and shorter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from connectoscope.errors import UserError
from connectoscope.networks.unet3d import UNet3d
from connectoscope.training.recipe import Recipe
from connectoscope.volumes.geometry import sizes_text
from connectoscope.zoo import Bundle


def of_model(recipe: Recipe, bundle: Bundle, name: str, seed: int, warn: Callable[[str], None]) -> Recipe:
    """The recipe with the model's architecture, voxel size and licence, and the new name and seed.

    The weights are the model's: its licence goes along, and its data's licences stand before those of the recipe.

    Raises:
        UserError: it has other outputs, another voxel size or other intensities than the model.
    """
    card = bundle.card
    own, wanted = [o.name for o in recipe.outputs], [o.name for o in card.outputs]
    if own != wanted:
        raise UserError(
            f"recipe {recipe.name} has labels for {', '.join(own)}, model '{card.name}' makes "
            f"{', '.join(wanted)}: they must be the same, in this order"
        )
    seen, size = recipe.inputs.voxel_size, card.inputs.voxel_size
    if not np.allclose(seen, size, rtol=0.01):
        raise UserError(
            f"recipe {recipe.name} is for voxels of {sizes_text(seen)} nm, model '{card.name}' sees {sizes_text(size)}: "
            f"write voxel_size = {list(size)} into the recipe"
        )
    scale = (card.inputs.normalisation.low, card.inputs.normalisation.high)
    if recipe.inputs.percentiles != scale:
        raise UserError(
            f"recipe {recipe.name} scales intensities by the percentiles {_both(recipe.inputs.percentiles)}, "
            f"model '{card.name}' by {_both(scale)}: write percentiles = {list(scale)} into the recipe"
        )
    if recipe.licence != card.licence:
        warn(
            f"the licence stays the model's, {card.licence}; recipe {recipe.name} says {recipe.licence}: "
            "check that both allow what you will do with the new model"
        )
    return recipe.model_copy(
        update={
            "name": name,
            "seed": seed,
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
