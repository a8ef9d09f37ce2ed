"""What pruning did to a model, in figures: size, work, speed, accuracy, before and after."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from connectoscope.evaluation.voxels import PrecisionRecall
from connectoscope.networks.fold import fold_batch_norm
from connectoscope.networks.precision import mixed_precision
from connectoscope.networks.split import split
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.networks.wiring import wiring_of
from connectoscope.pruning.balance import coding_entropy
from connectoscope.pruning.masks import Rates
from connectoscope.volumes.geometry import Index3

TIMED = 5  # forward passes; the median counts


def weights_kept(arguments: UNet3dArguments, state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Weights of the convolutions that are not 0, and all of them."""
    tensors = [state[layer.weight] for layer in wiring_of(arguments).layers]
    return sum(int((t != 0).sum()) for t in tensors), sum(t.numel() for t in tensors)


def macs(arguments: UNet3dArguments, state: Mapping[str, Tensor] | None = None) -> float:
    """Multiplications of a forward pass per input voxel; with ``state``, of its connections that are not 0 alone."""
    stride = np.cumprod(np.array([arguments.stem, *arguments.strides]), axis=0).prod(
        axis=1
    )  # voxels, by level
    total = 0.0
    for layer in wiring_of(arguments).layers:
        parts = layer.name.split(".")
        level = int(parts[1]) + (parts[0] == "ups") if len(parts) > 1 else 0
        kept = (
            layer.outputs * layer.inputs
            if state is None
            else int((state[layer.weight] != 0).any((2, 3, 4)).sum())
        )
        total += kept * layer.kernel / float(stride[level])
    return total


def seconds_per_megavoxel(network: UNet3d, tile: Index3, device: str) -> float:
    """Of forward passes of a tile as the engine makes them, in mixed precision; the median of five after one."""
    folded = fold_batch_norm(split(network)).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = torch.zeros((1, 1, *tile), device=device).to(memory_format=torch.channels_last_3d)
    taken = []
    with torch.inference_mode(), mixed_precision(device):
        for _ in range(TIMED + 1):
            started = time.perf_counter()
            folded(x).sum().item()
            taken.append(time.perf_counter() - started)
    return sorted(taken[1:])[TIMED // 2] / (math.prod(tile) / 1e6)


def figures(
    network: UNet3d,
    curves: Mapping[str, PrecisionRecall],
    rates: Rates,
    likeness: Mapping[str, float],
    tile: Index3,
    device: str,
) -> dict[str, Any]:
    """One column of the receipt.

    Args:
        curves: Of each output, on planes that were not trained on.
        rates, likeness: Of each layer, on the same planes (:mod:`connectoscope.pruning.rates`); of likeness there is none
            where no layer has two units that change.
    """
    units = np.concatenate(list(rates.values()))
    kept, total = weights_kept(network.arguments, network.state_dict())
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "weights": total,
        "weights_not_0": kept,
        "macs_per_voxel": round(macs(network.arguments), 1),
        "seconds_per_megavoxel": round(seconds_per_megavoxel(network, tile, device), 4),
        "entropy": round(coding_entropy(units) / len(units), 4),
        "likeness": round(float(np.mean(list(likeness.values()))), 4) if likeness else None,
        "average_precision": {name: round(curve.average_precision, 4) for name, curve in curves.items()},
        "f1": {name: round(curve.best()[0], 4) for name, curve in curves.items()},
    }


def rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[list[str]]:
    """Both columns as text: (what, before, after)."""
    table = [
        ["parameters", f"{before['parameters']:,}", f"{after['parameters']:,}"],
        ["weights that are not 0", f"{before['weights_not_0']:,}", f"{after['weights_not_0']:,}"],
        ["multiplications per voxel", f"{before['macs_per_voxel']:,.0f}", f"{after['macs_per_voxel']:,.0f}"],
        [
            "seconds per megavoxel",
            f"{before['seconds_per_megavoxel']:.3f}",
            f"{after['seconds_per_megavoxel']:.3f}",
        ],
    ]
    for what, key in (
        ("coding entropy of a unit, bits", "entropy"),
        ("mean |correlation| of units", "likeness"),
    ):
        table.append([what, *("-" if side[key] is None else f"{side[key]:.3f}" for side in (before, after))])
    for name in after["average_precision"]:
        for metric, key in (("average precision", "average_precision"), ("best F1", "f1")):
            table.append([f"{name}: {metric}", f"{before[key][name]:.3f}", f"{after[key][name]:.3f}"])
    return table


def verdict(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Both columns in a sentence."""
    faster = before["seconds_per_megavoxel"] / after["seconds_per_megavoxel"]
    change = [after["average_precision"][name] - old for name, old in before["average_precision"].items()]
    return (
        f"{faster:.1f} times as fast, {after['parameters'] / before['parameters']:.0%} of the parameters, "
        f"average precision {sum(change) / len(change):+.3f} in the mean of the outputs."
    )
