"""Batch norm folded into the convolution before it: the same function with half of the layers."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of ``network`` for inference in which each batch norm that follows a convolution is part of it.

    Equal to the original in evaluation mode up to float rounding. Works on any module whose convolution and batch
    norm are neighbours in an ``nn.Sequential``.
    """
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        if isinstance(module, nn.Sequential):
            names = list(module._modules)
            for first, second in pairwise(names):
                conv, norm = module._modules[first], module._modules[second]
                if isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
                    module._modules[first] = _folded(conv, norm)
                    module._modules[second] = nn.Identity()
    return folded


def _folded(conv: nn.Conv3d, norm: nn.BatchNorm3d) -> nn.Conv3d:
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("batch norm without running statistics cannot be folded")
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight)
        shift = -norm.running_mean * scale + (0.0 if norm.bias is None else norm.bias)
        result = nn.Conv3d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
        ).to(conv.weight.device)
        result.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1, 1))
        result.bias.copy_(  # type: ignore[union-attr]
            shift if conv.bias is None else conv.bias * scale + shift
        )
    return result
