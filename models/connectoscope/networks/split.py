"""Parts of a network that do not read each other run one after another, without the zeros between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from connectoscope.networks.compact import compacted
from connectoscope.networks.smooth import smoothed
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.networks.wiring import HEAD, wiring_of
from connectoscope.volumes.geometry import Index3


class SideBySide(nn.Module):
    """The sum of what its parts say, smoothed as the whole ``arguments`` says: the parts are not."""

    def __init__(self, arguments: UNet3dArguments, parts: list[UNet3d]) -> None:
        super().__init__()
        self.arguments = arguments
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, halo: Index3 = (0, 0, 0)) -> Tensor:
        """As :meth:`UNet3d.forward`; float32."""
        return smoothed(self._sum, x, halo, self.arguments.stem, self.arguments.smooth)

    def _sum(self, x: Tensor, halo: Index3) -> Tensor:
        logits: Tensor = self.parts[0](x, halo).float()
        for part in self.parts[1:]:
            logits += part(x, halo)
        return logits


def split(network: UNet3d) -> nn.Module:
    """The same function up to float rounding; ``network`` itself where all of it hangs together.

    Returns:
        In evaluation mode, on the CPU, where it is a new one.
    """
    groups = _groups(network)
    # A part has channels in every layer; what else hangs together goes with the first of them.
    kinds = sorted(set.intersection(*(set(numbers.tolist()) for numbers in groups.values())))
    if len(kinds) < 2:
        return network
    wiring = wiring_of(network.arguments)
    parts: list[UNet3d] = []
    for kind in kinds:
        part = UNet3d(replace(network.arguments, smooth=()))
        state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        for link in wiring.links:
            if link.receiver == HEAD:
                own = groups[link.sender]
                others = torch.from_numpy(own != kind if parts else np.isin(own, kinds[1:]))
                state[f"{HEAD}.weight"][:, link.first : link.first + link.channels][:, others] = 0
        if parts:  # once is enough
            state[f"{HEAD}.bias"].zero_()
        part.load_state_dict(state)
        parts.append(compacted(part.eval()))
    return SideBySide(network.arguments, parts).eval()


def _groups(network: UNet3d) -> dict[str, NDArray[np.int32]]:
    """The number of the part that each channel belongs to, by layer; the head, which adds them up, left out."""
    wiring, state = wiring_of(network.arguments), network.state_dict()
    layers = [layer for layer in wiring.layers if layer.name != HEAD]
    first = dict(zip((x.name for x in layers), np.cumsum([0, *(x.outputs for x in layers)]), strict=False))
    total = sum(layer.outputs for layer in layers)
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for link in wiring.links:
        if link.receiver != HEAD:
            weight = state[wiring.layer(link.receiver).weight][:, link.first : link.first + link.channels]
            one, other = (weight != 0).any((2, 3, 4)).nonzero().cpu().numpy().T
            rows.append(first[link.receiver] + one)
            columns.append(first[link.sender] + other)
    row, column = np.concatenate(rows), np.concatenate(columns)
    joins = coo_array((np.ones(len(row), np.bool_), (row, column)), shape=(total, total))
    _, number = connected_components(joins, directed=False)
    return {layer.name: number[first[layer.name] :][: layer.outputs] for layer in layers}
