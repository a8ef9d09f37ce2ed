"""What a run will do, fixed before it starts: the lattice of tiles, and the plan that pins everything else.

A *tile* is one forward pass: a fixed input shape, read with a halo on each side. Its *core* is what is
kept, and cores lie side by side from voxel 0 of the model grid, so each output voxel comes from exactly
one tile and a box gets the same tiles as the whole volume::

      voxel 0 of the grid
      |<--- core --->|<--- core --->|<--- core --->|
    |<h>--------------<h>|                             tile of block 0 (starts in the reflected border)
                   |<h>--------------<h>|              tile of block 1
             [============ box ============]           what is asked for; cores are cropped to it

A *block* is what is written at once: a core, cropped to the box.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from connectoscope.errors import UserError
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.volumes.volume import CORRUPT

Place = tuple[int, int, int]  # of a block on its lattice: z, y, x


@dataclass(frozen=True, slots=True)
class Block:
    """Something written at once.

    Attributes:
        id: Name within its phase, from the place on its lattice: ``z_y_x``.
        read: What is read, with halo, in voxels of the model grid (``Grid`` maps them to the source).
        write: What is written, in voxels of the destination.
        keep: The part of the core that is written, in voxels from the core's first.
    """

    id: str
    read: Box
    write: Box
    keep: Box


@dataclass(frozen=True)
class Lattice:
    """Tiles of one shape, anchored at voxel 0 of the model grid.

    Attributes:
        tile: Input shape of a forward pass, halo included (z, y, x).
        halo: Voxels per side that are read but not kept.
        stride: Total stride of the network; tiles start on its multiples.
    """

    tile: Index3
    halo: Index3
    stride: Index3 = (1, 1, 1)

    def __post_init__(self) -> None:
        for core, halo, stride in zip(self.core, self.halo, self.stride, strict=True):
            if core <= 0 or halo < 0 or core % stride or halo % stride:
                raise ValueError(
                    f"tile {self.tile} with halo {self.halo} leaves core {self.core}; core and halo must be "
                    f"multiples of the stride {self.stride}, the core positive"
                )

    @property
    def core(self) -> Index3:
        t, h = self.tile, self.halo
        return (t[0] - 2 * h[0], t[1] - 2 * h[1], t[2] - 2 * h[2])

    def places(self, box: Box) -> tuple[range, range, range]:
        """Places of the cores that ``box`` (grid voxels) touches, along each axis."""
        return _cells(box, self.core)

    def blocks(self, box: Box, anchor: Index3 = (0, 0, 0)) -> list[Block]:
        """The blocks that make ``box`` (grid voxels, inside the grid), in Morton order.

        Voxel 0 of the destination is ``box.start``.

        Args:
            anchor: Where a core begins; only previews have another than voxel 0. A multiple of the stride.
        """
        made = []
        for place in _morton(_cells(box.shifted((-anchor[0], -anchor[1], -anchor[2])), self.core)):
            core = _cell(place, self.core).shifted(anchor)
            kept = core.intersection(box)
            made.append(Block(id_of(place), core.grown(self.halo), kept.within(box), kept.within(core)))
        return made


def place_of(id: str) -> Place:
    """The place that a block's id names."""
    z, y, x = (int(part) for part in id.split("_"))
    return (z, y, x)


def id_of(place: Place) -> str:
    """The id of the block at a place."""
    return "_".join(map(str, place))


def blocks_of(shape: Index3, block: Index3) -> list[Block]:
    """The blocks of shape ``block`` that tile a destination of ``shape``, in Morton order; ``read`` is
    ``write``.
    """
    made = []
    for place in _morton(_cells(Box.of(shape), block)):
        cell = _cell(place, block)
        box = cell.intersection(Box.of(shape))
        made.append(Block(id_of(place), box, box, box.within(cell)))
    return made


def chunk_of(core: Index3, wanted: int = 96) -> Index3:
    """Chunk shape for a destination: on each axis the largest divisor of the core up to ``wanted``."""

    def divisor(n: int) -> int:
        best = max(d for d in range(1, min(n, wanted) + 1) if n % d == 0)
        return best if 2 * best >= min(n, wanted) // 2 else n  # an unlucky (prime) core is one chunk

    return (divisor(core[0]), divisor(core[1]), divisor(core[2]))


def _cells(box: Box, cell: Index3) -> tuple[range, range, range]:
    z, y, x = (range(box.start[a] // cell[a], -(-box.stop[a] // cell[a])) for a in range(3))
    return (z, y, x)


def _cell(place: Place, cell: Index3) -> Box:
    z, y, x = (place[a] * cell[a] for a in range(3))
    return Box((z, y, x), (z + cell[0], y + cell[1], x + cell[2]))


def _morton(cells: tuple[range, range, range]) -> Iterator[Place]:
    """Places in Z order: neighbours come soon after one another, so chunks of coarse levels complete
    early.
    """
    bits = max(max(r.stop for r in cells), 1).bit_length()

    def key(place: Place) -> int:
        code = 0
        for bit in range(bits):
            for axis, index in enumerate(reversed(place)):
                code |= (index >> bit & 1) << (3 * bit + axis)
        return code

    return iter(sorted(itertools.product(*cells), key=key))


Signature = dict[str, Any]
"""What must be equal for an unfinished run to go on: ``input``, ``model``, ``parameters`` and ``plan``
(JSON).
"""

PLAN_VERSION = 1
LIBRARIES = ("connectoscope", "numpy", "tensorstore", "torch", "connected-components-3d", "edt", "mwatershed")


@dataclass(frozen=True)
class Plan:
    """``plan.json``: everything that decides the bytes of a result, fixed once at submission.

    Attributes:
        lattice: Tiles of revision 0; they name the blocks for good.
        tile: Tile of this revision (smaller than the lattice's after out-of-memory).
        grid: Level, factor, shape and box of the model grid.
        precision, device, threads: How the forward pass runs.
        libraries: Versions of what computes.
        intensity: (low, high) that normalisation uses.
        identity: ``input``, ``model`` and ``parameters`` of the signature.
        revision: How often the tile was halved.
    """

    lattice: Lattice
    tile: Index3
    grid: dict[str, Any]
    precision: str
    device: str
    threads: int
    intensity: tuple[float, float]
    identity: Signature
    libraries: dict[str, str] = field(default_factory=lambda: library_versions())
    revision: int = 0

    @property
    def signature(self) -> Signature:
        """Of revision 0, whatever this plan's revision is."""
        own = {k: v for k, v in asdict(self).items() if k not in ("identity", "tile", "revision")}
        merged: Signature = json.loads(json.dumps({**self.identity, "plan": own}))
        return merged

    def halved(self, times: int) -> Plan:
        """The revision whose core is smaller by ``2 ** times`` on each axis, still a multiple of the
        stride.
        """
        if times == self.revision:
            return self
        tile = []
        for core, halo, stride in zip(self.lattice.core, self.lattice.halo, self.lattice.stride, strict=True):
            tile.append(max(-(-core // (stride << times)), 1) * stride + 2 * halo)
        return replace(self, tile=(tile[0], tile[1], tile[2]), revision=times)

    def write(self, path: Path) -> None:
        """Replace ``path`` in one step."""
        text = json.dumps({"version": PLAN_VERSION, **asdict(self)}, indent=1)
        part = path.with_name(path.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Plan | None:
        """The plan in ``path``, None when there is no file.

        Raises:
            UserError: when the file is no plan of this version.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            data = json.loads(text)
            if data.pop("version") != PLAN_VERSION:
                raise ValueError("another version")
            lattice = Lattice(**{k: tuple(v) for k, v in data.pop("lattice").items()})
            data["tile"], data["intensity"] = tuple(data["tile"]), tuple(data["intensity"])
            return cls(lattice=lattice, **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path} is damaged or of another version ({error}): start over with --overwrite"
            ) from error


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that decide the bytes of a result."""
    return {name: version(name) for name in LIBRARIES}


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Where two signatures differ, for people (``parameters.threshold was 128 and is now 200``); None if
    nowhere.
    """
    flat_old, flat_new = dict(_flat(old)), dict(_flat(new))
    for key in [*flat_new, *flat_old]:
        was, now = flat_old.get(key), flat_new.get(key)
        if was != now:
            return f"{key} was {_short(was)} and is now {_short(now)}"
    return None


def as_begun(fresh: Signature, begun: Signature | None) -> Signature:
    """``fresh`` with the chunks that were sampled when the run began, where some of them have become corrupt since."""
    chunks = begun.get("input", {}).get("chunks") if begun is not None else None
    if chunks is None or not fresh["input"]["chunks"].startswith(CORRUPT):
        return fresh
    return fresh | {"input": fresh["input"] | {"chunks": chunks}}


def _flat(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, list(data) if isinstance(data, tuple) else data


def _short(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
