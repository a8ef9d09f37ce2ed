"""What a block reads of a volume, for networks and filters alike, and what is told of it afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.mask import Mask
from connectoscope.blockwise.plan import Block, Lattice
from connectoscope.volumes.corrupt import chunk_name, told_of_skipped
from connectoscope.volumes.geometry import Box


@dataclass(frozen=True)
class Tile:
    """Intensities (z, y, x) float32, finite.

    Attributes:
        not_finite: How many voxels of the block's core were not finite.
        skipped: Names of the corrupt chunks of the source that it reaches into.
    """

    intensities: NDArray[np.float32]
    not_finite: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def constant(self) -> bool:
        return bool(self.intensities.min() == self.intensities.max())

    @property
    def facts(self) -> dict[str, Any]:
        """For the block's line in the ledger: ``not_finite``, ``constant`` and ``skipped``, where they are so."""
        facts: dict[str, Any] = {"not_finite": self.not_finite} if self.not_finite else {}
        facts |= {"constant": True} if self.constant else {}
        return facts | ({"skipped": list(self.skipped)} if self.skipped else {})


def read_tile(grid: Grid, lattice: Lattice, block: Block) -> Tile:
    """The tile of a block; what is no number or infinite is 0 in it, and so are corrupt chunks where the volume skips them."""
    tile = grid.read(block.read)
    skipped = tuple(chunk_name(chunk, grid.level) for chunk in grid.skipped_in(block.read))
    finite = np.isfinite(tile)
    if finite.all():
        return Tile(tile, 0, skipped)
    core = tuple(slice(h, h + c) for h, c in zip(lattice.halo, lattice.core, strict=True))
    bad = int((~finite[core][block.keep.slices]).sum())
    tile[~finite] = 0
    return Tile(tile, bad, skipped)


def finite(array: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The array, changed in place, with 0 where it is no number or infinite, and how many voxels that were."""
    bad = ~np.isfinite(array)
    count = int(np.count_nonzero(bad))
    if count:
        array[bad] = 0
    return array, count


def told_of_not_finite(count: int) -> str:
    """A line for people about voxels that :func:`finite` changed."""
    return f"{count} voxels were not numbers or infinite and were taken as 0"


def kept_box(lattice: Lattice, block: Block) -> Box:
    """The part of the grid that the block answers for, grid voxels."""
    z, y, x = (i + h for i, h in zip(block.read.start, lattice.halo, strict=True))
    return block.keep.shifted((z, y, x))


def blocks_within(grid: Grid, lattice: Lattice, box: Box, mask: Mask | None) -> list[Block]:
    """Of the lattice in ``box`` (grid voxels), as far as the mask leaves them."""
    everything = lattice.blocks(box)
    if mask is None:
        return everything
    return [block for block in everything if mask.on(grid, kept_box(lattice, block)).any()]


def skipped_chunks(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the corrupt chunks that ledger entries tell of, each once."""
    return sorted({name for entry in entries for name in entry.get("skipped", ())})


def told_of_tiles(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for people about a phase's entries in the ledger, which a resumed run knows as well as an unbroken one."""
    bad = sum(entry.get("not_finite", 0) for entry in entries)
    constant = sum(entry.get("constant", False) for entry in entries)
    told = []
    if bad:
        told.append(told_of_not_finite(bad))
    if constant:
        told.append(f"{constant} of {len(entries)} blocks were constant and were taken as background")
    if skipped := skipped_chunks(entries):
        told.append(told_of_skipped(skipped))
    smaller = sum(entry["revision"] > 0 for entry in entries)
    if smaller:
        told.append(
            f"{smaller} of {len(entries)} blocks were made with a smaller tile for want of memory: "
            "equal to others to within 1 of 255"
        )
    return told
