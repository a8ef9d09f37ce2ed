"""Pruning while a network trains: when masks are chosen anew, by which rule, and what the weights under them do.

::

    update   0 ──── dense warm-up ──── every Δ: new masks ──── masks stay ──── last
                                        (refresh)              (last fifth)

The weights that a mask hides keep the values they had, out of the network, so that they come back with them; hidden
weights get no gradient and no momentum. Rivals (:class:`Rule`) run under the same schedule and the same share of
connections in every layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from connectoscope.errors import UserError
from connectoscope.networks.unet3d import UNet3d
from connectoscope.networks.wiring import Layer, wiring_of
from connectoscope.pruning.balance import coding_entropy, log_odds, top
from connectoscope.pruning.masks import Actuator, Masks, choose, choose_channels, density_of, fan_out
from connectoscope.pruning.rates import OnRates

Rule = Literal["budgeted-broadcast", "magnitude", "shuffled", "reversed", "rigl", "set"]
"""Which connections a refresh keeps: by the balance; the strongest of each layer; by the balance with the on-rates of each
layer shuffled or reversed in order among its units (what remains of the rule when activity is taken out of it, or turned
round); RigL (Evci et al. 2020, arXiv 1911.11134) and SET (Mocanu et al. 2018, arXiv 1707.04780), which drop the weakest
and grow new ones from 0, by gradient or at random."""
GROWN = 0.3  # share of a layer's connections that RigL and SET exchange at the first refresh; falls by a cosine to 0


@dataclass(frozen=True)
class Schedule:
    """Updates: ``warm_up`` dense ones, a refresh every ``every``, none in the last fifth of ``steps``."""

    steps: int
    warm_up: int
    every: int = 100

    @property
    def frozen_from(self) -> int:
        return self.steps - self.steps // 5

    def refreshes(self, step: int) -> bool:
        """Whether masks are chosen anew after update ``step`` (from 1 on)."""
        since = step - self.warm_up
        return since >= 0 and since % self.every == 0 and step <= self.frozen_from

    def exchanged(self, step: int) -> float:
        """Share of the connections that RigL and SET exchange at this refresh."""
        share = (step - self.warm_up) / max(self.frozen_from - self.warm_up, 1)
        return GROWN / 2 * (1 + float(np.cos(np.pi * min(share, 1.0))))


class Pruner:
    """Masks of one network under training.

    Args:
        network: Its weights are masked in place.
        density: Share of the prunable connections that stays; with ``layers``, of each.
        beta: Multiple of the default slope of the balance.
        layers: Connections that stay in each layer, by name: for rivals, those that the rule left.
        structured: Whole channels go.
        seed: Of what is shuffled or grown at random.
    """

    def __init__(
        self,
        network: UNet3d,
        schedule: Schedule,
        rule: Rule,
        density: float,
        *,
        actuator: Actuator = "out",
        beta: float = 1.0,
        layers: Mapping[str, int] | None = None,
        structured: bool = False,
        seed: int = 0,
    ) -> None:
        self.network, self.schedule, self.rule = network, schedule, rule
        self.density, self.actuator, self.beta, self.layers = density, actuator, beta, layers
        self.structured, self.seed = structured, seed
        self.wiring = wiring_of(network.arguments)
        self.rates = OnRates(network)
        self.masks: dict[str, Tensor] = {}
        self.hidden: dict[str, Tensor] = {}  # weights under the masks, as they were when they were hidden
        self._weights = {layer.name: network.get_parameter(layer.weight) for layer in self.wiring.prunable}

    @property
    def signature(self) -> str:
        """What decides the masks besides the data; a checkpoint of another pruning is refused."""
        facts = {
            k: getattr(self, k)
            for k in ("rule", "density", "actuator", "beta", "layers", "structured", "seed")
        }
        return json.dumps({**facts, **vars(self.schedule)}, sort_keys=True)

    def check(self) -> None:
        """Before anything is trained.

        Raises:
            UserError: the density cannot be reached, or whole channels are asked for by a rule without activity.
        """
        if self.structured and self.rule in ("magnitude", "rigl", "set"):
            raise UserError(
                f"rule {self.rule} removes single connections only; whole channels (--structured) need "
                "--rule budgeted-broadcast, shuffled or reversed"
            )
        if self.rule in ("magnitude", "rigl", "set"):
            for layer in self.wiring.prunable:
                if not self._kept(layer):
                    raise self._lost(layer.name)
        elif not self.structured:
            even = {layer.name: np.full(layer.outputs, 0.5) for layer in self.wiring.layers}
            choose(self.wiring, even, self.strengths(), self.density, self.actuator, self.beta)

    def figures(self) -> dict[str, float]:
        """For the curves: share of connections that stay, mean on-rate, coding entropy per unit (bits)."""
        rates = np.concatenate([*self.rates.values().values(), np.zeros(0)])
        masks = {name: mask.cpu().numpy() for name, mask in self.masks.items()}
        return {
            "density": density_of(masks) if masks else 1.0,
            "on-rate": float(rates.mean()) if len(rates) else 0.0,
            "entropy": coding_entropy(rates) / len(rates) if len(rates) else 0.0,
        }

    def balance(self) -> dict[str, list[tuple[float, float]]]:
        """(log((1 - a) / a), fan-out) of every unit, by sending layer; empty before there are masks."""
        if not self.masks:
            return {}
        rates = self.rates.values()
        fans = fan_out(self.wiring, {name: mask.cpu().numpy() for name, mask in self.masks.items()})
        return {
            name: [(float(x), float(k)) for x, k in zip(log_odds(rates[name]), fan, strict=True)]
            for name, fan in fans.items()
        }

    def before_step(self, step: int) -> None:
        """Between the gradient and the optimiser's update ``step`` (from 1 on): hidden weights get no gradient."""
        if self.rule == "rigl" and self.schedule.refreshes(step):
            self._gradients = {n: _means(w.grad) for n, w in self._weights.items() if w.grad is not None}
        for name, mask in self.masks.items():
            gradient = self._weights[name].grad
            if gradient is not None:
                gradient.mul_(_wide(mask))

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """After update ``step`` (from 1 on): new masks where the schedule says so; hidden weights stay 0."""
        self._hide()
        if self.schedule.refreshes(step):
            self._refresh(step)
            for name, mask in self.masks.items():
                for value in optimizer.state[self._weights[name]].values():
                    if isinstance(value, Tensor) and value.shape == self._weights[name].shape:
                        value.mul_(_wide(mask))

    def strengths(self) -> dict[str, NDArray[np.float64]]:
        """Mean |w| of each connection, (outputs, inputs) by layer; hidden ones with what they come back with."""
        found = {}
        for name, weight in self._weights.items():
            full = weight.detach()
            if name in self.masks:
                full = full + self.hidden[name]
            found[name] = _means(full)
        return found

    def masked(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the network (an average of its weights, say) under the masks as they are."""
        names = {self.wiring.layer(name).weight: mask for name, mask in self.masks.items()}
        return {
            key: value * _wide(names[key]).to(value.dtype) if key in names else value
            for key, value in state.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint."""
        state = {f"rates/{k}": v for k, v in self.rates.state().items()}
        state |= {f"mask/{k}": v for k, v in self.masks.items()}
        return state | {f"hidden/{k}": v for k, v in self.hidden.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"rates": {}, "mask": {}, "hidden": {}}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            parts[kind][name] = value
        self.rates.restore(parts["rates"])
        self.masks, self.hidden = (
            {name: value.to(self._weights[name].device) for name, value in parts[kind].items()}
            for kind in ("mask", "hidden")
        )
        self.rates.deaf = _deaf(parts["mask"])

    def _refresh(self, step: int) -> None:
        rng = np.random.default_rng([self.seed, step])
        exchange = self.rule in ("rigl", "set") and bool(self.masks)
        chosen = self._exchanged(step, rng) if exchange else self._chosen()
        for name, mask in chosen.items():
            if not mask.any():
                raise self._lost(name)
        self._show()
        for name, mask in chosen.items():
            weight = self._weights[name]
            self.masks[name] = torch.from_numpy(mask).to(weight.device)
            self.hidden[name] = torch.zeros_like(weight)
        self._hide()
        self.rates.deaf = _deaf(self.masks)

    def _chosen(self) -> Masks:
        strengths = self.strengths()
        if self.rule in ("magnitude", "rigl", "set"):
            return {
                layer.name: _strongest(strengths[layer.name], self._kept(layer))
                for layer in self.wiring.prunable
            }
        rates = self.rates.values()
        if self.rule == "shuffled":
            same = np.random.default_rng(
                self.seed
            )  # at every refresh: what changes is the activity, as for the rule
            rates = {name: same.permutation(values) for name, values in sorted(rates.items())}
        if self.rule == "reversed":
            rates = {name: _reversed(values) for name, values in rates.items()}
        if self.structured:
            return choose_channels(self.wiring, rates, strengths, self.density)
        return choose(self.wiring, rates, strengths, self.density, self.actuator, self.beta)

    def _lost(self, name: str) -> UserError:
        return UserError(
            f"at density {self.density} the layer {name} would lose all its inputs; choose a higher --density"
        )

    def _kept(self, layer: Layer) -> int:
        if self.layers is not None:
            return self.layers[layer.name]
        return round(self.density * layer.outputs * layer.inputs)

    def _exchanged(self, step: int, rng: np.random.Generator) -> Masks:
        """The weakest connections go, as many hidden ones grow, from 0."""
        strengths = {name: _means(w.detach()) for name, w in self._weights.items()}
        masks: Masks = {}
        for name, old in self.masks.items():
            mask = old.cpu().numpy().copy()
            count = min(round(self.schedule.exchanged(step) * mask.sum()), int((~mask).sum()))
            want = self._gradients[name] if self.rule == "rigl" else rng.random(mask.shape)
            grown = _strongest(np.where(mask, -1.0, want), count)
            weakest = _strongest(np.where(mask, -strengths[name], -np.inf), count)
            masks[name] = (mask & ~weakest) | grown
            self.hidden[name].zero_()
        return masks

    def _hide(self) -> None:
        """What the masks cover leaves the network; its values are kept."""
        with torch.no_grad():
            for name, mask in self.masks.items():
                weight, wide = self._weights[name], _wide(mask)
                self.hidden[name].add_(weight * ~wide)
                weight.mul_(wide)

    def _show(self) -> None:
        with torch.no_grad():
            for name, values in self.hidden.items():
                self._weights[name].add_(values)


def _deaf(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Units that the masks cut off from all their inputs."""
    return {name: ~mask.any(1).cpu() for name, mask in masks.items()}


def _wide(mask: Tensor) -> Tensor:
    return mask[:, :, None, None, None]


def _means(weight: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = weight.abs().cpu().double().mean((2, 3, 4)).numpy()
    return found


def _strongest(values: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """The ``count`` greatest of a layer, (outputs, inputs)."""
    return top(values.reshape(1, -1), np.array([count])).reshape(values.shape)


def _reversed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same rates, the highest going to the unit that had the lowest."""
    order = np.argsort(values, kind="stable")
    result = np.empty_like(values)
    result[order] = values[order[::-1]]
    return result
