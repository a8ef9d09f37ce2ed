"""Channels that do nothing leave the network: the same function, smaller, for any library to run faster.

A unit goes when nobody reads it (all weights to its consumers are 0), or when it says nothing: it reads nothing, and its
batch norm and ReLU make 0 of that. One that makes a constant of it stays: zero padding makes that constant visible at
the border. Removing units takes readers and senders from others, so it is repeated until nothing changes. What is left
is described by ``widths`` of the architecture; nothing is traced.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.networks.wiring import HEAD, Wiring, wiring_of

EPSILON = 1e-5  # of nn.BatchNorm3d


def compacted(network: UNet3d) -> UNet3d:
    """A new network, in evaluation mode on the CPU, with the same outputs up to float rounding.

    Every convolution keeps at least one channel.
    """
    arguments, state = network.arguments, {k: v.detach().cpu() for k, v in network.state_dict().items()}
    alive, read = living_units(arguments, state)
    widths = {name: int(units.sum()) for name, units in alive.items()}
    features = {name: arguments.features[int(name.split(".")[1])] for name in widths}
    small = UNet3d(replace(arguments, widths={n: w for n, w in widths.items() if w != features[n]}))
    small.load_state_dict(cut_state(wiring_of(arguments), state, alive, read))
    return small.eval()


def living_units(
    arguments: UNet3dArguments, state: dict[str, Tensor]
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[np.bool_]]]:
    """Which channels of each convolution do something, (channels,), and which pairs of channels are used, (out, in).

    A layer of which nothing lives keeps one channel, which then reads nothing.
    """
    wiring = wiring_of(arguments)
    read = {layer.name: (state[layer.weight] != 0).any((2, 3, 4)).numpy() for layer in wiring.layers}
    alive = {layer.name: np.ones(layer.outputs, np.bool_) for layer in wiring.layers if layer.name != HEAD}
    image = {layer.name: ~_covered(wiring, layer.name) for layer in wiring.layers}  # columns of the image
    while True:
        before = _count(alive) + _count(read)
        for name, units in alive.items():
            audience = np.zeros(len(units), np.bool_)
            for link in wiring.links:
                if link.sender == name:
                    receivers = alive.get(link.receiver, np.ones(len(read[link.receiver]), np.bool_))
                    audience |= read[link.receiver][receivers][
                        :, link.first : link.first + link.channels
                    ].any(0)
            inputs = image[name].copy()
            for link in wiring.links:
                if link.receiver == name:
                    inputs[link.first : link.first + link.channels] = alive[link.sender]
            hears = read[name][:, inputs].any(1)
            kept = units & audience & (hears | (_silence(state, name) > 0))
            if not kept.any():
                kept = np.zeros(len(units), np.bool_)
                kept[int(np.argmax(units))] = True
                read[name][:] = False
            alive[name] = kept
        if _count(alive) + _count(read) == before:
            return alive, read


def cut_state(
    wiring: Wiring,
    state: dict[str, Tensor],
    alive: dict[str, NDArray[np.bool_]],
    read: dict[str, NDArray[np.bool_]],
) -> dict[str, Tensor]:
    """The state dict with only the living channels, and 0 where nothing is read."""
    result = dict(state)
    for layer in wiring.layers:
        columns = np.ones(layer.inputs, np.bool_)
        for link in wiring.links:
            if link.receiver == layer.name:
                columns[link.first : link.first + link.channels] = alive[link.sender]
        used = torch.from_numpy(read[layer.name])[:, :, None, None, None]
        weight = (state[layer.weight] * used)[:, torch.from_numpy(columns)]
        if layer.name != HEAD:
            rows = torch.from_numpy(alive[layer.name])
            weight = weight[rows]
            for key in ("weight", "bias", "running_mean", "running_var"):
                name = f"{layer.name}.1.{key}"
                result[name] = state[name][rows]
        result[layer.weight] = weight
    return result


def _count(marks: dict[str, NDArray[np.bool_]]) -> int:
    return sum(int(values.sum()) for values in marks.values())


def _covered(wiring: Wiring, name: str) -> NDArray[np.bool_]:
    """Columns of a layer that come from units rather than from the image."""
    columns = np.zeros(wiring.layer(name).inputs, np.bool_)
    for link in wiring.links:
        if link.receiver == name:
            columns[link.first : link.first + link.channels] = True
    return columns


def _silence(state: dict[str, Tensor], name: str) -> NDArray[np.float64]:
    """What each unit gives when it reads nothing: batch norm of 0, before the ReLU."""
    gain, shift, mean, variance = (
        state[f"{name}.1.{key}"].double().numpy() for key in ("weight", "bias", "running_mean", "running_var")
    )
    result: NDArray[np.float64] = shift - mean * gain / np.sqrt(variance + EPSILON)
    return result
