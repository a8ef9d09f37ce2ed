"""What a model says about neurons: affinities, its own or such as follow from its membranes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.segmentation.neurons.offsets import offset_of, pairs
from connectoscope.volumes.geometry import Index3

if TYPE_CHECKING:
    from connectoscope.zoo import Card

NEURONS = "neurons"
BEFORE: tuple[Index3, ...] = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
"""The neighbours whose affinities a voxel holds."""


@dataclass(frozen=True)
class Evidence:
    """Channels of the stored probabilities, and what they are about.

    Attributes:
        channels: Which are read.
        offsets: To the partner of each affinity: first the voxels before along z, y, x, then those further away.
        from_boundary: The one channel is ``boundary``, and the affinities to the three neighbours follow from it.
    """

    channels: tuple[int, ...]
    offsets: tuple[Index3, ...]
    from_boundary: bool = False

    @property
    def reach(self) -> Index3:
        """How far, along each axis, an offset leads."""
        z, y, x = (max(abs(offset[a]) for offset in self.offsets) for a in range(3))
        return (z, y, x)

    def affinities(self, probabilities: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(offsets, z, y, x) uint8 of read channels (c, z, y, x); 0 where the partner is outside of the array.

        The affinity of neighbours across a membrane is 255 less the larger of their two probabilities of membrane.
        """
        made = np.zeros((len(self.offsets), *probabilities.shape[1:]), np.uint8)
        for index, offset in enumerate(self.offsets):
            here, there = pairs(made[index].shape, offset)
            if self.from_boundary:
                made[index][here] = 255 - np.maximum(probabilities[0][here], probabilities[0][there])
            else:
                made[index][here] = probabilities[index][here]
        return made


def choose_evidence(card: Card) -> Evidence:
    """The affinities of a model, else its ``boundary``.

    Raises:
        UserError: it has neither affinities to the three voxels before each nor ``boundary``.
    """
    found = {offset: c for c, o in enumerate(card.outputs) if (offset := offset_of(o.name)) is not None}
    if all(offset in found for offset in BEFORE):
        offsets = (*BEFORE, *(o for o in found if o not in BEFORE))
        return Evidence(tuple(found[o] for o in offsets), offsets)
    boundary = next((c for c, o in enumerate(card.outputs) if o.name == "boundary"), None)
    if boundary is None:
        raise UserError(
            f"model '{card.name}' has neither affinities nor boundary, of which neurons are made; choose another model"
        )
    return Evidence((boundary,), BEFORE, from_boundary=True)
