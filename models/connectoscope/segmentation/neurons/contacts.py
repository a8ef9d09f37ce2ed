"""Contacts between fragments: where two of them meet, over how many faces of voxels, and with which affinities."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.segmentation.neurons.evidence import BEFORE
from connectoscope.segmentation.neurons.offsets import pairs
from connectoscope.volumes.geometry import Box

Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class Contacts:
    """Pairs of fragments, one row each, sorted; sums are whole numbers, so that they add up in any order.

    Attributes:
        pairs: Ids (n, 2), the smaller first.
        faces: Voxel faces across z, y, x that they share, (n, 3).
        affinity: Sum of the affinities (0-255) across those faces, stronger where two cells saw the same neuron at their seam.
        told: The same sum as the network told it.
    """

    pairs: Ids
    faces: NDArray[np.int64]
    affinity: NDArray[np.int64]
    told: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pairs)

    def to_bytes(self) -> bytes:
        file = io.BytesIO()
        np.savez_compressed(file, **vars(self))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Contacts:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return cls(**{name: file[name] for name in file.files})

    def grouped(self, numbers: Ids) -> Contacts:
        """Contacts of what the fragments become: ``numbers`` (n, 2) in place of ``pairs``; rows of one id are left out."""
        keep = (numbers[:, 0] != numbers[:, 1]) & (numbers > 0).all(axis=1)
        return _add(
            np.sort(numbers[keep], axis=1), np.column_stack((self.faces, self.affinity, self.told))[keep]
        )


def find_contacts(
    ids: Ids, affinities: NDArray[np.uint8], within: Box, told: NDArray[np.uint8] | None = None
) -> Contacts:
    """The contacts whose affinities are stored in ``within``; every contact of an image is so found in one block.

    Args:
        ids: Fragments (z, y, x), 0 is none; ``within`` and the voxels before it.
        affinities: (3, z, y, x) of the same voxels, to the voxel before along z, y, x.
        within: In voxels of ``ids``.
        told: As ``affinities``, where those are not what the network told.
    """
    told = affinities if told is None else told
    rows: list[Ids] = []
    sums: list[NDArray[np.int64]] = []
    owned = np.zeros(ids.shape, bool)
    owned[within.slices] = True
    for axis, offset in enumerate(BEFORE):
        here, there = pairs(Box.of(ids.shape).shape, offset)
        a, b = ids[here], ids[there]
        meet = (a != b) & (a > 0) & (b > 0) & owned[here]
        row = np.zeros((int(meet.sum()), 5), np.int64)
        row[:, axis], row[:, 3], row[:, 4] = 1, affinities[axis][here][meet], told[axis][here][meet]
        rows.append(np.sort(np.stack((a[meet], b[meet]), axis=1), axis=1))
        sums.append(row)
    return _add(np.concatenate(rows), np.concatenate(sums))


def add_contacts(parts: Iterable[Contacts]) -> Contacts:
    """All contacts of an image from those of its blocks."""
    all_ = list(parts)
    if not all_:
        return _add(np.zeros((0, 2), np.uint64), np.zeros((0, 5), np.int64))
    columns: dict[str, NDArray[Any]] = {
        name: np.concatenate([getattr(part, name) for part in all_]) for name in vars(all_[0])
    }
    whole = Contacts(**columns)
    return whole.grouped(whole.pairs)


def _add(two: Ids, sums: NDArray[np.int64]) -> Contacts:
    """Add up the rows of the same pair; columns of ``sums`` are faces (3), affinity and told."""
    order = np.lexsort((two[:, 1], two[:, 0]))
    two, sums = two[order], sums[order]
    new = np.ones(len(two), bool)
    new[1:] = (two[1:] != two[:-1]).any(axis=1)
    begin = np.flatnonzero(new)
    added = np.add.reduceat(sums, begin, axis=0) if len(begin) else np.zeros((0, 5), np.int64)
    return Contacts(two[begin], added[:, :3], added[:, 3], added[:, 4])
