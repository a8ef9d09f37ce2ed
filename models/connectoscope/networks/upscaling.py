"""An ensemble of U-Nets that write finer than they read, and say how sure they are of it.

Each member works at the input's voxels; its head gives ``scale``³ sub-voxels of mean and log variance (sub-voxel
convolution: Shi et al. 2016, arXiv 1609.05158), so that the finest grid costs nothing but the head::

    input (30 nm) ── member 0 ── head ─ unpack ── mean, log variance (10 nm) ┐
                  ├─ member 1 ── ...                                         ├ mean, aleatoric, epistemic
                  └─ member 2 ── ...                                         ┘

Members differ in nothing but their random weights and batches (deep ensembles: Lakshminarayanan et al. 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from connectoscope.errors import UserError
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments, depth_to_space
from connectoscope.volumes.geometry import Index3

NAME = "unet3d-upscaling"
MIDDLE = 0.5  # mean that an untrained member says
LOG_VARIANCE = -4.0  # and its log variance
BOUNDS = (-12.0, 2.0)  # of the log variance


@dataclass(frozen=True)
class UpscalingArguments:
    """All that :class:`Upscaling` is built from; stands in the model card.

    Args:
        members: Networks of the ensemble.
        scale: Output voxels per input voxel, along each axis.
        member: The U-Net of each; its outputs are the sub-voxels of mean and log variance.
    """

    members: int
    scale: int
    member: UNet3dArguments

    @classmethod
    def parse(cls, name: str, arguments: Mapping[str, Any]) -> UpscalingArguments:
        """From a card's or a recipe's JSON values.

        Raises:
            UserError: for another architecture or arguments that it does not take.
        """
        if name != NAME:
            raise UserError(f"architecture '{name}' does not reconstruct; known: {NAME}")
        try:
            rest = dict(arguments)
            members, scale = int(rest.pop("members")), int(rest.pop("scale"))
            if not (1 <= members <= 16 and 1 <= scale <= 4):
                raise ValueError("members must be 1 to 16, scale 1 to 4")
            return cls(members, scale, UNet3dArguments.parse({**rest, "outputs": 2 * scale**3}))
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"architecture {name} cannot be built: {error}") from None

    def to_json(self) -> dict[str, Any]:
        own = {k: v for k, v in self.member.to_json().items() if k != "outputs"}
        return {"members": self.members, "scale": self.scale, **own}

    @property
    def values_per_voxel(self) -> float:
        """As :attr:`UNet3dArguments.values_per_voxel`, with what all members write."""
        return self.member.values_per_voxel + self.members * self.member.outputs


class Upscaling(nn.Module):
    """The ensemble; see the module's picture.

    Args:
        seed: Of the first member's weights; the others' follow.
    """

    def __init__(self, arguments: UpscalingArguments, seed: int = 0) -> None:
        super().__init__()
        self.arguments = arguments
        self.members = nn.ModuleList()
        for k in range(arguments.members):
            torch.manual_seed(seed + k)
            self.members.append(_smooth_head(UNet3d(arguments.member), arguments.scale**3))

    def forward(self, x: Tensor, halo: Index3 = (0, 0, 0)) -> Tensor:
        """``(members, B, 2, scale * Z, scale * Y, scale * X)`` float32, mean (EM intensity 0-1) and log variance, of
        ``(B, 1, Z, Y, X)``, without the ``halo`` input voxels at each side.
        """
        return torch.stack([self.member(k, x, halo) for k in range(self.arguments.members)])

    def member(self, k: int, x: Tensor, halo: Index3 = (0, 0, 0)) -> Tensor:
        """Of member ``k`` alone, ``(B, 2, ...)``."""
        s = self.arguments.scale
        y = depth_to_space(self.members[k](x, halo), (s, s, s)).float()
        return torch.stack((MIDDLE + y[:, 0], (LOG_VARIANCE + y[:, 1]).clamp(*BOUNDS)), dim=1)


def _smooth_head(network: UNet3d, parts: int) -> UNet3d:
    """The sub-voxels of a voxel begin alike, or their pattern stays in the image (ICNR: Aitken et al. 2017,
    arXiv 1707.02937).
    """
    with torch.no_grad():
        for values in network.head.parameters():
            values.copy_(values[::parts].repeat_interleave(parts, 0))
    return network


def combined(members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, aleatoric and epistemic variance ``(...)`` of ``(members, 2, ...)``: mean of the variances, and variance of
    the means (Kendall and Gal 2017, arXiv 1703.04977).
    """
    means = members[:, 0]
    return means.mean(0), members[:, 1].exp().mean(0), means.var(0, unbiased=False)
