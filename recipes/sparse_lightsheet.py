"""A made light-sheet volume: real background, real cells at drawn places. See ``make_sparse.py``.

From planes 0-7 and 22-29 of ``lightsheet_cells`` only; planes 10-19 are those that scores are reported on.

* Background: what is left of these planes without shading and cells, in patches that are drawn, flipped and turned.
  Where patches overlap, their weights' squares add up to 1, so that the noise has the same strength at a join. It is
  laid on a smooth shading with shot noise: image = S + r sqrt(S), r = (planes - shading) / sqrt(shading).
* Cells: cut out with a soft mask, background taken off; flipped, turned, times a gain of 0.8 to 1.25.
  Their places cluster (a Neyman-Scott process: every group has a drawn centre, its cells lie around it, normally
  distributed) and no two are nearer than 14 um. Groups are drawn until 1.5 % of the cells of the cascade hold one.
* Things that are bright and no cell: cells out of focus, fibres, single hot voxels; most of them near groups.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from connectoscope.errors import UserError
from connectoscope.training.recipe import find_data
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box, Float3, Index3

SLABS = ((0, 8), (22, 30))
VOXEL = np.array([5.0, 2.0, 2.0])  # um, z y x
PATCH, OVERLAP = (8, 128, 128), (2, 16, 16)
GROUPED, GROUP, SPREAD = (
    0.7,
    30.0,
    45.0,
)  # share of groups with more than one cell, their mean number, sigma in um
APART = 14.0  # um
SHARE = 0.015
SHADE = (48, 192, 192)  # voxels between the nodes of the shading
HOT = 4000  # no cell of these planes is as bright: a hot voxel
REACH = np.array([3, 9, 9])  # voxels around a cell that are cut out


@dataclass(frozen=True)
class Stamp:
    """Intensities to be added, and where in the volume its first voxel lies."""

    start: Index3
    values: np.ndarray


class LightSheet:
    """See the module. ``planes``: (30, y, x) intensities; ``shape``: of the volume to be made."""

    dtype = np.dtype(np.uint16)
    scale: Float3 = (5.0, 2.0, 2.0)
    unit = "micrometer"
    columns = ("z", "y", "x")
    cell: Index3 = (48, 48, 48)
    about = {
        "title": "Made light-sheet volume with sparse cells",
        "source": "https://github.com/brainglobe/cellfinder (test data), planes 0-7 and 22-29",
        "citation": "Tyson AL et al. (2021). A deep learning algorithm for 3D cell detection in whole mouse brain "
        "image datasets. PLoS Comput Biol 17(5): e1009074.",
        "licence": "BSD-3-Clause",
    }

    def __init__(self, planes: np.ndarray, shape: Index3, seed: int) -> None:
        if any(n < 2 * r + 2 for n, r in zip(shape, REACH, strict=True)):
            raise UserError(f"{shape} voxels are too few for a cell; ask for more megavoxels")
        self.shape, self._seed = shape, seed
        slabs = [_Slab(planes[a:b].astype(np.float32)) for a, b in SLABS]
        self._residuals = [slab.residual for slab in slabs]
        self._places = [(i, int(y), int(x)) for i, s in enumerate(slabs) for y, x in s.patches()]
        self._level = float(np.median(np.concatenate([s.shading[s.tissue] for s in slabs])))
        cells = [cell for slab in slabs for cell in slab.cells()]
        rng = np.random.default_rng([seed, 1])
        nodes = [n // s + 3 for n, s in zip(shape, SHADE, strict=True)]
        self._shade = rng.normal(0, 0.25, nodes).astype(np.float32)
        self.truth, centres = self._draw_places(rng)
        self._stamps = [_placed(p, _varied(cells[rng.integers(len(cells))], rng)) for p in self.truth]
        self._stamps += _distractors(rng, shape, centres, len(self.truth), cells)
        self._starts = np.array([s.start for s in self._stamps])
        self._stops = self._starts + [s.values.shape for s in self._stamps]
        ramps = [_ramp(n, o) for n, o in zip(PATCH, OVERLAP, strict=True)]
        self._weight = np.einsum("z,y,x->zyx", *ramps).astype(np.float32)

    @classmethod
    def of_size(cls, megavoxels: float, seed: int) -> LightSheet:
        """About that many voxels, as many micrometres deep as 1.25 times wide; the data are found."""
        planes = open_volume(find_data("lightsheet_cells/raw.ome.tif", cls.about["source"]))
        z = max(16, 16 * round(np.cbrt(megavoxels * 1e6 / 4) / 16))
        side = max(32, 16 * round(math.sqrt(megavoxels * 1e6 / z) / 16))
        return cls(planes.read(Box.of(planes.shape)), (z, side, side), seed)

    def positive(self) -> float:
        """Share of the cells of the cascade in which a cell has its centre."""
        grid = [-(-n // c) for n, c in zip(self.shape, self.cell, strict=True)]
        return len({tuple(np.array(p) // self.cell) for p in self.truth}) / math.prod(grid)

    def labels(self, box: Box) -> None:
        return None

    def read(self, box: Box) -> np.ndarray:
        """Voxels of ``box``: (z, y, x), uint16; the same in whatever box they are asked for."""
        noise = np.zeros(box.shape, np.float32)
        steps = [n - o for n, o in zip(PATCH, OVERLAP, strict=True)]
        first = [a // s for a, s in zip(box.start, steps, strict=True)]
        last = [(b - 1 + o) // s for b, o, s in zip(box.stop, OVERLAP, steps, strict=True)]
        for index in itertools.product(*(range(a, b + 1) for a, b in zip(first, last, strict=True))):
            start = tuple(i * s - o for i, s, o in zip(index, steps, OVERLAP, strict=True))
            _add(noise, box.start, start, self._patch(index))
        image = self._shading(box)
        noise *= np.sqrt(image)
        image += noise
        near = (self._starts < box.stop).all(1) & (self._stops > box.start).all(1)
        for i in np.flatnonzero(near):
            _add(image, box.start, self._stamps[i].start, self._stamps[i].values)
        return np.rint(np.clip(image, 0, 65535, out=image), out=image).astype(self.dtype)

    def _patch(self, index: tuple[int, ...]) -> np.ndarray:
        """Weighted background of one patch."""
        rng = np.random.default_rng([self._seed, 0, *index])
        slab, y, x = self._places[rng.integers(len(self._places))]
        patch = self._residuals[slab][:, y : y + PATCH[1], x : x + PATCH[2]]
        return _turned(patch, rng) * self._weight

    def _shading(self, box: Box) -> np.ndarray:
        """Smooth brightness, log-normal around the level of the planes: linear between the nodes of a coarse grid."""
        field = self._shade
        for axis, (a, b, step) in enumerate(zip(box.start, box.stop, SHADE, strict=True)):
            at = np.arange(a, b) / step
            low = at.astype(int)
            part = (at - low).reshape([-1 if i == axis else 1 for i in range(3)]).astype(np.float32)
            field = field.take(low, axis) * (1 - part) + field.take(low + 1, axis) * part
        np.exp(field, out=field)
        field *= np.float32(self._level)
        return field

    def _draw_places(self, rng: np.random.Generator) -> tuple[list[Index3], np.ndarray]:
        """Places of the cells (voxels), in raster order, and the centres of their groups."""
        lowest, highest = REACH, np.array(self.shape) - REACH - 1
        grid = math.prod(-(-n // c) for n, c in zip(self.shape, self.cell, strict=True))
        places: np.ndarray = np.empty((0, 3))
        centres, held = [], set()
        while len(held) < SHARE * grid:
            centre = rng.uniform(lowest, highest)
            centres.append(centre)
            count = 1 + rng.poisson(GROUP - 1) if rng.random() < GROUPED else 1
            for offset in rng.normal(0, SPREAD, (count, 3)) / VOXEL * (count > 1):
                if len(held) >= SHARE * grid:
                    break
                place = np.rint(centre + offset)
                inside = (place >= lowest).all() and (place <= highest).all()
                if inside and (np.linalg.norm((places - place) * VOXEL, axis=1) >= APART).all():
                    places = np.vstack([places, place])
                    held.add(tuple(place // self.cell))
        return sorted((int(z), int(y), int(x)) for z, y, x in places), np.array(centres)


class _Slab:
    """Planes without their shading and their cells."""

    def __init__(self, planes: np.ndarray) -> None:
        self._planes = planes
        self._dog = ndimage.gaussian_filter(planes, 4 / VOXEL) - ndimage.gaussian_filter(planes, 8 / VOXEL)
        bright = ndimage.binary_dilation(self._dog > 60, iterations=2)
        kept = (~bright).astype(np.float32)
        low = [ndimage.gaussian_filter(p, (0, 24, 24)) for p in (planes * kept, kept)]
        self.shading = low[0] / np.maximum(low[1], 0.05)
        self.tissue = ndimage.minimum_filter(self.shading, (1, 41, 41)) > 90
        residual = (planes - self.shading) / np.sqrt(np.maximum(self.shading, 1))
        hole = bright
        for shift in (31, -31, 67, -67, 139):  # background from beside the cell, in the same plane
            residual = np.where(hole, np.roll(residual, shift, 2), residual)
            hole = hole & np.roll(bright, shift, 2)
        residual[hole] = 0
        self._bright = bright
        self.residual = np.clip(residual, -20, 20)

    def patches(self) -> np.ndarray:
        """First voxels (y, x) of patches that lie in tissue, with less than 5 % where cells were."""
        size = (0, *PATCH[1:])
        usable = [
            np.stack([ndimage.uniform_filter(p.astype(np.float64), size[1:]) for p in m]).mean(0)
            for m in (self.tissue, self._bright)
        ]
        good = (usable[0] > 0.999) & (usable[1] < 0.05)
        half = [n // 2 for n in PATCH[1:]]
        inside = good[half[0] : -half[0] or None, half[1] : -half[1] or None]
        places = np.argwhere(inside)
        if not len(places):
            raise UserError("lightsheet_cells has no patch that is free of cells: is it the right set?")
        return places

    def cells(self) -> list[np.ndarray]:
        """Intensities above the background of cells that stand alone: (z, y, x) with their centre in the middle."""
        peaks = (ndimage.maximum_filter(self._dog, (5, 9, 9)) == self._dog) & (self._dog > 250)
        places = np.argwhere(peaks)
        away = np.indices(2 * REACH + 1).transpose(1, 2, 3, 0) - REACH
        distance = np.linalg.norm(away * VOXEL * (0.8, 1, 1), axis=-1)  # light sheets blur more along z
        mask = np.clip((14 - distance) / 5, 0, 1)
        mask = mask**2 * (3 - 2 * mask)
        found = []
        padded = np.pad(self._planes, [(3, 3), (0, 0), (0, 0)], mode="reflect")
        for place in places:
            gaps = np.linalg.norm((places - place) * VOXEL, axis=1)
            if not 2 <= place[0] < len(self._planes) - 2 or np.sort(gaps)[:2][-1] < 18:
                continue
            if any(
                not r <= p < n - r
                for p, r, n in zip(place[1:], REACH[1:], self._planes.shape[1:], strict=True)
            ):
                continue
            z, y, x = place
            cut = padded[z : z + 7, y - 9 : y + 10, x - 9 : x + 10]
            cut = cut - np.median(cut[(distance > 14) & (distance < 22)])
            if cut.max() < HOT:
                found.append((cut * mask).astype(np.float32))
        if not found:
            raise UserError("lightsheet_cells has no cell that stands alone: is it the right set?")
        return found


def _distractors(
    rng: np.random.Generator, shape: Index3, centres: np.ndarray, cells: int, templates: list[np.ndarray]
) -> list[Stamp]:
    """Bright things that are no cells: as many out of focus as there are cells, a quarter as many fibres, dust."""

    def place() -> Index3:
        z, y, x = rng.uniform(0, shape)
        if rng.random() < 0.6:
            z, y, x = centres[rng.integers(len(centres))] + rng.normal(0, 2 * SPREAD, 3) / VOXEL
        return (int(z), int(y), int(x))

    stamps = []
    for _ in range(cells):
        wide = np.pad(templates[rng.integers(len(templates))], [(4, 4), (12, 12), (12, 12)])
        wide = ndimage.gaussian_filter(wide, 10 / VOXEL)
        stamps.append(_placed(place(), _turned(wide * (rng.uniform(100, 400) / wide.max()), rng)))
    for _ in range(cells // 4):
        stamps.append(_placed(place(), _fibre(rng)))
    for _ in range(round(math.prod(shape) / 1e7)):
        stamps.append(_placed(place(), np.full((1, 1, 1), rng.uniform(2000, 12000), np.float32)))
    return stamps


def _fibre(rng: np.random.Generator) -> np.ndarray:
    """A straight piece, 40 to 150 um long and 5 um thick (two sigma), that fades towards its ends."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    length = rng.uniform(40, 150)
    half = np.ceil((np.abs(direction) * length / 2 + 8) / VOXEL).astype(int)
    at = (np.indices(2 * half + 1).transpose(1, 2, 3, 0) - half) * VOXEL
    along = at @ direction
    across = np.maximum((at**2).sum(-1) - along**2, 0)
    fade = np.clip(1.2 - 2 * np.abs(along) / length, 0, 1)
    return (rng.uniform(150, 500) * fade * np.exp(-across / (2 * 2.5**2))).astype(np.float32)


def _varied(cell: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _turned(cell, rng) * np.float32(rng.uniform(0.8, 1.25))


def _turned(block: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flipped along any axes, y and x perhaps exchanged."""
    z, y, x, swap = (2 * rng.integers(2, size=4) - 1).tolist()
    block = block[::z, ::y, ::x]
    return block.transpose(0, 2, 1) if swap > 0 else block


def _placed(centre: Index3, values: np.ndarray) -> Stamp:
    z, y, x = (c - n // 2 for c, n in zip(centre, values.shape, strict=True))
    return Stamp((z, y, x), values)


def _ramp(length: int, overlap: int) -> np.ndarray:
    """Weights along one axis: squares of neighbours add up to 1."""
    rise = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / overlap)
    return np.concatenate([rise, np.ones(length - 2 * overlap), rise[::-1]])


def _add(target: np.ndarray, origin: Index3, start: tuple[int, ...], values: np.ndarray) -> None:
    """Add ``values``, which begin at ``start``, to the part of them in ``target``, which begins at ``origin``."""
    low = [max(s - o, 0) for s, o in zip(start, origin, strict=True)]
    high = [min(s - o + n, m) for s, o, n, m in zip(start, origin, values.shape, target.shape, strict=True)]
    if all(a < b for a, b in zip(low, high, strict=True)):
        inner = tuple(
            slice(a + o - s, b + o - s) for a, b, o, s in zip(low, high, origin, start, strict=True)
        )
        target[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] += values[inner]
