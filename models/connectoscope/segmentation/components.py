"""Connected components (26-connectivity) of a probability image of any size, exact for any block size.

Two passes over blocks of the stored uint8 probabilities:

1. each block is labelled by itself; what a *part* (a component of one block) adds to its object, and the labels on
   the block's six faces, go to scratch (:func:`describe`);
2. parts that touch across faces, edges or corners of blocks are joined by union-find, objects below the size floor
   are dropped and the others are numbered 1..N in raster order (z, y, x) of their first voxel (:func:`join`);
   then each block is labelled again, which gives the same local labels, and renumbered (:func:`relabel`).

Nothing depends on the order of the blocks, and block boundaries leave no trace.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.plan import Place
from connectoscope.volumes.geometry import Box, Index3

Labels = NDArray[np.uint32]

_STEPS = (-1, 0, 1)
FORWARD: tuple[Place, ...] = tuple(
    (z, y, x) for z in _STEPS for y in _STEPS for x in _STEPS if (z, y, x) > (0, 0, 0)
)
"""The 13 neighbours of a block that come after it; the other 13 see it as theirs."""


def local_labels(probabilities: NDArray[np.uint8], threshold: int) -> Labels:
    """Components of one block: 0 is background, parts are 1..n; (z, y, x) uint32."""
    return connected(np.ascontiguousarray(probabilities >= threshold))


def connected(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> Labels:
    """Components of a mask (z, y, x), neighbours by corners, too: 0 is background, parts are 1..n."""
    z, y, x = mask.shape
    # cc3d 4.1 takes too small a union-find array for a line of voxels.
    padded = np.pad(mask, [(0, 1)] * 3) if (z, y, x).count(1) > 1 else mask
    labels = cc3d.connected_components(padded, connectivity=26, out_dtype=np.uint32)[:z, :y, :x]
    return np.ascontiguousarray(labels, dtype=np.uint32)


@dataclass(frozen=True)
class Parts:
    """The parts of one block; arrays have one row a part, in the order of the local labels.

    Attributes:
        first: Raster index of the first voxel in the whole image.
        voxels: Number of voxels.
        sums: Sum of the voxel indices z, y, x in the whole image, (n, 3).
        probability: Sum of the uint8 probabilities.
        low, high: Bounding box in the whole image, half-open, (n, 3).
        faces: Local labels on the faces: low z, high z, low y, high y, low x, high x.
    """

    first: NDArray[np.int64]
    voxels: NDArray[np.int64]
    sums: NDArray[np.int64]
    probability: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    faces: tuple[Labels, ...]

    def __len__(self) -> int:
        return len(self.first)

    def to_bytes(self) -> bytes:
        file = io.BytesIO()
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _COLUMNS}
        arrays |= {f"face{i}": face for i, face in enumerate(self.faces)}
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Parts:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            columns = {name: file[name] for name in _COLUMNS}
            return cls(**columns, faces=tuple(file[f"face{i}"] for i in range(6)))


_COLUMNS = ("first", "voxels", "sums", "probability", "low", "high")


def describe(labels: Labels, probabilities: NDArray[np.uint8], box: Box, shape: Index3) -> Parts:
    """What the parts of one block add to their objects.

    Args:
        labels: Of the block, from :func:`local_labels`.
        probabilities: Of the block, uint8.
        box: Where the block lies in the image.
        shape: Of the image.
    """
    where = np.flatnonzero(labels)  # ascending: raster order within the block
    part = labels.ravel()[where].astype(np.int64) - 1
    order = np.argsort(part, kind="stable")
    where, part = where[order], part[order]
    count = int(part[-1]) + 1 if len(part) else 0
    begin = np.searchsorted(part, np.arange(count))
    local = np.stack(np.unravel_index(where, labels.shape), axis=1)  # (voxels, 3)
    at = local + np.array(box.start, dtype=np.int64)
    return Parts(
        first=np.ravel_multi_index(tuple(at[begin].T), shape).astype(np.int64),
        voxels=np.bincount(part, minlength=count).astype(np.int64),
        sums=np.add.reduceat(at, begin, axis=0) if count else np.zeros((0, 3), np.int64),
        probability=(
            np.add.reduceat(probabilities.ravel()[where], begin, dtype=np.int64)
            if count
            else np.zeros(0, np.int64)
        ),
        low=np.minimum.reduceat(at, begin, axis=0) if count else np.zeros((0, 3), np.int64),
        high=np.maximum.reduceat(at, begin, axis=0) + 1 if count else np.zeros((0, 3), np.int64),
        faces=tuple(np.take(labels, end, axis=axis) for axis in range(3) for end in (0, -1)),
    )


@dataclass(frozen=True)
class Objects:
    """The objects 1..N of an image, one row each, and where their parts are.

    Attributes:
        voxels, sums, probability, low, high: As in :class:`Parts`.
        numbers: Place of a block -> object of each local label (index 0 is background), 0 where it was dropped.
    """

    voxels: NDArray[np.int64]
    sums: NDArray[np.int64]
    probability: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    numbers: Mapping[Place, NDArray[np.uint64]]

    def __len__(self) -> int:
        return len(self.voxels)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The smallest unsigned type that holds every id."""
        return np.dtype(np.min_scalar_type(len(self)))


def join(counts: Mapping[Place, int], load: Callable[[Place], Parts], min_voxels: float) -> Objects:
    """The objects that the parts of all blocks make.

    Args:
        counts: Number of parts of each block that has any.
        load: Gives the parts of a block.
        min_voxels: Objects of fewer voxels are dropped.
    """
    places = sorted(counts)
    offsets = offsets_of(counts)
    recent = lru_cache(maxsize=32)(load)
    parent = np.arange(sum(counts.values()))
    rows: list[Parts] = []
    for place in places:
        parts = recent(place)
        rows.append(replace(parts, faces=()))
        for direction in FORWARD:
            other = (place[0] + direction[0], place[1] + direction[1], place[2] + direction[2])
            if other in counts:
                a, b = touching(parts.faces, recent(other).faces, direction)
                _union(parent, a + (offsets[place] - 1), b + (offsets[other] - 1))
    return objects_of(counts, rows, _roots(parent), min_voxels)


def offsets_of(counts: Mapping[Place, int]) -> dict[Place, int]:
    """Index of the first part of each block among the parts of all, blocks in the order of their places."""
    places = sorted(counts)
    return dict(zip(places, np.cumsum([0, *(counts[p] for p in places)]).tolist(), strict=False))


def objects_of(
    counts: Mapping[Place, int], rows: list[Parts], root: NDArray[np.int64], min_voxels: float
) -> Objects:
    """Objects from parts, numbered 1..N in raster order of their first voxel.

    Args:
        counts: Number of parts of each block that has any.
        rows: Parts of each block, in the order of their places.
        root: Of each part, in that order, one part of its object.
        min_voxels: Objects of fewer voxels are dropped.
    """
    if len(root) == 0:
        none = np.zeros((0, 3), np.int64)
        return Objects(none[:, 0], none, none[:, 0], none, none, {})
    offsets = offsets_of(counts)

    def column(name: str) -> NDArray[np.int64]:
        values: NDArray[np.int64] = np.concatenate([getattr(parts, name) for parts in rows])
        return values

    group, member = np.unique(root, return_inverse=True)
    voxels = _gather(np.add, column("voxels"), member, len(group))
    first = _gather(np.minimum, column("first"), member, len(group))
    kept = np.flatnonzero(voxels >= min_voxels)
    kept = kept[np.argsort(first[kept], kind="stable")]
    number = np.zeros(len(group), dtype=np.uint64)
    number[kept] = np.arange(1, len(kept) + 1, dtype=np.uint64)
    own = number[member]
    return Objects(
        voxels=voxels[kept],
        sums=_gather(np.add, column("sums"), member, len(group))[kept],
        probability=_gather(np.add, column("probability"), member, len(group))[kept],
        low=_gather(np.minimum, column("low"), member, len(group))[kept],
        high=_gather(np.maximum, column("high"), member, len(group))[kept],
        numbers={
            place: np.concatenate(
                [np.zeros(1, np.uint64), own[offsets[place] : offsets[place] + counts[place]]]
            )
            for place in offsets
        },
    )


def relabel(
    labels: Labels, numbers: NDArray[np.uint64], dtype: np.dtype[np.unsignedinteger]
) -> NDArray[np.unsignedinteger]:
    """Local labels of a block as objects: ``numbers[label]``, in ``dtype``."""
    return numbers.astype(dtype)[labels]


def touching(
    faces: tuple[Labels, ...], other: tuple[Labels, ...], direction: Place
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of local labels (block, neighbour at ``direction``) with voxels that are 26-neighbours."""
    axes = [a for a in range(3) if direction[a]]
    axis = axes[0]
    mine = faces[2 * axis + (direction[axis] > 0)]
    theirs = other[2 * axis + (direction[axis] < 0)]
    across = [a for a in range(3) if a != axis]  # axes of the two faces
    for k, a in enumerate(across):
        if direction[a]:  # an edge or a corner of the blocks: only the line (voxel) that meets the neighbour
            mine = mine.take([-1 if direction[a] > 0 else 0], axis=k)
            theirs = theirs.take([0 if direction[a] > 0 else -1], axis=k)
    found = []
    for shift in itertools.product(*[(0,) if direction[a] else (-1, 0, 1) for a in across]):
        here = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(shift, mine.shape, strict=True))
        there = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(shift, mine.shape, strict=True))
        a_, b_ = mine[here].ravel(), theirs[there].ravel()
        both = (a_ > 0) & (b_ > 0)
        if both.any():
            found.append(np.unique(np.stack([a_[both], b_[both]]), axis=1))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    pairs = np.unique(np.concatenate(found, axis=1), axis=1).astype(np.int64)
    return pairs[0], pairs[1]


def _union(parent: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
    """Join the sets of each pair; the smallest member is the root."""
    for i, j in zip(a.tolist(), b.tolist(), strict=True):
        ri, rj = _find(parent, i), _find(parent, j)
        if ri != rj:
            parent[max(ri, rj)] = min(ri, rj)


def _find(parent: NDArray[np.int64], i: int) -> int:
    while (up := int(parent[i])) != i:
        parent[i] = parent[up]  # halve the path
        i = up
    return i


def _roots(parent: NDArray[np.int64]) -> NDArray[np.int64]:
    while True:
        up = parent[parent]
        if np.array_equal(up, parent):
            return up
        parent = up


def _gather(
    how: np.ufunc, values: NDArray[np.int64], member: NDArray[np.int64], groups: int
) -> NDArray[np.int64]:
    """Reduce rows of ``values`` by group; ``member`` is the group of each row and every group has one."""
    order = np.argsort(member, kind="stable")
    begin = np.searchsorted(member[order], np.arange(groups))
    result: NDArray[np.int64] = how.reduceat(values[order], begin, axis=0)
    return result
