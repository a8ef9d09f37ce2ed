"""The rivals that the study of X-ray to EM trains itself: each as many updates, patches and scans as a member of xray2em-fib.

``direct`` finds membranes in X-ray without any EM: the same network, but for what its head means. Labels of membranes there
are of ``fib_medulla`` alone, so it learns of that set's training planes. ``plain`` is one network that reconstructs by
squared error and membranes, without a likelihood; ``member`` is one of xray2em-fib's three.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from kept import of_recipe
from numpy.typing import NDArray
from torch import Tensor
from xray2em_scores import Real, neurons

from connectoscope.evaluation.voxels import histograms, precision_recall
from connectoscope.networks.normalise import intensity_range, normalise
from connectoscope.networks.precision import mixed_precision
from connectoscope.networks.upscaling import MIDDLE, Upscaling
from connectoscope.training.labels import boundaries
from connectoscope.training.losses import bce_dice
from connectoscope.training.recipe import Recipe, Xray, load_recipe
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.xray2em.finish import finish
from connectoscope.xray2em.pairs import Batches, EmVolume
from connectoscope.xray2em.predict import load_network
from connectoscope.xray2em.training import XrayTrainer
from connectoscope.zoo import Bundle, find_model
from connectoscope.zoo.writing import write_bundle

MODEL = "xray2em-fib"
RECIPE = Path(__file__).parent.parent / "recipes" / f"{MODEL}.toml"


def _recipe(seed: int, **changed: object) -> tuple[Recipe, Xray]:
    """The recipe of xray2em-fib for one network, and its table ``xray``, ``changed``."""
    recipe = load_recipe(RECIPE)
    if recipe.xray is None:
        raise ValueError(f"{RECIPE} is no recipe for X-ray to EM")
    one = recipe.architecture.model_copy(
        update={"arguments": {**recipe.architecture.arguments, "members": 1}}
    )
    xray = recipe.xray.model_copy(update=changed)
    update = {"name": f"{MODEL}-{seed}", "seed": seed, "architecture": one, "xray": xray}
    return recipe.model_copy(update=update), xray


def _train(trainer: XrayTrainer, folder: Path) -> Upscaling:
    """To the end, from the checkpoint in ``folder`` where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.exists():
        trainer.resume(checkpoint)
    trainer.run(checkpoint, lambda step, values: None)
    return trainer.finished_network()


def member(seed: int, folder: Path) -> Bundle:
    """Member ``seed`` of xray2em-fib alone."""
    model = find_model(MODEL)
    arguments = {**model.card.architecture.arguments, "members": 1}
    changed = {
        "name": f"{MODEL}-{seed}",
        "architecture": model.card.architecture.model_copy(update={"arguments": arguments}),
        "members": (model.card.members[seed],),
    }
    tensors = {
        name.replace(f"members.{seed}.", "members.0.", 1): values
        for name, values in load_network(model).state_dict().items()
        if name.startswith(f"members.{seed}.")
    }
    return write_bundle(folder / f"member{seed}", model.card.model_copy(update=changed), tensors)


def plain(seed: int, folder: Path) -> Bundle:
    """One network that learns by squared error, which is the likelihood with beta 1, and by membranes."""
    folder /= of_recipe(RECIPE)
    out = folder / "plain"
    if out.exists():
        return find_model(out)
    trainer = XrayTrainer(*_recipe(seed, beta=1.0), "cpu")
    return finish(trainer, _train(trainer, folder), out)


@dataclass(frozen=True, kw_only=True)
class _Labelled(EmVolume):
    """A volume whose membranes stand where its EM would."""

    membranes: NDArray[np.bool_]

    def em(self, where: tuple[slice, ...]) -> Real:
        return self.membranes[where].astype(np.float32)


class _Direct(XrayTrainer):
    """Learns the logit of membrane where an :class:`XrayTrainer` learns the mean."""

    def make_sampler(self) -> Batches:  # type: ignore[override]
        membranes = boundaries(neurons())
        self.ems = [_Labelled(**vars(volume), membranes=membranes) for volume in self.ems]  # type: ignore[misc]
        return super().make_sampler()

    def loss(self, step: int, image: Tensor, labels: Tensor) -> Tensor:
        with mixed_precision(self.device):
            told = self.network.member(0, image)
        return bce_dice(told[:, :1] - MIDDLE, labels, self.recipe.training.dice)

    def scores(self) -> dict[str, float]:
        counts = [
            histograms(probability(self.network, pair.xray)[pair.scored], pair.em[pair.scored] > 0)
            for pair in self._choosing
        ]
        inside, outside = (np.sum(part, 0) for part in zip(*counts, strict=True))
        return {"boundary": precision_recall(inside, outside).average_precision}


def direct(seed: int, folder: Path) -> Upscaling:
    """A network that finds membranes at 10 nm in X-ray of 30 nm."""
    folder /= of_recipe(RECIPE)
    recipe, xray = _recipe(seed, membranes=None)
    labelled = tuple(v for v in recipe.volumes if v.name == "fib_medulla")
    return _train(_Direct(recipe.model_copy(update={"volumes": labelled}), xray, "cpu"), folder)


def probability(network: Upscaling, xray: Real) -> NDArray[np.uint8]:
    """Of membrane, 0-255, on the fine grid of a normalised X-ray image, in one pass."""
    member = network.arguments.member
    z, y, x = member.total_stride
    halo = (z, 2 * y, 2 * x)
    pad = [(h, h + -n % s) for n, h, s in zip(xray.shape, halo, member.total_stride, strict=True)]
    image = torch.from_numpy(np.pad(xray, pad, mode="symmetric"))[None, None]
    network.eval()
    with torch.inference_mode(), mixed_precision("cpu"):
        told = network(image.contiguous(memory_format=torch.channels_last_3d), halo)[0, 0, 0]
    kept = tuple(slice(0, n * network.arguments.scale) for n in xray.shape)
    return np.asarray((255 * (told[kept].float() - MIDDLE).sigmoid() + 0.5).floor().numpy(), np.uint8)


def find_directly(network: Upscaling, scan: Path) -> NDArray[np.uint8]:
    """Probability of membrane, 0-255, in a stored scan."""
    volume = open_volume(scan)
    low, high = load_recipe(RECIPE).inputs.percentiles
    return probability(
        network,
        normalise(volume.read(Box.of(volume.shape)), *intensity_range(volume.read, volume.shape, low, high)),
    )
