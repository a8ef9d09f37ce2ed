"""Logits smoothed within each section: what a network says of one pixel is noisier than what is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from connectoscope.volumes.geometry import Index3


def radius(sigmas: Sequence[float]) -> int:
    """Pixels of y and x that a smoothed one depends on to each side: the Gaussians end after three sigma."""
    return max((math.ceil(3 * sigma) for sigma in sigmas), default=0)


def smoothed(
    logits: Callable[[Tensor, Index3], Tensor],
    x: Tensor,
    halo: Index3,
    stem: Index3,
    sigmas: Sequence[float],
) -> Tensor:
    """Gaussian smoothing along y and x of what a network says of ``x``; at the ends of ``x`` the last pixel goes on.

    Args:
        logits: The network: logits ``(B, C, Z, Y, X)`` of an input, without the halo that it is given.
        halo: Voxels left out at each side, multiples of the stem; the smoothing reads of them what it needs.
        sigmas: In pixels, one for each of the C outputs, 0 for none; or empty, for none at all.
    """
    reach = radius(sigmas)
    if not reach:
        return logits(x, halo)
    around = [min(-(-reach // s) * s, h) for s, h in zip(stem[1:], halo[1:], strict=True)]
    values = logits(x, (halo[0], halo[1] - around[0], halo[2] - around[1])).float()
    steps = torch.arange(-reach, reach + 1, device=values.device)
    weights = torch.stack([_gaussian(steps, sigma) for sigma in sigmas])[:, None]  # (C, 1, 2 * reach + 1)
    values = F.pad(values, (reach,) * 4 + (0, 0), mode="replicate")
    if not torch.onnx.is_in_onnx_export():  # it knows no such layout, which halves the time of what follows
        values = values.contiguous(memory_format=torch.channels_last_3d)
    values = F.conv3d(values, weights[:, :, None, None, :], groups=len(sigmas))
    values = F.conv3d(values, weights[:, :, None, :, None], groups=len(sigmas))
    rows, columns = (slice(a, n - a) for a, n in zip(around, values.shape[3:], strict=True))
    return values[..., rows, columns].contiguous()


def _gaussian(steps: Tensor, sigma: float) -> Tensor:
    values = torch.exp(-0.5 * (steps / sigma) ** 2) if sigma else (steps == 0).float()
    values = torch.where(steps.abs() <= math.ceil(3 * sigma), values, 0.0)
    return values / values.sum()
