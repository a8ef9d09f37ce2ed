"""Targets that are derived from instance labels: membranes between objects, and affinities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from connectoscope.segmentation.neurons.offsets import offset_of, pairs
from connectoscope.training.labels import boundaries

INSTANCES = "neuron"
"""The label of a recipe's volume from which targets are derived: ids of objects, 0 is unlabelled."""
UNKNOWN = 255
"""In a target, where there is nothing to learn."""


def can_derive(name: str) -> bool:
    """Whether an output of this name follows from instance labels."""
    return name == "boundary" or offset_of(name) is not None


def derive(instances: NDArray[np.int32], names: Sequence[str]) -> NDArray[np.uint8]:
    """Targets (C, Z, Y, X) uint8 of the outputs ``names``: 0, 1 or :data:`UNKNOWN`.

    ``boundary`` is a voxel whose 6-neighbourhood holds another id, dilated once; an affinity is 1 where a voxel and its
    partner have one id. Unlabelled voxels, and affinities to what is unlabelled or outside of the array, are unknown.

    Args:
        instances: Ids (Z, Y, X), 0 is unlabelled.
    """
    targets = np.empty((len(names), *instances.shape), np.uint8)
    for target, name in zip(targets, names, strict=True):
        offset = offset_of(name)
        if offset is None:
            target[:] = boundaries(instances)
            target[instances == 0] = UNKNOWN
            continue
        target[:] = UNKNOWN
        here, there = pairs(instances.shape, offset)
        a, b = instances[here], instances[there]
        target[here] = np.where((a > 0) & (b > 0), a == b, UNKNOWN)
    return targets
