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
        channels: Which are read: one for each affinity that the model has, and its ``boundary``.
        offsets: To the partner of each affinity: first the voxels before along z, y, x, then those further away.
        boundary: Whether the last channel is ``boundary``.
        mutex: Fragments are made of affinities, not of ``boundary``.
    """

    channels: tuple[int, ...]
    offsets: tuple[Index3, ...]
    boundary: bool
    mutex: bool

    @property
    def reach(self) -> Index3:
        """How far, along each axis, an offset leads."""
        z, y, x = (max(abs(offset[a]) for offset in self.offsets) for a in range(3))
        return (z, y, x)

    def affinities(self, probabilities: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(offsets, z, y, x) uint8 of read channels (c, z, y, x); 0 where the partner is outside of the array.

        The affinity of neighbours by ``boundary`` is 255 less the larger of their two probabilities of membrane. Where
        the model also has affinities of its own it is the mean of the two, which separates better than either.
        """
        own = len(self.channels) - self.boundary
        made = np.zeros((len(self.offsets), *probabilities.shape[1:]), np.uint8)
        for index, offset in enumerate(self.offsets):
            here, there = pairs(made[index].shape, offset)
            if index < own:
                made[index][here] = probabilities[index][here]
            if self.boundary and index < len(BEFORE):
                membrane = np.maximum(probabilities[-1][here], probabilities[-1][there])
                weight = 2 if own else 1
                made[index][here] = (made[index][here].astype(np.uint16) + (255 - membrane)) // weight
        return made


def choose_evidence(card: Card) -> Evidence:
    """The affinities of a model, else its ``boundary``.

    Raises:
        UserError: it has neither affinities to the three voxels before each nor ``boundary``.
    """
    found = {offset: c for c, o in enumerate(card.outputs) if (offset := offset_of(o.name)) is not None}
    boundary = tuple(c for c, o in enumerate(card.outputs) if o.name == "boundary")
    if all(offset in found for offset in BEFORE):
        mutex = not boundary or (card.neurons is not None and card.neurons.fragments == "affinities")
        far = [offset for offset in found if offset not in BEFORE and mutex]
        own = tuple(found[offset] for offset in (*BEFORE, *far))
        return Evidence((*own, *boundary), (*BEFORE, *far), bool(boundary), mutex)
    if not boundary:
        raise UserError(
            f"model '{card.name}' has neither affinities nor boundary, of which neurons are made; choose another model"
        )
    return Evidence(boundary, BEFORE, boundary=True, mutex=False)
