"""The training loop: AdamW, warm-up and cosine, averaged weights, the best of them on the choosing planes."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from connectoscope.errors import Cancelled, UserError
from connectoscope.evaluation.voxels import PrecisionRecall, histograms, precision_recall
from connectoscope.networks.precision import mixed_precision
from connectoscope.networks.registry import parse_architecture
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.pruning.pruner import Pruner
from connectoscope.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from connectoscope.training.instances import UNKNOWN
from connectoscope.training.labels import check_classes
from connectoscope.training.losses import bce_dice, check_finite, leave_out
from connectoscope.training.recipe import Recipe
from connectoscope.training.sampler import LabelledVolume, Sampler


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine to 1 % of the highest rate."""
    t = recipe.training
    if step < t.warm_up:
        return t.learning_rate * (step + 1) / t.warm_up
    share = (step - t.warm_up) / max(t.steps - t.warm_up, 1)
    return t.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


class Trainer:
    """One training of one recipe.

    Args:
        recipe: What to train.
        volumes: The recipe's volumes, loaded.
        device: ``cpu`` or ``cuda``; in mixed precision on both, where the processor has it.
        parent: Weights to start from; None: random ones.
        parent_hash: Of the model that these, and the teacher, are of.

    Attributes:
        pruner: Masks the weights while they are trained, where one is set.
        teacher: A network of the same outputs, in evaluation mode; half of what is learned are then its probabilities, which
            say more of doubtful voxels than labels do (distillation; Hinton et al. 2015, arXiv 1503.02531).
    """

    def __init__(
        self,
        recipe: Recipe,
        volumes: list[LabelledVolume],
        device: str,
        parent: dict[str, Tensor] | None = None,
        parent_hash: str = "",
    ) -> None:
        self.recipe, self.volumes, self.device = recipe, volumes, device
        self.parent_hash = parent_hash
        self.pruner: Pruner | None = None
        self.teacher: nn.Module | None = None
        self.sampler = self.make_sampler()
        self._check_labels()
        torch.manual_seed(recipe.seed)
        self.network = self.make_network().to(device)
        if parent is not None:
            self.network.load_state_dict(parent)
        self.network = self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=recipe.training.learning_rate,
            weight_decay=recipe.training.weight_decay,
        )
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.best = {k: v.clone() for k, v in self.average.items()}
        self.progress = Progress()

    def make_sampler(self) -> Sampler:
        return Sampler(self.recipe, self.volumes)

    def make_network(self) -> UNet3d:
        recipe = self.recipe
        arguments = parse_architecture(recipe.architecture.name, recipe.architecture.arguments)
        if arguments.outputs != len(recipe.outputs):
            raise UserError(
                f"recipe {recipe.name}: the architecture has {arguments.outputs} outputs, "
                f"the recipe names {len(recipe.outputs)}; they must be as many"
            )
        check_channels(recipe, arguments)
        stride, patch = arguments.total_stride, recipe.sampling.patch
        if any(n < 1 or n % s for n, s in zip(patch, stride, strict=True)):
            raise UserError(
                f"recipe {recipe.name}: patches of {patch} voxels must be multiples of the network's total stride {stride}"
            )
        return UNet3d(arguments)

    def _check_labels(self) -> None:
        """Of an output that is nowhere on the choosing planes, or everywhere, average precision is the same at every
        choosing, and the first weights would be kept.
        """
        if not self.volumes:
            return
        for part, planes in (("train", "training"), ("choose", "choosing")):
            for c, output in enumerate(self.recipe.outputs):
                parts = [v.labels[c, slice(*getattr(v.split, part))] for v in self.volumes]
                known = sum(int(np.count_nonzero(labels != UNKNOWN)) for labels in parts)
                found = sum(int(np.count_nonzero(labels == 1)) for labels in parts)
                check_classes(
                    found / max(known, 1),
                    f"recipe {self.recipe.name}: labels of {output.name}",
                    f"the {planes} planes",
                    instances=all(output.name in v.split.boundaries_of for v in self.volumes),
                )

    @property
    def signature(self) -> dict[str, str]:
        """What decides the result, called as a user would; a checkpoint of anything else is refused."""
        unused = {"neurons"} if self.recipe.xray else {"neurons", "xray"}
        recipe = self.recipe.model_dump_json(exclude=unused)
        facts = {
            "the model that is pruned": self.parent_hash,
            "an option of the pruning": self.pruner.signature if self.pruner else "",
            "the recipe": hashlib.sha256(recipe.encode()).hexdigest(),
        }
        for volume in self.volumes:
            facts |= volume.signature
        return facts

    def save(self, path: Path) -> None:
        pruning = self.pruner.state() if self.pruner else {}
        save_checkpoint(
            path,
            self.signature,
            self.progress,
            self.network,
            self.average,
            self.best,
            self.optimizer,
            pruning,
        )

    def resume(self, path: Path) -> None:
        self.progress, average, best, pruning = load_checkpoint(
            path, self.signature, self.network, self.optimizer
        )
        self.average, self.best = ({k: v.to(self.device) for k, v in s.items()} for s in (average, best))
        if self.pruner is not None:
            self.pruner.restore(pruning)

    def run(self, checkpoint: Path, report: Callable[[int, dict[str, float]], None]) -> None:
        """Train to the recipe's last step, from where it stands.

        Args:
            checkpoint: Written at every choosing, and when ``report`` raises Cancelled (unless the process is killed first).
            report: Called with the step and ``{"loss": …}`` every 10 updates, with ``{"choose/NAME": …}`` (average
                precision on the choosing planes, averaged weights) at every choosing. May raise to stop.
        """
        t = self.recipe.training
        losses: list[float] = []
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self.sampler.batch, self.progress.step)
            while self.progress.step < t.steps:
                started = time.monotonic()
                step = self.progress.step
                image, labels = ahead.result()
                ahead = pool.submit(self.sampler.batch, step + 1)
                losses.append(self._update(step, image, labels))
                self.progress.step = step = step + 1
                self.progress.seconds += time.monotonic() - started
                told, choosing = [], step % t.choose_every == 0 or step == t.steps
                if step % 10 == 0:
                    told.append({"loss": sum(losses) / len(losses)})
                    losses.clear()
                if choosing:
                    told.append(self._choose(step))
                stopped: Cancelled | None = None
                for values in told:
                    try:
                        report(step, values)
                    except Cancelled as error:
                        stopped = error
                if choosing or stopped:
                    self.save(checkpoint)
                if stopped:
                    raise stopped

    def _update(self, step: int, image: Tensor, labels: Tensor) -> float:
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, step)
        image = image.to(self.device, memory_format=torch.channels_last_3d)
        loss = self.loss(step, image, labels.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.pruner is not None:
            self.pruner.before_step(step + 1)
        gradient = nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        told = check_finite(loss, gradient, step + 1)
        self.optimizer.step()
        if self.pruner is not None:
            self.pruner.after_step(step + 1, self.optimizer)
        decay = min(self.recipe.training.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.dtype.is_floating_point:
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)
        if self.pruner is not None:
            self.average = self.pruner.masked(self.average)
        return told

    def loss(self, step: int, image: Tensor, labels: Tensor) -> Tensor:
        """Of one batch, a scalar."""
        watching = self.pruner.rates.watching() if self.pruner else contextlib.nullcontext()
        with watching, mixed_precision(self.device):
            logits = self.network(image)
        t = self.recipe.training
        dice = t.dice if t.dice_until is None or step < t.dice_until else 0.0
        if self.teacher is not None:
            with torch.inference_mode(), mixed_precision(self.device):
                told = self.teacher(image).float().sigmoid()
            labels = torch.where(labels >= 0, (labels + told.clone()) / 2, labels)
        logits, labels = leave_out(logits.float(), labels)
        return bce_dice(logits, labels, dice)

    def scores(self) -> dict[str, float]:
        """Of the network as it is, on the choosing planes: average precision of each output; higher is better."""
        curves = score_planes(self.network, self.recipe, self.volumes, "choose", self.device)
        return {name: curve.average_precision for name, curve in curves.items()}

    def _choose(self, step: int) -> dict[str, float]:
        """Score the averaged weights on the choosing planes; keep them when their mean is the best so far."""
        started = time.monotonic()
        kept = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        values = self.scores()
        mean = sum(values.values()) / len(values)
        final = (
            self.pruner is None or step >= self.pruner.schedule.frozen_from
        )  # masks that may still change do not count
        if final and mean > self.progress.best_score:
            self.progress.best_score, self.progress.best_step = mean, step
            self.best = {k: v.detach().clone() for k, v in self.average.items()}
        self.network.load_state_dict(kept)
        self.progress.seconds += time.monotonic() - started
        row = {f"choose/{name}": value for name, value in values.items()} | {"choose/mean": mean}
        self.progress.curve.append({"step": float(step)} | row)
        return row

    def finished_network(self, batches: int = 64) -> UNet3d:
        """The best averaged weights, with batch-norm statistics re-estimated on ``batches`` training batches."""
        self.network.load_state_dict(self.best)
        norms = [m for m in self.network.modules() if isinstance(m, nn.BatchNorm3d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain average over the batches
        self.network.train()
        with torch.no_grad(), mixed_precision(self.device):
            for index in range(min(batches, self.recipe.training.steps)):
                image, _ = self.sampler.batch(self.recipe.training.steps + index)
                self.network(image.to(self.device, memory_format=torch.channels_last_3d))
        for norm in norms:
            norm.momentum = 0.1
        return self.network.eval()


def check_channels(recipe: Recipe, arguments: UNet3dArguments) -> None:
    """Raise UserError where a network wants other than the one channel that an image has."""
    if arguments.in_channels != 1:
        raise UserError(
            f"recipe {recipe.name}: the architecture has in_channels = {arguments.in_channels}, images have 1"
        )


def score_planes(
    network: nn.Module, recipe: Recipe, volumes: list[LabelledVolume], part: str, device: str
) -> dict[str, PrecisionRecall]:
    """Precision and recall of each output on a part (``choose``) of the volumes, on the network's own grid."""
    network.eval()
    inside = np.zeros((len(recipe.outputs), 256), np.int64)
    outside = np.zeros_like(inside)
    context: int = network.arguments.halo()[0]  # type: ignore[union-attr, operator]
    for volume in volumes:
        first, last = getattr(volume.split, part)
        low = max(first - context, 0)
        high = min(last + context, len(volume.image))
        p = predict_planes(network, volume.image[low:high], device)[:, first - low : last - low]
        for c in range(len(recipe.outputs)):
            truth = volume.labels[c, first:last]
            known = truth != UNKNOWN
            a, b = histograms(p[c][known], truth[known] > 0)
            inside[c] += a
            outside[c] += b
    return {o.name: precision_recall(inside[c], outside[c]) for c, o in enumerate(recipe.outputs)}


def predict_planes(network: nn.Module, image: NDArray[np.float32], device: str) -> NDArray[np.uint8]:
    """uint8 probabilities ``(C, Z, Y, X)`` of a normalised ``(Z, Y, X)`` image in one pass, zero padding."""
    stride = network.arguments.total_stride  # type: ignore[union-attr]
    pad = [(0, -n % s) for n, s in zip(image.shape, stride, strict=True)]  # type: ignore[arg-type]
    x = torch.from_numpy(np.pad(image, pad, mode="symmetric"))[None, None].to(device)
    with torch.inference_mode(), mixed_precision(device):
        p = network(x.to(memory_format=torch.channels_last_3d)).float().sigmoid()[0]
    z, y, w = image.shape
    stored: NDArray[np.uint8] = (p[:, :z, :y, :w] * 255 + 0.5).floor().to(torch.uint8).cpu().numpy()
    return stored
