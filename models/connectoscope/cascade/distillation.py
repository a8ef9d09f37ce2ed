"""A companion learns from its model where something would be found; nobody labels anything.

::

    grid of the model ── boxes, spread evenly ── model ── >= threshold, >= size floor ── largest per coarse voxel ─┐
          └── mean per coarse voxel ── small network ── heat map ◄───────────────── binary cross-entropy ──────────┘

Two terms: of every coarse voxel, and of the largest logit of every window (about what a gate does with a cell), which
is where false alarms are found. Every fifth box is held out for the scores on the card.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.plan import Lattice
from connectoscope.cascade.learned import Geometry, pad_to, three
from connectoscope.errors import UserError
from connectoscope.networks.normalise import normalise
from connectoscope.networks.precision import mixed_precision
from connectoscope.networks.predictor import choose_tile
from connectoscope.networks.registry import build_network
from connectoscope.segmentation.components import connected, local_labels
from connectoscope.segmentation.probabilities import TilePredictor
from connectoscope.segmentation.targets import Target
from connectoscope.training.augment import intensity, turn
from connectoscope.training.losses import check_finite
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.volumes.pyramid import downsample

if TYPE_CHECKING:
    from connectoscope.zoo import Card

BATCH = 4
LEARNING_RATE = 3e-3
WARM_UP = 20
TILE_VOXELS = 3_000_000  # of the model, at most: many boxes in many places rather than few large ones
HOLD_OUT = 5  # every fifth box
RECALLS = (0.95, 0.98)  # of cells, at which the share of cells that pass is scored


@dataclass(frozen=True)
class Example:
    """A box as the gate sees it and what the model says of it, coarse voxels.

    Attributes:
        image: (z, y, x) float32, normalised; the box with a halo, and more where a patch needs it.
        found: (C, z, y, x) uint8 on the same voxels: 1 where an object is.
        unknown: Likewise: outside the box, or cut by its faces and below the size floor.
        core: The box, in voxels of ``image``.
        objects: Of each output, of each object: its voxels (n, 3) in ``image``.
    """

    image: NDArray[np.float32]
    found: NDArray[np.uint8]
    unknown: NDArray[np.uint8]
    core: Box
    objects: tuple[tuple[NDArray[np.int64], ...], ...]


@dataclass(frozen=True)
class Teacher:
    """The model on boxes of the grid."""

    grid: Grid
    geometry: Geometry
    targets: Sequence[Target]
    intensity: tuple[float, float]
    voxel_nm3: float

    def boxes(self, part: Box, card: Card, megavoxels: float, seed: int) -> tuple[Index3, list[Box]]:
        """The model's tile, and boxes of its core (or less, at the end of ``part``; grid voxels).

        They are spread evenly: one from each of equal stretches of the blocks of ``part``.

        Raises:
            UserError: when the part is smaller than a coarse voxel, or too small for two boxes.
        """
        unit = three([math.lcm(s, f) for s, f in zip(card.stride, self.geometry.factor, strict=True)])
        start = three([-(-a // u) * u for a, u in zip(part.start, unit, strict=True)])
        stop = three([b // f * f for b, f in zip(part.stop, self.geometry.factor, strict=True)])
        whole = Box(start, stop)
        halo = card.halo.practical
        room = three([n + 2 * h for n, h in zip(whole.shape, halo, strict=True)])
        tile = (
            choose_tile(whole.shape, halo, unit, min(TILE_VOXELS, math.prod(room) // 8))
            if whole.size
            else room
        )
        blocks = Lattice(tile, halo, card.stride).blocks(whole, start) if whole.size else []
        if len(blocks) < 2:
            raise UserError(
                f"{part} of {self.grid.volume.name} is too small to train a gate on: take a larger volume or --box"
            )
        count = min(
            max(round(megavoxels * 1e6 / math.prod(t - 2 * h for t, h in zip(tile, halo, strict=True))), 2),
            len(blocks),
        )
        random = np.random.default_rng(seed)
        edges = np.linspace(0, len(blocks), count + 1).astype(int)
        chosen = [blocks[int(random.integers(a, b))] for a, b in pairwise(edges)]
        return tile, [b.write.shifted(start) for b in chosen]

    def example(self, box: Box, predictor: TilePredictor) -> Example:
        """Run the model on ``box`` (grid voxels, at most a core of the predictor, on whole coarse voxels)."""
        factor = self.geometry.factor
        core = three([t - 2 * h for t, h in zip(predictor.tile, predictor.halo, strict=True)])
        tile = Box(box.start, three([a + c for a, c in zip(box.start, core, strict=True)])).grown(
            predictor.halo
        )
        p = predictor(normalise(_finite(self.grid.read(tile)), *self.intensity))[
            (slice(None), *Box.of(box.shape).slices)
        ]

        inside = three([n // f for n, f in zip(box.shape, factor, strict=True)])
        short = [
            max(p - n - 2 * h, 0)
            for p, n, h in zip(self.geometry.patch, inside, self.geometry.halo, strict=True)
        ]
        after = [(h + s) * f for h, s, f in zip(self.geometry.halo, short, factor, strict=True)]
        seen = box.grown(
            three([h * f for h, f in zip(self.geometry.halo, factor, strict=True)]), three(after)
        )
        coarse = downsample(_finite(self.grid.read(seen)), factor, labels=False)
        found = np.zeros((len(self.targets), *coarse.shape), np.uint8)
        unknown = np.ones_like(found)
        within = Box.of(inside).shifted(self.geometry.halo)
        for channel, target in enumerate(self.targets):
            sure, cut = _objects(p[target.channel], target, self.voxel_nm3)
            here = (channel, *within.slices)
            found[here] = _largest(sure, factor)
            unknown[here] = _largest(cut, factor) & ~found[here]
        objects = tuple(_voxels_of_objects(mask) for mask in found)
        return Example(normalise(coarse, *self.intensity), found, unknown, within, objects)


def _objects(
    p: NDArray[np.uint8], target: Target, voxel_nm3: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Masks of the objects of the size floor, and of smaller parts that a face cuts."""
    labels = local_labels(np.ascontiguousarray(p), target.threshold)
    sizes = np.bincount(labels.ravel())
    large = sizes * voxel_nm3 >= target.min_volume_nm3
    large[0] = False
    cut = np.zeros(len(sizes), bool)
    for axis in range(3):
        for end in (0, -1):
            cut[np.unique(labels.take(end, axis))] = True
    cut[0] = False
    return large[labels].astype(np.uint8), (cut & ~large)[labels].astype(np.uint8)


def _voxels_of_objects(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int64], ...]:
    labels = connected(mask)
    where = np.argwhere(labels)
    part = labels[labels > 0]
    order = np.argsort(part, kind="stable")
    return tuple(np.split(where[order], np.flatnonzero(np.diff(part[order])) + 1)) if len(where) else ()


def _largest(mask: NDArray[np.uint8], factor: Index3) -> NDArray[np.uint8]:
    """The maximum over each window; the shape is a multiple of ``factor``."""
    (z, y, x), (fz, fy, fx) = mask.shape, factor
    largest: NDArray[np.uint8] = mask.reshape(z // fz, fz, y // fy, fy, x // fx, fx).max((1, 3, 5))
    return largest


def split(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Those to learn from, and those held back (every fifth; of few, the last)."""
    held = set(range(HOLD_OUT // 2, len(examples), HOLD_OUT)) or {len(examples) - 1}
    return (
        [e for i, e in enumerate(examples) if i not in held],
        [e for i, e in enumerate(examples) if i in held],
    )


class Student:
    """The small network in training; every patch is drawn from (seed, step, place in the batch) alone."""

    def __init__(
        self, geometry: Geometry, examples: list[Example], steps: int, seed: int, device: str
    ) -> None:
        self.geometry, self.examples, self.steps, self.seed, self.device = (
            geometry,
            examples,
            steps,
            seed,
            device,
        )
        torch.manual_seed(seed)
        network = build_network("unet3d", geometry.arguments.to_json()).to(device)
        self.network: nn.Module = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        known = [~e.unknown.astype(bool) for e in examples]
        positive = sum(e.found.sum((1, 2, 3), dtype=np.int64) for e in examples)
        total = sum(k.sum((1, 2, 3)) for k in known)
        # Half of the patches are drawn at objects, so the square root of the imbalance is left to the weight.
        weight = np.sqrt(np.clip((total - positive) / np.maximum(positive, 1), 1, 400))
        self.weight = torch.tensor(weight, dtype=torch.float32, device=device).view(-1, 1, 1, 1)
        self.outputs = range(geometry.arguments.outputs)
        self.objects = [[(e, o) for e in examples for o in e.objects[c]] for c in self.outputs]
        self.rich = [c for c in self.outputs if self.objects[c]]

    def run(self, report: Callable[[int, float], None]) -> None:
        """Train to the last step; ``report(step, loss)`` every 10 steps, and it may raise to stop."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
        losses: list[float] = []
        self.network.train()
        for step in range(self.steps):
            share = max(step - WARM_UP, 0) / max(self.steps - WARM_UP, 1)
            rate = min((step + 1) / WARM_UP, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate
            loss = self._loss(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            gradient = nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            losses.append(check_finite(loss, gradient, step + 1))
            optimizer.step()
            if (step + 1) % 10 == 0 or step + 1 == self.steps:
                report(step + 1, sum(losses) / len(losses))
                losses.clear()

    def finished(self, batches: int = 16) -> nn.Module:
        """The network with batch-norm statistics of its last weights, these rounded to the float16 that ships."""
        norms = [m for m in self.network.modules() if isinstance(m, nn.BatchNorm3d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain average over the batches
        self.network.train()
        with torch.no_grad(), mixed_precision(self.device):
            for index in range(batches):
                self.network(self._batch(self.steps + index)[0])
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.half().float()
        return self.network.eval()

    def _loss(self, step: int) -> Tensor:
        image, found, unknown = self._batch(step)
        with mixed_precision(self.device):
            logits = self.network(image)
        z, y, x = (slice(h, n - h) for h, n in zip(self.geometry.halo, self.geometry.patch, strict=True))
        logits, found, unknown = (t[..., z, y, x].float() for t in (logits, found, unknown))
        known = 1 - unknown
        voxels = F.binary_cross_entropy_with_logits(logits, found, pos_weight=self.weight, reduction="none")
        window = self.geometry.window
        top = F.max_pool3d(logits - 1e4 * unknown, window)
        any_found = F.max_pool3d(found, window)
        sure = torch.maximum(any_found, 1 - F.max_pool3d(unknown, window))
        cells = F.binary_cross_entropy_with_logits(top, any_found, reduction="none")
        return (voxels * known).sum() / known.sum().clamp(min=1) + (cells * sure).sum() / sure.sum().clamp(
            min=1
        )

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """image (B, 1, Z, Y, X); found, unknown (B, C, Z, Y, X); float32."""
        patches = [self._patch(step, place) for place in range(BATCH)]
        image = torch.stack([i for i, _ in patches])[:, None].to(self.device)
        labels = torch.stack([t for _, t in patches]).to(self.device)
        found, unknown = labels.chunk(2, dim=1)
        return image.contiguous(memory_format=torch.channels_last_3d), found, unknown

    def _patch(self, step: int, place: int) -> tuple[Tensor, Tensor]:
        """image (Z, Y, X) and labels (2 C, Z, Y, X): found, then unknown."""
        digest = hashlib.sha256(f"{self.seed}/{step}/{place}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        size = self.geometry.patch
        if place % 2 == 0 and self.rich:
            objects = self.objects[self.rich[_draw(len(self.rich), generator)]]
            example, voxels = objects[_draw(len(objects), generator)]
            centre = voxels[_draw(len(voxels), generator)]
            start = [
                int(c) - h - _draw(n - 2 * h, generator)
                for c, h, n in zip(centre, self.geometry.halo, size, strict=True)
            ]
        else:
            volumes = torch.tensor([float(e.core.size) for e in self.examples])
            example = self.examples[int(torch.multinomial(volumes, 1, generator=generator))]
            start = [_draw(n - p + 1, generator) for n, p in zip(example.image.shape, size, strict=True)]
        low = [min(max(s, 0), n - p) for s, n, p in zip(start, example.image.shape, size, strict=True)]
        where = tuple(slice(s, s + p) for s, p in zip(low, size, strict=True))
        image = torch.from_numpy(np.ascontiguousarray(example.image[where]))
        labels = np.concatenate(
            [example.found[(slice(None), *where)], example.unknown[(slice(None), *where)]]
        )
        image, moved = turn(image, torch.from_numpy(labels).float(), size[1:], generator)
        return intensity(image, generator), moved


def score_cells(
    network: nn.Module, geometry: Geometry, examples: list[Example], device: str
) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Of each output: the gate's largest logit in each cell (``window``) of the examples, and whether it holds one.

    Cells of which the model's answer is not known are left out.
    """
    rows: list[list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = [
        [] for _ in range(geometry.arguments.outputs)
    ]
    for example in examples:
        image = pad_to(example.image, geometry.arguments.total_stride)
        with torch.inference_mode(), mixed_precision(device):
            x = torch.from_numpy(image)[None, None].to(device)
            logits = network(x.contiguous(memory_format=torch.channels_last_3d))[0].float().cpu().numpy()
        core = (slice(None), *example.core.slices)
        for channel, (heat, found, unknown) in enumerate(
            zip(logits[core], example.found[core], example.unknown[core], strict=True)
        ):
            top, any_found, any_unknown = (_cells(a, geometry.window) for a in (heat, found, unknown))
            sure = (any_found > 0) | (any_unknown == 0)
            rows[channel].append((top[sure], any_found[sure] > 0))
    return [(np.concatenate([s for s, _ in row]), np.concatenate([p for _, p in row])) for row in rows]


def _cells(array: NDArray[Any], window: Index3) -> NDArray[Any]:
    """The largest value of each window (those at the high faces may be smaller), flat."""
    for axis, w in enumerate(window):
        array = np.maximum.reduceat(array, np.arange(0, array.shape[axis], w), axis=axis)
    return array.ravel()


def ranking(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> dict[str, float]:
    """Area under the ROC curve of cells, and the share of all cells that pass where ``RECALLS`` of the positive ones do.

    Empty when all cells are alike.
    """
    if positive.all() or not positive.any():
        return {}
    negative = np.sort(scores[~positive])
    below = np.searchsorted(negative, scores[positive], "left")
    equal = np.searchsorted(negative, scores[positive], "right") - below
    n = int(positive.sum())
    facts = {"cell_auc": float((below + equal / 2).mean() / len(negative))}
    best = np.sort(scores[positive])[::-1]
    for recall in RECALLS:
        threshold = best[math.ceil(recall * n - 1e-9) - 1]
        facts[f"pass_rate_at_{recall:g}"] = float((scores >= threshold).mean())
    return facts


def _finite(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _draw(n: int, generator: Generator) -> int:
    return int(torch.randint(n, (), generator=generator))
