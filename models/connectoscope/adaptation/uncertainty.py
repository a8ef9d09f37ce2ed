"""A model on candidate patches: its probabilities, how unsure it is of them, and its features of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from connectoscope.adaptation.features import embed, intensity_of, sees, shows_something
from connectoscope.adaptation.patches import ENTROPY
from connectoscope.networks.normalise import normalise
from connectoscope.networks.precision import best_precision
from connectoscope.volumes import Volume
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.zoo import Bundle


@dataclass(frozen=True)
class Seen:
    """A patch as the model sees it: ``box`` on its grid, ``probability`` (outputs, z, y, x) uint8 there."""

    box: Box
    probability: NDArray[np.uint8]
    features: NDArray[np.float32]

    def entropy(self, channels: list[int]) -> tuple[float, float]:
        """Mean and median over the voxels, of the mean entropy of these channels; bits."""
        values = ENTROPY[self.probability[channels]].mean(axis=0)
        return float(values.mean(dtype=np.float64)), float(np.median(values))


class Eye:
    """A model bound to patches of one size of one volume.

    Args:
        shape: Of the patches, in level-0 voxels.
        turned: Average over the four mirror images in y and x (test-time augmentation).
    """

    def __init__(
        self, bundle: Bundle, volume: Volume, shape: Index3, *, turned: bool, device: str, threads: int
    ) -> None:
        card = bundle.card
        self.network = bundle.load_network()  # first: refuses models that have none
        self.grid = sees(card, volume)
        self.low, self.high = intensity_of(card, self.grid)
        ratio = [a / b for a, b in zip(self.grid.scale, volume.levels[0].scale, strict=True)]
        core = [
            -(-(int(np.ceil(n / r)) + 1) // s) * s for n, r, s in zip(shape, ratio, card.stride, strict=True)
        ]
        halo = bundle.halo(exact=False)
        tile = tuple(c + 2 * h for c, h in zip(core, halo, strict=True))
        self.halo, self.core, self.device = halo, (core[0], core[1], core[2]), device
        self.predictor = bundle.predictor(
            tile=tile,  # type: ignore[arg-type]
            device=device,
            precision=best_precision(device),
            threads=threads,
        )
        self.flips = list(product((False, True), repeat=2)) if turned else [(False, False)]

    def look(self, box: Box) -> Seen | None:
        """At a patch (level-0 voxels); None where it shows nothing."""
        on_grid = self.grid.box_from_level(box, 0)
        tile = self.grid.read(Box(on_grid.start, on_grid.start).grown((0, 0, 0), self.core).grown(self.halo))
        inside = Box.of(self.core).shifted(self.halo).slices
        if not shows_something(tile[inside], self.low, self.high):
            return None
        image = normalise(tile, self.low, self.high)
        total = np.zeros((len(self.predictor.outputs), *self.core), np.float32)
        for y, x in self.flips:
            axes = tuple(axis for axis, flip in ((-2, y), (-1, x)) if flip)
            total += np.flip(self.predictor(np.ascontiguousarray(np.flip(image, axes))), axes)
        p = np.floor(total / len(self.flips) + 0.5).astype(np.uint8)
        kept = (slice(None), *Box.of(on_grid.shape).slices)
        return Seen(on_grid, p[kept], embed(self.network, image[inside][None], self.device)[0])

    def at_level0(self, seen: Seen, box: Box, channel: int) -> NDArray[np.uint8]:
        """Probabilities of a channel at the voxels of a level-0 box, the nearest of the grid."""
        ratio = [n / m for n, m in zip(self.grid.scale, self.grid.volume.levels[0].scale, strict=True)]
        index = [
            np.clip(((np.arange(a, b) + 0.5) / r).astype(int) - s, 0, n - 1)
            for a, b, r, s, n in zip(box.start, box.stop, ratio, seen.box.start, seen.box.shape, strict=True)
        ]
        values: NDArray[np.uint8] = seen.probability[channel][np.ix_(*index)]
        return values
