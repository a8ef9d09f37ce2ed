"""Probabilities of a volume, tile by tile: what :mod:`~connectoscope.blockwise` needs to know of a network."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from connectoscope.blockwise.engine import Output, Phase
from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.mask import Mask
from connectoscope.blockwise.plan import Block, Lattice
from connectoscope.blockwise.pyramid import Pyramid
from connectoscope.blockwise.tile import Tile, blocks_within, kept_box, read_tile
from connectoscope.networks.normalise import normalise
from connectoscope.volumes.geometry import Box, Index3


class TilePredictor(Protocol):
    """A network bound to one input shape (:class:`connectoscope.networks.predictor.Predictor`)."""

    @property
    def tile(self) -> Index3: ...

    @property
    def halo(self) -> Index3: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def __call__(self, tile: NDArray[np.float32]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class ProbabilityMaker:
    """Makes the blocks of a probability image.

    Attributes:
        grid: What the network sees.
        lattice: Names the blocks; the predictor's tile may be smaller (after out-of-memory).
        predictor: Gives uint8 probabilities of a tile's core.
        intensity: (low, high) of the normalisation.
        mask: Where it is 0 there is background.
        look: Facts about a block's probabilities (c, z, y, x) for its ledger line; what a cascade needs to know.
    """

    grid: Grid
    lattice: Lattice
    predictor: TilePredictor
    intensity: tuple[float, float]
    look: Callable[[NDArray[np.uint8]], dict[str, Any]] | None = None
    mask: Mask | None = None

    def phase(
        self, box: Box, store: ts.TensorStore, pyramid: Pyramid | None, *, name: str = "probabilities"
    ) -> Phase[Tile]:
        """Write the probabilities of ``box`` (grid voxels) into ``store`` (c, z, y, x), whose voxel 0 is its start."""

        def write(block: Block, data: NDArray[Any]) -> ts.WriteFutures:
            return store[(slice(None), *block.write.slices)].write(data)

        return Phase(name, self.blocks(box), self.read, self.compute, write, pyramid)

    def blocks(self, box: Box) -> list[Block]:
        """Of the lattice in ``box`` (grid voxels), as far as the mask leaves them."""
        return blocks_within(self.grid, self.lattice, box, self.mask)

    def read(self, block: Block) -> Tile:
        return read_tile(self.grid, self.lattice, block)

    def compute(self, block: Block, tile: Tile) -> Output:
        """The kept part of the core, (c, z, y, x) uint8. A constant tile is background, and the ledger says so."""
        facts = tile.facts
        if tile.constant:
            kept = np.zeros((len(self.predictor.outputs), *block.write.shape), np.uint8)
        else:
            core = predict_core(self.predictor, normalise(tile.intensities, *self.intensity), self.lattice)
            kept = np.ascontiguousarray(core[(slice(None), *block.keep.slices)])
        if self.mask is not None:
            kept *= self.mask.on(self.grid, kept_box(self.lattice, block))
        if self.look is not None:
            facts |= self.look(kept)
        return Output(kept, facts)


def predict_core(
    predictor: TilePredictor, tile: NDArray[np.float32], lattice: Lattice, scale: int = 1
) -> NDArray[Any]:
    """What the predictor says (c, *lattice.core) of a normalised tile of the lattice.

    One forward pass, or several where the predictor takes smaller tiles: those start at multiples of its core, the
    last one of each row early enough to end with the tile.

    Args:
        scale: Voxels that the predictor gives for each of the lattice, along each axis.
    """
    if predictor.tile == lattice.tile:
        return predictor(tile)
    inner = [t - 2 * h for t, h in zip(predictor.tile, lattice.halo, strict=True)]
    starts = [
        [min(i, whole - part) for i in range(0, whole, part)]
        for whole, part in zip(lattice.core, inner, strict=True)
    ]
    out: NDArray[Any] | None = None
    for low in itertools.product(*starts):
        seen = tuple(slice(i, i + n) for i, n in zip(low, predictor.tile, strict=True))
        kept = tuple(slice(scale * i, scale * (i + n)) for i, n in zip(low, inner, strict=True))
        core = predictor(tile[seen])
        if out is None:
            out = np.empty((len(core), *(scale * n for n in lattice.core)), core.dtype)
        out[(slice(None), *kept)] = core
    if out is None:
        raise ValueError(f"a lattice without a core: {lattice}")
    return out


def copy_phase(
    name: str,
    blocks: list[Block],
    source: ts.TensorStore,
    offset: Index3,
    store: ts.TensorStore,
    pyramid: Pyramid | None,
) -> Phase[NDArray[Any]]:
    """Bring probabilities from scratch, on the lattice, to a destination whose chunks lie off it.

    Args:
        source: (c, z, y, x).
        offset: Voxel of ``source`` that is voxel 0 of ``store``.
    """

    def read(block: Block) -> NDArray[Any]:
        array = source[(slice(None), *block.write.shifted(offset).slices)].read().result()
        return np.ascontiguousarray(array)

    def write(block: Block, data: NDArray[Any]) -> ts.WriteFutures:
        return store[(slice(None), *block.write.slices)].write(data)

    return Phase(name, blocks, read, lambda block, data: Output(data), write, pyramid)


def read_probabilities(store: ts.TensorStore, channel: int) -> Callable[[Block], NDArray[np.uint8]]:
    """Reads one channel of a block from a stored probability image."""

    def read(block: Block) -> NDArray[np.uint8]:
        return np.ascontiguousarray(store[(channel, *block.write.slices)].read().result())

    return read
