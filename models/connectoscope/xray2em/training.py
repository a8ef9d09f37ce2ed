"""Training of a network that makes EM from X-ray: a likelihood that learns how sure to be, and frozen eyes for membranes.

The likelihood is Gaussian, each voxel weighted with its own variance to the power ``beta`` (beta-NLL: Seitzer et al. 2022,
arXiv 2203.09168): plain likelihood (0) neglects what it finds hard, squared error (1) learns nothing of the variance. The
mean alone blurs, so a frozen membrane network looks at the mean and at the true EM, and both shall show it the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from connectoscope.errors import UserError
from connectoscope.networks.precision import mixed_precision
from connectoscope.networks.upscaling import Upscaling, UpscalingArguments, combined
from connectoscope.training.recipe import Recipe, Xray
from connectoscope.training.trainer import Trainer, check_channels
from connectoscope.xray2em.pairs import (
    Batches,
    Pair,
    PairSampler,
    drawn,
    held_out,
    load_em,
    main_scan,
    planes_around,
)
from connectoscope.xray2em.predict import OUTPUTS
from connectoscope.xray2em.real_pairs import RealPair, RealSampler
from connectoscope.xray2em.registration import check
from connectoscope.xray2em.surrogate import Surrogate
from connectoscope.zoo import find_model

Real = NDArray[np.float32]

SCANS = 3  # scans drawn from the recipe's ranges that are scored beside the main one
SIDE = 96  # X-ray rows and columns of the choosing planes that are scored while training


class XrayTrainer(Trainer):
    """One training of one recipe with a table ``xray``; all members advance together, each on its own batches.

    Args:
        real: A real pair, in place of scans that are simulated of the recipe's volumes.

    Attributes:
        registration: How well a real pair fits.

    Raises:
        UserError: the recipe's numbers do not fit one another, or its volumes are missing.
    """

    network: Upscaling  # type: ignore[assignment]

    def __init__(self, recipe: Recipe, xray: Xray, device: str, real: RealPair | None = None) -> None:
        if tuple(o.name for o in recipe.outputs) != OUTPUTS:
            raise UserError(f"recipe {recipe.name}: the outputs of X-ray to EM are {', '.join(OUTPUTS)}")
        self.arguments = UpscalingArguments.parse(recipe.architecture.name, recipe.architecture.arguments)
        check_channels(recipe, self.arguments.member)
        if any(n % s for n, s in zip(recipe.sampling.patch, self.arguments.member.total_stride, strict=True)):
            raise UserError(
                f"recipe {recipe.name}: patches must be multiples of {self.arguments.member.total_stride}"
            )
        self.xray, self.real = xray, real
        self.registration = check(real) if real is not None else None
        volumes = recipe.volumes if real is None else ()
        self.ems = [load_em(recipe, entry, self.arguments.scale) for entry in volumes]
        for part, use in (("choose", "choose by"), ("report", "report")):
            if real is None and not any(planes_around(em, part, self.arguments.scale) for em in self.ems):
                raise UserError(
                    f"recipe {recipe.name}: no volume has planes to {use}; give one some in {part}"
                )
        super().__init__(recipe, [], device)
        self.eyes = Eyes(xray.membranes, device) if xray.membranes else None
        self._choosing = list(self.pairs("choose", [main_scan(xray, self.voxel_nm)], SIDE))

    @property
    def voxel_nm(self) -> float:
        """Of the X-ray grid."""
        return self.recipe.inputs.voxel_size[0]

    @property
    def signature(self) -> dict[str, str]:
        """As a trainer's, with the EM that scans are simulated of, or the real pair, and the eyes."""
        facts = super().signature
        for em in self.ems:
            facts |= em.signature
        if self.real is not None:
            facts["the real pair"] = self.real.signature
        if self.eyes is not None:
            facts["the model that finds membranes"] = self.eyes.hash
        return facts

    def make_sampler(self) -> Batches:  # type: ignore[override]
        a = self.arguments
        if self.real is not None:
            return RealSampler(self.real, self.recipe, a.members)
        return PairSampler(self.recipe, self.xray, self.ems, a.members, a.scale)

    def make_network(self) -> Upscaling:  # type: ignore[override]
        return Upscaling(self.arguments, self.recipe.seed)

    def loss(self, step: int, image: Tensor, labels: Tensor) -> Tensor:
        """Sum over the members, whose gradients so are their own."""
        count = self.arguments.members
        losses = []
        for k, (x, em) in enumerate(zip(image.chunk(count), labels.chunk(count), strict=True)):
            with mixed_precision(self.device):
                told = self.network.member(k, x)
            loss = beta_nll(told[:, :1], told[:, 1:], em, self.xray.beta)
            if self.eyes is not None and step >= self.xray.membranes_from:
                loss = loss + self.xray.membranes_weight * self.eyes.difference(told[:1, :1], em[:1])
            losses.append(loss)
        return torch.stack(losses).sum()

    def scores(self) -> dict[str, float]:
        """Mean log likelihood of the choosing planes, in nats per voxel."""
        total = count = 0.0
        for pair in self._choosing:
            mean, aleatoric, epistemic = reconstruct(self.network, pair.xray, self.device)
            variance = (aleatoric + epistemic)[pair.scored]
            error = (pair.em - mean)[pair.scored]
            nll = 0.5 * (np.log(2 * np.pi * variance) + np.square(error) / variance)
            total, count = total - float(nll.sum(dtype=np.float64)), count + nll.size
        return {"likelihood": total / count}

    def finished_network(self, batches: int = 16) -> Upscaling:  # type: ignore[override]
        super().finished_network(batches)
        return self.network

    def pairs(self, part: str, scans: list[Surrogate], side: int | None = None) -> Iterator[Pair]:
        """Held-out scans of every volume; of a real pair there is one scan, whatever ``scans`` are."""
        if self.real is not None:
            yield from self.real.held_out(part, side)
            return
        for k, like in enumerate(scans):
            for v, volume in enumerate(self.ems):
                seed = (k + 1) * 1000 + v
                pair = held_out(self.recipe, volume, part, self.arguments.scale, like, seed, side)
                if pair is not None:
                    yield pair


class Eyes:
    """A frozen network that finds membranes.

    Raises:
        UserError: the model is unknown, or has no output ``boundary``.
    """

    def __init__(self, model: str, device: str) -> None:
        bundle = find_model(model)
        names = [output.name for output in bundle.card.outputs]
        if "boundary" not in names:
            raise UserError(f"model {model} finds no membranes: its outputs are {', '.join(names)}")
        self.channel, self.stride = names.index("boundary"), bundle.card.stride
        network = bundle.load_network().to(device).requires_grad_(False)
        self.network: nn.Module = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.device, self.hash = device, bundle.hash

    def __call__(self, em: Tensor) -> Tensor:
        """Logits ``(B, Z, Y, X)`` of ``(B, 1, Z, Y, X)``, intensities 0-1."""
        with mixed_precision(self.device):
            seen = (em - 0.5).clamp(-1, 1).contiguous(memory_format=torch.channels_last_3d)
            return self.network(seen)[:, self.channel].float()  # type: ignore[no-any-return]

    def difference(self, mean: Tensor, em: Tensor) -> Tensor:
        """Cross-entropy of what is seen in the middle of ``mean`` against what is seen in ``em``; a scalar."""
        where = tuple(_middle(n, s) for n, s in zip(em.shape[2:], self.stride, strict=True))
        cut = (slice(None), slice(None), *where)
        with torch.no_grad():
            wanted = self(em[cut]).sigmoid()
        return F.binary_cross_entropy_with_logits(self(mean[cut]), wanted)


def _middle(length: int, stride: int) -> slice:
    """About two thirds of a side: a third of the arithmetic, and none of the patch's border."""
    size = max(2 * length // 3 // stride, 1) * stride
    start = max(length - size, 0) // 2
    return slice(start, start + size)


def beta_nll(mean: Tensor, log_variance: Tensor, truth: Tensor, beta: float) -> Tensor:
    """Gaussian negative log likelihood without its constant, weighted with variance ** ``beta``, averaged."""
    nll = 0.5 * (log_variance + (truth - mean).square() * (-log_variance).exp())
    return (nll * (beta * log_variance.detach()).exp()).mean()


def reconstruct(network: Upscaling, xray: Real, device: str = "cpu") -> tuple[Real, Real, Real]:
    """Mean, aleatoric and epistemic variance on the fine grid of a normalised ``(Z, Y, X)`` image, in one pass: for
    scores, with little of its mirror image around it.
    """
    member = network.arguments.member
    z, y, w = member.total_stride
    halo = (z, 2 * y, 2 * w)
    pad = [(h, h + -n % s) for n, h, s in zip(xray.shape, halo, member.total_stride, strict=True)]
    x = torch.from_numpy(np.pad(xray, pad, mode="symmetric"))[None, None].to(device)
    network.eval()
    with torch.inference_mode(), mixed_precision(device):
        told = network(x.contiguous(memory_format=torch.channels_last_3d), halo)[:, 0]
    kept = tuple(slice(0, n * network.arguments.scale) for n in xray.shape)
    mean, aleatoric, epistemic = (v[kept].cpu().numpy() for v in combined(told))
    return mean, aleatoric, epistemic


def scored_scans(trainer: XrayTrainer) -> list[Surrogate]:
    """The main scan, and some from the recipe's ranges."""
    generator = np.random.default_rng(trainer.recipe.seed)
    more = [drawn(trainer.xray, trainer.voxel_nm, generator) for _ in range(SCANS)]
    return [main_scan(trainer.xray, trainer.voxel_nm), *more]
