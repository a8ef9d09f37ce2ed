"""What units do while a network runs: how often each is on, and how alike the units of a layer are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from connectoscope.networks.unet3d import ConvUnit

ALPHA = 0.05  # weight of the newest batch


class OnRates:
    """Moving averages of the on-rate of every unit: the share of voxels (and of the batch) at which its ReLU is > 0.

    a ← (1 - α) a + α (newest), started at 0 and divided by 1 - (1 - α)^t, so that the first refresh does not take units
    for rarer than they are.

    Args:
        network: Its :class:`~connectoscope.networks.unet3d.ConvUnit` s are watched, under their names.

    Attributes:
        deaf: By layer, (units,): those that masks have cut off from all their inputs. They say the same everywhere, which
            tells nothing of what they would do, so they keep the on-rate that they had.
    """

    def __init__(self, network: nn.Module) -> None:
        self._units = {
            name: module for name, module in network.named_modules() if isinstance(module, ConvUnit)
        }
        self.sums: dict[str, Tensor] = {}
        self.batches = 0
        self.deaf: dict[str, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Every forward pass inside counts as one batch; leave before scoring, where nothing should count."""
        handles = [
            unit.register_forward_hook(lambda _, __, out, name=name: self._see(name, out))
            for name, unit in self._units.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, name: str, activity: Tensor) -> None:
        with torch.no_grad():
            rate = (activity > 0).float().mean((0, 2, 3, 4)).cpu().double()
        if name == next(iter(self._units)):
            self.batches += 1
        before = self.sums.get(name, torch.zeros_like(rate))
        if name in self.deaf and self.batches > 1:
            rate = torch.where(self.deaf[name], before / self._weight(self.batches - 1), rate)
        self.sums[name] = before + ALPHA * (rate - before)

    def values(self) -> dict[str, NDArray[np.float64]]:
        """On-rates by layer, (units,), 0 to 1; empty before the first batch."""
        return {name: (value / self._weight(self.batches)).numpy() for name, value in self.sums.items()}

    @staticmethod
    def _weight(batches: int) -> float:
        """The weight of all batches so far."""
        return float(1 - (1 - ALPHA) ** batches)

    def state(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint."""
        return {**self.sums, "batches": torch.tensor(self.batches)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.batches = int(state["batches"])
        self.sums = {name: value for name, value in state.items() if name != "batches"}


VOXELS = 4096  # of each layer, evenly spread, from which correlations are computed


@contextmanager
def watching_likeness(network: nn.Module) -> Iterator[dict[str, float]]:
    """Mean |correlation| between the units of each layer over the voxels of the forward passes inside.

    Filled by the passes, of which the mean is taken, by layer, 0 to 1; units that do not change are left out, and layers with
    fewer than two others. Lower means that units say different things (decorrelation in Budgeted Broadcast, arXiv
    2510.01263).
    """
    found: dict[str, float] = {}
    passes: dict[str, list[float]] = {}

    def see(name: str, activity: Tensor) -> None:
        values = activity.detach().float().transpose(0, 1).flatten(1)  # (units, voxels)
        values = values[:, :: max(values.shape[1] // VOXELS, 1)]
        values = values[values.std(1) > 0]
        if len(values) > 1:
            with torch.autocast(values.device.type, enabled=False):  # noqa: TID251
                off = torch.corrcoef(values).abs().fill_diagonal_(0)
            passes.setdefault(name, []).append(float(off.sum() / (len(values) * (len(values) - 1))))
            found[name] = float(np.mean(passes[name]))

    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: see(name, out))
        for name, module in network.named_modules()
        if isinstance(module, ConvUnit)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
