"""Which connections stay: masks over (receiving channel, sending channel) of every prunable layer.

- **SP-out** gives each sending unit an audience of k_j connections over all layers that read it, by its own on-rate.
- **SP-in** gives each receiving unit a fan-in of k_i connections within its layer, by its own on-rate.
- **Both** keeps what both keep, at one shared density ρ' ≥ ρ, found by bisection so that what is left meets ρ.

The strongest are kept, by the mean of |w| over the kernel, of the full row or column, so that a pruned connection comes
back when it becomes one of the strongest. Where several layers read a unit, its connections are compared relative to the
mean of their layer: batch norm makes the scale of a layer's weights meaningless, and it differs between layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from connectoscope.networks.wiring import Wiring
from connectoscope.pruning.balance import LOWEST, degrees, top

Actuator = Literal["in", "out", "both"]
Masks = dict[str, NDArray[np.bool_]]  # by layer: (outputs, inputs), True where a connection stays
Rates = Mapping[str, NDArray[np.float64]]  # by layer: on-rate of each output channel
Strengths = Mapping[
    str, NDArray[np.float64]
]  # by prunable layer: (outputs, inputs), mean |w| over the kernel
SLOPE = 4.0  # β is this over D


def choose(
    wiring: Wiring, rates: Rates, strengths: Strengths, density: float, actuator: Actuator, beta: float = 1.0
) -> Masks:
    """Masks at a density, over the prunable layers.

    Args:
        density: Share of the prunable connections that stays, greater than 0, at most 1.
        beta: Multiple of the default slope, β = 4 / D.

    Raises:
        UserError: a unit would keep less than one connection.
    """
    if actuator == "in":
        return _fan_in(wiring, rates, strengths, density, beta)
    if actuator == "out":
        return _fan_out(wiring, rates, strengths, density, beta)
    return _both(wiring, rates, strengths, density, beta)


def choose_channels(wiring: Wiring, rates: Rates, strengths: Strengths, density: float) -> Masks:
    """The structured variant: whole channels keep their audience or lose all of it.

    Of each sending layer the share √ρ of its units stays, so that about ρ of the connections does: those with the least
    traffic per use. Traffic is a_j (each keeps a full audience), use is what an audience can learn from it and how much
    that weighs: H_b(a_j) Σ |w|, the sum over its audience. Units that are always on have traffic and no use.
    """
    masks: Masks = {layer.name: np.ones((layer.outputs, layer.inputs), np.bool_) for layer in wiring.prunable}
    for sender in wiring.senders:
        links = wiring.consumers(sender)
        weight = sum(strengths[k.receiver][:, k.first : k.first + k.channels].sum(0) for k in links)
        a = np.clip(rates[sender], LOWEST, 1 - LOWEST)
        entropy = -(a * np.log2(a) + (1 - a) * np.log2(1 - a))
        cost = a / np.maximum(entropy * weight, 1e-12)
        count = max(round(np.sqrt(density) * len(a)), 1)
        lost = np.argsort(cost, kind="stable")[count:]
        for link in links:
            masks[link.receiver][:, link.first + lost] = False
        if sender in masks:  # what nobody hears need not listen
            masks[sender][lost] = False
    return masks


def density_of(masks: Masks) -> float:
    """Share of the connections that stays."""
    return sum(int(m.sum()) for m in masks.values()) / sum(m.size for m in masks.values())


def fan_out(wiring: Wiring, masks: Masks) -> dict[str, NDArray[np.int64]]:
    """k_j: connections that each unit sends, by sending layer."""
    return {
        sender: np.sum(
            [masks[k.receiver][:, k.first : k.first + k.channels].sum(0) for k in wiring.consumers(sender)],
            axis=0,
        )
        for sender in wiring.senders
    }


def _fan_in(wiring: Wiring, rates: Rates, strengths: Strengths, density: float, beta: float) -> Masks:
    masks: Masks = {}
    totals = _shares([layer.outputs * layer.inputs for layer in wiring.prunable], density)
    for layer, total in zip(wiring.prunable, totals, strict=True):
        slope = beta * SLOPE / layer.inputs
        counts = degrees(rates[layer.name], layer.inputs, total, slope)
        masks[layer.name] = top(strengths[layer.name], counts)
    return masks


def _fan_out(wiring: Wiring, rates: Rates, strengths: Strengths, density: float, beta: float) -> Masks:
    masks: Masks = {
        layer.name: np.zeros((layer.outputs, layer.inputs), np.bool_) for layer in wiring.prunable
    }
    audiences = [
        sum(wiring.layer(link.receiver).outputs * link.channels for link in wiring.consumers(sender))
        for sender in wiring.senders
    ]
    relative = {name: values / max(values.mean(), 1e-12) for name, values in strengths.items()}
    for sender, total in zip(wiring.senders, _shares(audiences, density), strict=True):
        links = wiring.consumers(sender)
        columns = [
            relative[link.receiver][:, link.first : link.first + link.channels].T for link in links
        ]  # (units of the sender, outputs of the receiver) each
        audience = np.concatenate(columns, axis=1)
        most = audience.shape[1]
        counts = degrees(rates[sender], most, total, beta * SLOPE / most)
        kept = top(audience, counts)
        at = 0
        for link, column in zip(links, columns, strict=True):
            part = kept[:, at : at + column.shape[1]]
            masks[link.receiver][:, link.first : link.first + link.channels] = part.T
            at += column.shape[1]
    return masks


def _both(wiring: Wiring, rates: Rates, strengths: Strengths, density: float, beta: float) -> Masks:
    total = round(density * sum(layer.outputs * layer.inputs for layer in wiring.prunable))

    def at(shared: float) -> Masks:
        one = _fan_in(wiring, rates, strengths, shared, beta)
        other = _fan_out(wiring, rates, strengths, shared, beta)
        return {name: one[name] & other[name] for name in one}

    low, high = density, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if sum(int(m.sum()) for m in at(middle).values()) < total:
            low = middle
        else:
            high = middle
    masks = at(high)
    surplus = sum(int(m.sum()) for m in masks.values()) - total
    if surplus > 0:  # one step of ρ' adds several connections: the weakest go, relative to their layer's mean
        places = [
            (float(strengths[name][i, j] / strengths[name].mean()), name, int(i), int(j))
            for name, mask in masks.items()
            for i, j in np.argwhere(mask)
        ]
        for _, name, i, j in sorted(places)[:surplus]:
            masks[name][i, j] = False
    return masks


def _shares(sizes: list[int], density: float) -> list[int]:
    """Connections that stay in each group: ``density`` of each, and of all together to one (largest remainder)."""
    exact = density * np.array(sizes)
    kept = np.floor(exact + 1e-9).astype(np.int64)
    left = round(density * sum(sizes)) - int(kept.sum())
    for group in np.argsort(kept - exact, kind="stable")[:left]:
        kept[group] += 1
    return [int(n) for n in kept]
