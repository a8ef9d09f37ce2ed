"""Contacts between fragments: where two of them meet, over how many faces of voxels, and with which affinities."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.segmentation.neurons.offsets import pairs
from connectoscope.volumes.geometry import Box, Index3

Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class Contacts:
    """Pairs of fragments, one row each, sorted; sums are whole numbers, so that they add up in any order.

    Attributes:
        pairs: Ids (n, 2), the smaller first.
        faces: Voxel faces across z, y, x that they share, (n, 3).
        affinity: Sum of the affinities (0-255) across those faces.
        far: Number of affinities between them over longer offsets.
        far_affinity: Sum of those.
    """

    pairs: Ids
    faces: NDArray[np.int64]
    affinity: NDArray[np.int64]
    far: NDArray[np.int64]
    far_affinity: NDArray[np.int64]

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
            np.sort(numbers[keep], axis=1),
            np.column_stack((self.faces, self.affinity, self.far, self.far_affinity))[keep],
        )


def find_contacts(
    ids: Ids, affinities: NDArray[np.uint8], offsets: tuple[Index3, ...], within: Box
) -> Contacts:
    """The contacts whose affinities are stored in ``within``; every contact of an image is so found in one block.

    Args:
        ids: Fragments (z, y, x), 0 is none; ``within`` and what its offsets reach.
        affinities: (offsets, z, y, x) of the same voxels.
        offsets: To the partners; the first three are to neighbours along z, y, x.
        within: In voxels of ``ids``.
    """
    rows: list[Ids] = []
    sums: list[NDArray[np.int64]] = []
    owned = np.zeros(ids.shape, bool)
    owned[within.slices] = True
    for index, offset in enumerate(offsets):
        here, there = pairs(Box.of(ids.shape).shape, offset)
        a, b = ids[here], ids[there]
        meet = (a != b) & (a > 0) & (b > 0) & owned[here]
        two = np.stack((a[meet], b[meet]), axis=1)
        score = affinities[index][here][meet].astype(np.int64)
        row = np.zeros((len(two), 6), np.int64)
        if index < 3:
            row[:, index], row[:, 3] = 1, score
        else:
            row[:, 4], row[:, 5] = 1, score
        part = _add(np.sort(two, axis=1), row)
        rows.append(part.pairs)
        sums.append(np.column_stack((part.faces, part.affinity, part.far, part.far_affinity)))
    return _add(np.concatenate(rows), np.concatenate(sums))


def add_contacts(parts: Iterable[Contacts]) -> Contacts:
    """All contacts of an image from those of its blocks."""
    all_ = list(parts)
    if not all_:
        return _add(np.zeros((0, 2), np.uint64), np.zeros((0, 6), np.int64))
    columns: dict[str, NDArray[Any]] = {
        name: np.concatenate([getattr(part, name) for part in all_]) for name in vars(all_[0])
    }
    whole = Contacts(**columns)
    return whole.grouped(whole.pairs)


def _add(two: Ids, sums: NDArray[np.int64]) -> Contacts:
    """Add up the rows of the same pair; columns of ``sums`` are faces (3), affinity, far, far_affinity."""
    order = np.lexsort((two[:, 1], two[:, 0]))
    two, sums = two[order], sums[order]
    new = np.ones(len(two), bool)
    new[1:] = (two[1:] != two[:-1]).any(axis=1)
    begin = np.flatnonzero(new)
    added = np.add.reduceat(sums, begin, axis=0) if len(begin) else np.zeros((0, 6), np.int64)
    return Contacts(two[begin], added[:, :3], added[:, 3], added[:, 4], added[:, 5])
