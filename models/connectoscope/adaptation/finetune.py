"""Fine-tuning on a few labelled patches (NeuroADDA, arXiv 2503.06196): all weights, small steps, early stopping.

::

    source ── statistics of batch norm from unlabelled patches ── the better of the two on the labelled patches ── start
    four patches or more: each is held back once (fold), to find after how many updates to stop
    fold 1 │ fold 2 │ … │ fold n │ all patches, to that update

Batch-norm statistics stay as they are at the start, since a batch of a few patches says little of a volume. Updates are
drawn from (seed, stage, update), so that a training that was interrupted ends with the same bytes.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from connectoscope.adaptation import checkpoint as states
from connectoscope.adaptation.examples import Example
from connectoscope.evaluation.voxels import PrecisionRecall, histograms, precision_recall
from connectoscope.networks.precision import mixed_precision
from connectoscope.networks.unet3d import UNet3d
from connectoscope.training.augment import intensity, turn, warp
from connectoscope.training.losses import check_finite

FOLDS_FROM = 4  # patches: fewer are too few to hold one back
POINTS = 10  # of each stage at which it is scored
WARM_UP = 10
BATCH = 4
PLAIN = 0.5  # share of patches that are only flipped and turned, not bent

Counts = NDArray[np.int64]  # (2, 256): voxels of each probability inside and outside the truth
Report = Callable[[int, int, dict[str, float]], None]
"""Stage, update of the stage, and ``{"loss": …}`` or ``{"choose": …}`` (average precision on the patch held back)."""


@dataclass(frozen=True)
class TuningSchedule:
    """How it is trained: ``steps`` updates at most, learning rate, seed."""

    steps: int
    learning_rate: float
    seed: int

    @property
    def every(self) -> int:
        """Updates between two scores; every stage ends with one."""
        return max(self.steps // POINTS, 1)

    @property
    def points(self) -> int:
        return math.ceil(self.steps / self.every)

    def update_of(self, point: int) -> int:
        """Updates done at a point; point 0 is the start."""
        return min(point * self.every, self.steps)


@dataclass
class Outcome:
    """What fine-tuning came to.

    Attributes:
        network: The weights to keep: fine-tuned, or with new statistics only, or the source's.
        kept: Which.
        curves: Precision and recall before (``source``) and of the others on the labelled patches.
        held_out: The scores after training are of patches that were held back; else of those it learned from.
        update: Where training stopped.
    """

    network: UNet3d
    kept: str
    curves: dict[str, PrecisionRecall]
    held_out: bool
    update: int


def new_statistics(network: UNet3d, patches: NDArray[np.float32], device: str) -> UNet3d:
    """A copy whose batch-norm statistics are those of unlabelled patches (n, z, y, x) of the target, normalised.

    Needs no label and no source data (Li et al. 2016, arXiv 1603.04779).
    """
    network = copy.deepcopy(network).to(device)
    norms = _norms(network)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain average over the batches
    network.train()
    with torch.no_grad():
        for part in np.array_split(patches, max(len(patches) // 8, 1)):
            x = torch.from_numpy(part)[:, None].to(device)
            network(x.contiguous(memory_format=torch.channels_last_3d))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


@dataclass
class FineTuning:
    """One fine-tuning of one output.

    Attributes:
        source: In evaluation mode; not changed.
        examples: The labelled patches, of one shape.
        channel: The output that is learned; the others go along.
        unlabelled: Normalised patches of the target (n, z, y, x).
        identity: Whatever decides the result, called as a user would; a checkpoint of anything else is refused.
    """

    source: UNet3d
    examples: Sequence[Example]
    channel: int
    unlabelled: NDArray[np.float32]
    schedule: TuningSchedule
    device: str
    identity: Mapping[str, str]
    stage: int = 0
    step: int = 0
    table: Counts = field(init=False)  # (folds, points + 1, 2, 256)

    def __post_init__(self) -> None:
        n = len(self.examples)
        self.folds = n if n >= FOLDS_FROM else 0
        self.table = np.zeros((self.folds, self.schedule.points + 1, 2, 256), np.int64)

    def run(self, checkpoint: Path, report: Report) -> Outcome:
        """Train, from the checkpoint where there is one; ``report`` may raise to stop."""
        source = copy.deepcopy(self.source).to(self.device).eval()
        renewed = new_statistics(self.source, self.unlabelled, self.device)
        if not self.examples:
            return Outcome(renewed, "statistics", {}, False, 0)
        curves = {name: self._curve(n) for name, n in (("source", source), ("statistics", renewed))}
        start = max(("source", "statistics"), key=lambda name: curves[name].average_precision)
        self.start = {"source": source, "statistics": renewed}[start]
        network, optimizer = self._fresh()
        if checkpoint.exists():
            self.stage, self.step, self.table = states.load(checkpoint, self.identity, network, optimizer)
        while self.stage < self.folds:
            held = self.examples[self.stage]
            learned = [e for e in self.examples if e is not held]
            if self.step == 0:
                self.table[self.stage, 0] = self._counts(network, held)
            for point in self._train(network, optimizer, learned, self.schedule.points, checkpoint, report):
                self.table[self.stage, point] = self._counts(network, held)
                report(
                    self.stage,
                    self.step,
                    {"choose": _curve_of(self.table[self.stage, point]).average_precision},
                )
            self.stage, self.step = self.stage + 1, 0
            network, optimizer = self._fresh()
        last = self.schedule.points
        if self.folds:
            held_out = [_curve_of(self.table[:, p].sum(axis=0)) for p in range(last + 1)]
            last = max(range(last + 1), key=lambda p: (held_out[p].average_precision, -p))
        for _ in self._train(network, optimizer, self.examples, last, checkpoint, report):
            pass
        network.eval()
        curves["trained"] = held_out[last] if self.folds else self._curve(network)
        # Never worse than the source: of equals the one that was changed least.
        kept = max(("source", "statistics", "trained"), key=lambda name: curves[name].average_precision)
        networks = {"source": source, "statistics": renewed, "trained": network}
        return Outcome(networks[kept], kept, curves, bool(self.folds), self.schedule.update_of(last))

    def _fresh(self) -> tuple[UNet3d, torch.optim.Optimizer]:
        network = copy.deepcopy(self.start).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        rate = self.schedule.learning_rate
        return network, torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-3)

    def _train(
        self,
        network: UNet3d,
        optimizer: torch.optim.Optimizer,
        examples: Sequence[Example],
        points: int,
        checkpoint: Path,
        report: Report,
    ) -> Iterator[int]:
        """From :attr:`step` on; gives each point as it is reached, and saves when it is asked for the next one."""
        losses: list[float] = []
        while self.step < self.schedule.update_of(points):
            losses.append(self._update(network, optimizer, examples))
            self.step += 1
            if self.step % self.schedule.every == 0 or self.step == self.schedule.steps:
                report(self.stage, self.step, {"loss": sum(losses) / len(losses)})
                losses.clear()
                yield math.ceil(self.step / self.schedule.every)
                states.save(checkpoint, self.identity, self.stage, self.step, self.table, network, optimizer)

    def _update(
        self, network: UNet3d, optimizer: torch.optim.Optimizer, examples: Sequence[Example]
    ) -> float:
        self._train_mode(network)
        for group in optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate * min((self.step + 1) / WARM_UP, 1)
        batch = [self._patch(examples, place) for place in range(min(BATCH, len(examples)))]
        image = torch.stack([i for i, _ in batch])[:, None].to(self.device)
        labels, known = torch.stack([t for _, t in batch]).to(self.device).unbind(1)
        with mixed_precision(self.device):
            logits = network(image.contiguous(memory_format=torch.channels_last_3d))[:, self.channel]
        loss = masked_loss(logits.float(), labels, known)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        value = check_finite(loss, gradient, self.step + 1)
        optimizer.step()
        return value

    def _train_mode(self, network: UNet3d) -> None:
        network.train()
        for norm in _norms(network):
            norm.eval()

    def _patch(self, examples: Sequence[Example], place: int) -> tuple[Tensor, Tensor]:
        """image (Z, Y, X) and (2, Z, Y, X): label, known."""
        text = f"{self.schedule.seed}/{self.stage}/{self.step}/{place}"
        digest = hashlib.sha256(text.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        order = np.random.default_rng([self.schedule.seed, self.stage, self.step])
        example = examples[int(order.permutation(len(examples))[place])]
        both = torch.from_numpy(np.stack([example.label, example.known])).float()
        image = torch.from_numpy(example.image)
        change = turn if float(torch.rand((), generator=generator)) < PLAIN else warp
        image, both = change(image, both, (image.shape[1], image.shape[2]), generator)
        return intensity(image, generator), both

    def _counts(self, network: UNet3d, example: Example) -> Counts:
        network.eval()
        x = torch.from_numpy(example.image)[None, None].to(self.device)
        with torch.inference_mode(), mixed_precision(self.device):
            logits = network(x.contiguous(memory_format=torch.channels_last_3d))[0, self.channel]
        p = (logits.float().sigmoid() * 255 + 0.5).floor().to(torch.uint8).cpu().numpy()
        return np.stack(histograms(p[example.known], example.label[example.known]))

    def _curve(self, network: UNet3d) -> PrecisionRecall:
        return _curve_of(np.sum([self._counts(network, e) for e in self.examples], axis=0))


def masked_loss(logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy plus half of (1 - soft Dice) of the known voxels; all (B, Z, Y, X), labels and known 0 or 1."""
    count = known.sum().clamp(min=1)
    bce = (F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * known).sum() / count
    p = logits.sigmoid() * known
    labels = labels * known
    dice = (2 * (p * labels).sum() + 1) / (p.sum() + labels.sum() + 1)
    return bce + 0.5 * (1 - dice)


def _norms(network: nn.Module) -> list[nn.BatchNorm3d]:
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]


def _curve_of(counts: Counts) -> PrecisionRecall:
    return precision_recall(counts[0], counts[1])
