"""Networks side by side in one: its logits are a weighted mean of theirs.

What one of them computes the others do not read: weights between them are 0. Two networks of half the channels so cost
what one of all channels does, and have been trained apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.networks.wiring import HEAD, wiring_of


def joined(
    parts: Sequence[UNet3d], shares: Sequence[Sequence[float]], smooth: Sequence[float] | None = None
) -> UNet3d:
    """A new network, in evaluation mode on the CPU, with the means of the parts' logits up to float rounding.

    Args:
        parts: In evaluation mode, alike but for ``features`` and ``widths``, and ``smooth`` where that is given.
        shares: Of each part in each output; those of an output make 1.
        smooth: Of the new network, as in :class:`UNet3dArguments`; None: as of the parts.

    Raises:
        ValueError: parts are not alike, shares are not as many as parts and outputs or do not make 1, or ``smooth``
            is not one number of pixels for each output.
    """
    every = [p.arguments if smooth is None else replace(p.arguments, smooth=tuple(smooth)) for p in parts]
    first = every[0]
    if any(replace(a, features=first.features, widths={}) != replace(first, widths={}) for a in every):
        raise ValueError("networks that are joined must be alike but for their channels")
    if len(shares) != len(parts) or any(len(share) != first.outputs for share in shares):
        raise ValueError(f"{len(parts)} networks of {first.outputs} outputs need as many shares")
    if any(abs(sum(column) - 1) > 1e-6 for column in zip(*shares, strict=True)):
        raise ValueError("the shares of an output must make 1")
    names = [layer.name for layer in wiring_of(first).layers if layer.name != HEAD]
    widths = {name: sum(part.arguments.width(name) for part in parts) for name in names}
    features = tuple(widths[f"encoders.{level}.0"] for level in range(len(first.features)))
    network = UNet3d(replace(first, features=features, widths=_others(widths, features)))
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    rows = dict.fromkeys(names, 0)  # channels of each layer that the parts before take
    for part, share in zip(parts, shares, strict=True):
        voxels = part.head.out_channels // first.outputs  # that the head writes at once
        _put(part, torch.tensor(share).repeat_interleave(voxels), state, rows, network.arguments)
        for name in names:
            rows[name] += part.arguments.width(name)
    network.load_state_dict(state)
    return network.eval()


def _others(widths: dict[str, int], features: tuple[int, ...]) -> dict[str, int]:
    """The widths that do not follow from the features."""
    return {name: width for name, width in widths.items() if width != features[int(name.split(".")[1])]}


def _put(
    part: UNet3d, share: Tensor, state: dict[str, Tensor], rows: dict[str, int], whole: UNet3dArguments
) -> None:
    """Write the part's weights into ``state``, each layer's from its row of ``rows`` on, the head's times ``share``."""
    own, wiring, target = part.state_dict(), wiring_of(part.arguments), wiring_of(whole)
    for layer in wiring.layers:
        weight, values = state[layer.weight], own[layer.weight]
        if layer.name == HEAD:
            here = slice(None)
            values = values * share.reshape(-1, 1, 1, 1, 1)
            state[f"{HEAD}.bias"] += own[f"{HEAD}.bias"] * share
        else:
            here = slice(rows[layer.name], rows[layer.name] + layer.outputs)
            for key in ("weight", "bias", "running_mean", "running_var"):
                state[f"{layer.name}.1.{key}"][here] = own[f"{layer.name}.1.{key}"]
        links = [link for link in wiring.links if link.receiver == layer.name]
        if not links:  # reads the image, which all see
            weight[here] = values
        for link in links:
            at = next(t.first for t in target.links if (t.sender, t.receiver) == (link.sender, link.receiver))
            columns = slice(at + rows[link.sender], at + rows[link.sender] + link.channels)
            weight[here, columns] = values[:, link.first : link.first + link.channels]
