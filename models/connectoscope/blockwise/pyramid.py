"""Coarser levels of an image, made while its blocks run.

Each chunk of a coarse level is written exactly once: when the last block (level 1) or the last chunk of
the level before (levels 2 and up) that it covers is durable. It is made from the level before, as
:func:`connectoscope.volumes.downsample` makes the whole of it.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorstore as ts

from connectoscope.blockwise.plan import Block
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.volumes.pyramid import downsample


@dataclass(frozen=True, slots=True)
class Coarse:
    """A chunk of coarse level ``level``; ``box`` in voxels of that level."""

    id: str
    level: int
    box: Box


class Pyramid:
    """Knows which coarse chunks wait for which blocks.

    Args:
        stores: One array per level, axes (..., z, y, x), finest first.
        factors: Factor of each level relative to level 0.
        labels: Mode instead of mean.
    """

    def __init__(self, stores: Sequence[ts.TensorStore], factors: Sequence[Index3], *, labels: bool) -> None:
        self._stores = stores
        self._labels = labels
        self._shapes = [Box.of(tuple(store.shape)).shape for store in stores]
        self._chunks = [write_chunk(store) for store in stores]
        self._steps: list[Index3] = [(1, 1, 1)]
        for finer, coarser in itertools.pairwise(factors):
            z, y, x = (b // a for a, b in zip(finer, coarser, strict=True))
            self._steps.append((z, y, x))
        self._waiting: Counter[str] = Counter()  # coarse chunk -> children that are not durable

    def start(self, blocks: Sequence[Block], done: Collection[str]) -> list[Coarse]:
        """Coarse chunks that can be made now.

        Args:
            blocks: All blocks of level 0 that are written.
            done: Ids of blocks and coarse chunks that are durable.
        """
        self._waiting.clear()
        ready = []
        nodes: list[tuple[str, Box]] = [(block.id, block.write) for block in blocks]
        for level in range(1, len(self._stores)):
            chunks: dict[str, Coarse] = {}  # over what is written; the rest stays as it is, empty
            for id, box in nodes:
                for parent in self._over(level, box):
                    chunks[parent.id] = parent
                    self._waiting[parent.id] += id not in done
            ready += [c for c in chunks.values() if c.id not in done and not self._waiting[c.id]]
            nodes = [(chunk.id, chunk.box) for chunk in chunks.values()]
        return ready

    def finished(self, level: int, box: Box) -> list[Coarse]:
        """Coarse chunks that can be made now that ``box`` of ``level`` is durable."""
        if level + 1 >= len(self._stores):
            return []
        ready = []
        for parent in self._over(level + 1, box):
            self._waiting[parent.id] -= 1
            if not self._waiting[parent.id]:
                ready.append(parent)
        return ready

    def make(self, chunk: Coarse) -> int:
        """Read, reduce and write one coarse chunk, channel by channel; its CRC-32, when it is durable."""
        step = self._steps[chunk.level]
        z, y, x = (i * f for i, f in zip(chunk.box.start, step, strict=True))
        c, b, a = (i * f for i, f in zip(chunk.box.stop, step, strict=True))
        source = Box((z, y, x), (c, b, a)).intersection(Box.of(self._shapes[chunk.level - 1]))
        finer, coarser = self._stores[chunk.level - 1], self._stores[chunk.level]
        crc = 0
        for lead in np.ndindex(*coarser.shape[:-3]):
            array = np.asarray(finer[(*lead, *source.slices)].read().result())
            reduced = np.ascontiguousarray(downsample(array, step, labels=self._labels))
            coarser[(*lead, *chunk.box.slices)].write(reduced).result()
            crc = zlib.crc32(reduced.data, crc)
        return crc

    def _over(self, level: int, box: Box) -> Iterator[Coarse]:
        """Chunks of ``level`` that ``box`` of the level before is a part of."""
        step = self._steps[level]
        z, y, x = (i // f for i, f in zip(box.start, step, strict=True))
        c, b, a = (-(-i // f) for i, f in zip(box.stop, step, strict=True))
        return self._chunks_over(level, Box((z, y, x), (c, b, a)))

    def _chunks_over(self, level: int, box: Box) -> Iterator[Coarse]:
        size, whole = self._chunks[level], Box.of(self._shapes[level])
        ranges = [range(box.start[a] // size[a], -(-box.stop[a] // size[a])) for a in range(3)]
        for z, y, x in itertools.product(*ranges):
            start = (z * size[0], y * size[1], x * size[2])
            stop = (start[0] + size[0], start[1] + size[1], start[2] + size[2])
            yield Coarse(f"level{level}/{z}_{y}_{x}", level, Box(start, stop).intersection(whole))


def write_chunk(store: ts.TensorStore) -> Index3:
    """Shape (z, y, x) of the storage unit of ``store`` that is written at once."""
    z, y, x = (int(n or 1) for n in (store.chunk_layout.write_chunk.shape or store.shape)[-3:])
    return (z, y, x)
