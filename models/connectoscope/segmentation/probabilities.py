"""Probabilities of a volume, tile by tile: what :mod:`~connectoscope.blockwise` needs to know of a network."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from connectoscope.blockwise.destination import make_image
from connectoscope.blockwise.engine import Output, Phase
from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.mask import Mask
from connectoscope.blockwise.plan import Block, Lattice, Plan
from connectoscope.blockwise.pyramid import Pyramid
from connectoscope.blockwise.tile import Tile, blocks_within, kept_box, read_tile
from connectoscope.networks.normalise import normalise
from connectoscope.segmentation.setup import Setup
from connectoscope.volumes.geometry import Box, Index3

if TYPE_CHECKING:
    from connectoscope.zoo import Bundle


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


def planned_predictor(bundle: Bundle, plan: Plan, exact: bool) -> TilePredictor:
    """The network of a bundle as a plan wants it."""
    return bundle.predictor(
        tile=plan.tile, exact=exact, device=plan.device, precision=plan.precision, threads=plan.threads
    )


def store_of_blocks(
    setup: Setup, store: ts.TensorStore, channels: tuple[str, ...], destination: Path, scratch: Path
) -> ts.TensorStore:
    """Where the blocks of ``setup.box_of_blocks`` are written, (c, z, y, x): ``store``, that of the destination, or scratch
    where they do not fill its chunks. What is in scratch goes to ``store`` by :func:`alignment`.
    """
    if setup.chunks_on_lattice:
        return store
    spec = replace(setup, box=setup.box_of_blocks).image(store.dtype.numpy_dtype, channels=channels)
    return make_image(setup.image_of_blocks(destination, scratch), spec, scratch)[0]


def alignment(
    setup: Setup, blocks: list[Block], source: ts.TensorStore, store: ts.TensorStore, pyramid: Pyramid | None
) -> Phase[NDArray[Any]]:
    """Bring what lies on the lattice, in scratch, to a destination whose chunks lie off it; both (c, z, y, x)."""
    z, y, x = (a - b for a, b in zip(setup.box.start, setup.box_of_blocks.start, strict=True))

    def read(block: Block) -> NDArray[Any]:
        array = source[(slice(None), *block.write.shifted((z, y, x)).slices)].read().result()
        return np.ascontiguousarray(array)

    def write(block: Block, data: NDArray[Any]) -> ts.WriteFutures:
        return store[(slice(None), *block.write.slices)].write(data)

    return Phase("alignment", blocks, read, lambda block, data: Output(data), write, pyramid)


def read_probabilities(store: ts.TensorStore, channel: int) -> Callable[[Block], NDArray[np.uint8]]:
    """Reads one channel of a block from a stored probability image."""

    def read(block: Block) -> NDArray[np.uint8]:
        return np.ascontiguousarray(store[(channel, *block.write.slices)].read().result())

    return read
