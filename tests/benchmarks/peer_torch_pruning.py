"""torch-pruning (https://github.com/VainF/Torch-Pruning): whole channels by the magnitude of their groups."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch_pruning

from connectoscope.networks.unet3d import UNet3d


def channels_of_greatest_magnitude(network: UNet3d, share: float) -> UNet3d:
    """A network without ``share`` of the channels of every layer but the head, in evaluation mode."""
    arguments = network.arguments
    cut = UNet3d(arguments).eval()
    cut.load_state_dict(network.state_dict())
    torch_pruning.pruner.MagnitudePruner(
        cut,
        torch.zeros(1, arguments.in_channels, *(4 * s for s in arguments.total_stride)),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share,
        ignored_layers=[cut.head],
    ).step()
    state = cut.state_dict()
    widths = {name: len(state[f"{name}.0.weight"]) for name in arguments.convolutions()}
    small = UNet3d(replace(arguments, widths=widths)).eval()
    small.load_state_dict(state)
    return small
