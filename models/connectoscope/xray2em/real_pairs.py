"""A real pair: X-ray and EM of the same tissue, joined by an affine transform, read patch by patch.

::

    X-ray grid (30 nm)          EM (any voxels, turned, shifted, stretched)
    +--------------------+
    |  . patch .         |  ->  the EM voxels around the patch, averaged where they are finer than what is wanted,
    |                    |      then interpolated linearly at the places of ``scale``³ sub-voxels of each X-ray voxel
    +--------------------+

Only patches that lie wholly inside the EM are taken. Parts to train on, to choose and calibrate with, and to report are
planes of the X-ray grid, with gaps between them.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from connectoscope.blockwise.grid import Grid, choose_grid
from connectoscope.errors import UserError
from connectoscope.networks.normalise import intensity_range, normalise
from connectoscope.networks.upscaling import UpscalingArguments
from connectoscope.training.recipe import Recipe
from connectoscope.volumes import Volume, open_volume
from connectoscope.volumes.geometry import Box, Float3, Index3, convert_length, sizes_text
from connectoscope.xray2em.pairs import AROUND, Batches, Pair, Real
from connectoscope.xray2em.texture import check_isotropic
from connectoscope.xray2em.transform import load_transform

Matrix = NDArray[np.float64]
Places = NDArray[np.int64]

TOO_COARSE = 2.0  # EM voxel over X-ray voxel from which on there is nothing to learn
INTERPOLATED = 1.5  # EM voxel over the voxel that is written from which on that is said
IN_MEMORY = 128 * 2**20  # voxels up to which a volume is read once and kept
LATTICE = 25  # starts tried along each axis when patches are looked for
DEEP, WIDE = 24, 128  # X-ray planes, and rows and columns, of the boxes that are scored
BOXES = 4  # of them in each part, at most
LEAST = 4  # X-ray planes of a part that is scored
SHARES = {"train": 0.7, "choose": 0.1, "report": 0.2}


@dataclass(frozen=True)
class RealPair:
    """Both volumes on their common grid.

    Attributes:
        xray: The grid that the network sees.
        em_level: The resolution of ``em`` that is read.
        transform: ``(4, 4)``, X-ray world to EM world, nm.
        to_em: ``(4, 4)``, voxel of the X-ray grid to voxel of that level.
        names: Of X-ray, EM and transform, without folders.
        scale: EM voxels made per X-ray voxel, along each axis.
        read_xray, read_em: A box of the grid, and of the level, float32.
        xray_range, em_range: Intensities that become -0.5 and 0.5, and 0 and 1.
        parts: X-ray planes, half-open, of ``train``, ``choose`` and ``report``.
    """

    xray: Grid
    em: Volume
    em_level: int
    transform: Matrix
    to_em: Matrix
    names: tuple[str, str, str]
    scale: int
    read_xray: Callable[[Box], Real]
    read_em: Callable[[Box], Real]
    xray_range: tuple[float, float]
    em_range: tuple[float, float]
    parts: dict[str, tuple[int, int]]

    @cached_property
    def signature(self) -> str:
        """What tells this pair from another or a changed one."""
        return json.dumps(
            [self.xray.volume.identity(), self.em.identity(), self.transform.tolist(), self.parts]
        )

    @property
    def voxel_nm(self) -> float:
        """Of the X-ray grid."""
        return _nm(self.xray.scale, self.xray.volume)[0]

    @property
    def gap(self) -> int:
        """X-ray planes between the parts."""
        return self.parts["choose"][0] - self.parts["train"][1]

    @property
    def em_shape(self) -> Index3:
        return self.em.level(self.em_level).shape

    def target(self, box: Box, scale: int) -> Real:
        """EM (0-1 and somewhat beyond) of a box of the X-ray grid, ``scale`` times finer; beyond the EM its border goes on."""
        step = self.to_em[:3, :3] / scale
        first = self.to_em[:3] @ (*(a + 0.5 / scale - 0.5 for a in box.start), 1.0)
        shape = tuple(n * scale for n in box.shape)
        # Finer EM is averaged first, over whole numbers of its voxels: u = (v + 0.5) / k - 0.5.
        k = np.minimum(np.maximum(np.linalg.norm(step, axis=1).round().astype(int), 1), self.em_shape)
        step, first = step / k[:, None], (first + 0.5) / k - 0.5
        corners = _corners(shape) @ step.T + first
        most = np.array(self.em_shape) // k
        low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, most - 1)
        high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, low + 1, most)
        pixels = self.read_em(Box(_index(low * k), _index(high * k)))
        (z, y, x), (a, b, c) = high - low, k
        pixels = pixels.reshape(z, a, y, b, x, c).mean((1, 3, 5))
        found = ndimage.affine_transform(pixels, step, first - low, shape, order=1, mode="nearest")
        black, white = self.em_range
        return np.asarray((found - np.float32(black)) / np.float32(white - black), np.float32)

    def inside(self, starts: Places, shape: Index3) -> NDArray[np.bool_]:
        """Which boxes of the X-ray grid, of ``shape`` from each of ``starts`` (n, 3), lie wholly in both volumes."""
        corners = starts[:, None] + _corners(tuple(n + 1 for n in shape)) - 0.5  # their faces
        places = corners @ self.to_em[:3, :3].T + self.to_em[:3, 3]
        slack = 0.01
        in_em = (places > -0.5 - slack) & (places < np.array(self.em_shape) - 0.5 + slack)
        in_xray = (starts >= 0) & (starts + shape <= self.xray.shape)
        return np.asarray(in_em.all((1, 2)) & in_xray.all(1))

    def starts(self, shape: Index3, planes: tuple[int, int] | None = None) -> tuple[Places, Places]:
        """Starts (n, 3), on a lattice, of boxes of ``shape`` wholly inside both volumes and, in z, ``planes``; and the
        distances of the lattice.
        """
        first, last = planes or (0, self.xray.shape[0])
        back = np.linalg.inv(self.to_em)
        faces = _corners(tuple(n + 1 for n in self.em_shape)) - 0.5
        reach = faces @ back[:3, :3].T + back[:3, 3] + 0.5
        low = np.maximum(np.ceil(reach.min(0) - 0.01), (first, 0, 0)).astype(int)
        high = np.minimum(np.floor(reach.max(0) + 0.01), (last, *self.xray.shape[1:])).astype(int) - shape
        if (high < low).any():
            return np.empty((0, 3), np.int64), np.ones(3, np.int64)
        axes = [
            np.unique(np.linspace(a, b, min(b - a + 1, LATTICE)).round().astype(np.int64))
            for a, b in zip(low, high, strict=True)
        ]
        every = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        return every[self.inside(every, shape)], np.maximum((high - low) // (LATTICE - 1), 1)

    def boxes(self, shape: Index3, planes: tuple[int, int] | None, most: int) -> list[Box]:
        """Up to ``most`` boxes of ``shape`` in these planes that do not overlap, spread at random, always the same."""
        left, _ = self.starts(shape, planes)
        left = np.random.default_rng(0).permutation(left)
        found: list[Box] = []
        while len(left) and len(found) < most:
            start = left[0]
            found.append(Box(_index(start), _index(start + shape)))
            left = left[(np.abs(left - start) >= shape).any(1)]
        return found

    def held_out(self, part: str, side: int | None = None) -> Iterator[Pair]:
        """Boxes of a part (``choose``, ``report``), with X-ray planes around them that the network sees.

        Args:
            side: Rows and columns, in X-ray voxels.

        Raises:
            UserError: there is no room for any.
        """
        first, last = self.parts[part]
        width = min(side or WIDE, *self.xray.shape[1:])
        while not (boxes := self.boxes((min(last - first, DEEP), width, width), (first, last), BOXES)):
            width = width * 3 // 4
            if width < LEAST:
                raise UserError(
                    f"{self.names[0]} and {self.names[1]} overlap too little in planes {first}:{last}, which are kept back"
                )
        for box in boxes:
            seen = Box(
                (max(box.start[0] - AROUND, 0), *box.start[1:]),
                (min(box.stop[0] + AROUND, self.xray.shape[0]), *box.stop[1:]),
            )
            scored = slice(
                (box.start[0] - seen.start[0]) * self.scale, (box.stop[0] - seen.start[0]) * self.scale
            )
            em = np.zeros([n * self.scale for n in seen.shape], np.float32)
            em[scored] = self.target(box, self.scale)
            yield Pair(normalise(self.read_xray(seen), *self.xray_range), em, scored)

    def warnings(self, wanted: Float3) -> list[str]:
        """What was assumed of the files, and where their voxels are not as ``wanted`` (nm, of the X-ray), one line each."""
        told = [*self.xray.volume.warnings, *self.em.warnings]
        if (note := self.xray.note(wanted)) is not None:
            told.append(f"{self.names[0]}: {note}")
        sizes, fine = self.em.voxel_size_nm(), wanted[0] / self.scale
        if max(sizes) > INTERPOLATED * fine:
            told.append(
                f"{self.names[1]} has voxels of {sizes_text(sizes)} nm, the network writes isotropic ones of {fine:g} nm: what "
                "lies between them is interpolated, and that blur is learned"
            )
        return told


def open_pair(recipe: Recipe, xray: str, em: str, transform: str) -> RealPair:
    """Open both volumes, join them and split what they share.

    Raises:
        UserError: a file is missing or unusable, voxels are unknown or do not suit the recipe, or the overlap is too small.
    """
    arguments = UpscalingArguments.parse(recipe.architecture.name, recipe.architecture.arguments)
    matrix = load_transform(Path(transform))
    scan, truth = (open_volume(source) for source in (xray, em))
    for volume in (scan, truth):
        if volume.unit is None:
            raise UserError(
                f"{volume.name} does not state its voxel size: 'connectoscope convert' with --voxel-size makes one that does"
            )
    check_isotropic(scan)
    coarse = max(truth.voxel_size_nm())
    if coarse > TOO_COARSE * recipe.inputs.voxel_size[0]:
        raise UserError(
            f"{truth.name} has voxels of {coarse:g} nm, more than twice those of the X-ray: there is nothing to learn from it"
        )
    grid = choose_grid(scan, recipe.inputs.voxel_size)
    to_world = _placed(_nm(grid.scale, scan), _nm(grid.translation, scan))
    level = _level(truth, (matrix @ to_world)[:3, :3] / arguments.scale)
    found = truth.level(level)
    of_em = _placed(_nm(found.scale, truth), _nm(found.translation, truth))
    names = (_name(xray), _name(em), _name(transform))

    def read_em(box: Box) -> NDArray[Any]:
        return truth.read(box, level)

    pair = RealPair(
        xray=grid,
        em=truth,
        em_level=level,
        transform=matrix,
        to_em=np.linalg.inv(of_em) @ matrix @ to_world,
        names=names,
        scale=arguments.scale,
        read_xray=_kept(grid.read, grid.shape),
        read_em=_kept(read_em, found.shape),
        xray_range=_range(names[0], grid.read, grid.shape, recipe.inputs.percentiles),
        em_range=_range(names[1], read_em, found.shape, recipe.inputs.percentiles),
        parts={},
    )
    return replace(pair, parts=split(pair, recipe.sampling.patch, max(arguments.member.receptive_field())))


def split(pair: RealPair, patch: Index3, receptive_field: int) -> dict[str, tuple[int, int]]:
    """Planes of the overlap for each part of :data:`SHARES`, in this order along z, and gaps of two receptive fields, at
    most a tenth of the overlap, between them.

    Raises:
        UserError: the volumes do not overlap, or too little for a patch and the parts that are scored.
    """
    both = f"{pair.names[0]} and {pair.names[1]}, as {pair.names[2]} joins them,"
    starts, _ = pair.starts(patch)
    if not len(starts):
        if not len(pair.starts((1, 1, 1))[0]):
            raise UserError(f"{both} do not overlap: is the transform from X-ray to EM, z, y, x?")
        raise UserError(f"{both} overlap too little: no patch of {patch} X-ray voxels lies in both")
    first, last = int(starts[:, 0].min()), int(starts[:, 0].max()) + patch[0]
    gap = max(min(2 * receptive_field, (last - first) // 10), 1)
    room = last - first - 2 * gap
    choose, report = (max(round(SHARES[part] * room), LEAST) for part in ("choose", "report"))
    train = room - choose - report
    parts = {
        "train": (first, first + train),
        "choose": (first + train + gap, first + train + gap + choose),
        "report": (last - report, last),
    }
    if train < patch[0] or not len(pair.starts(patch, parts["train"])[0]):
        raise UserError(
            f"{both} share {last - first} X-ray planes; patches of {patch[0]}, what is kept back and gaps of {gap} do not fit"
        )
    return parts


class RealSampler(Batches):
    """Draws patches of the training part of a real pair, each from seed, step and place alone."""

    def __init__(self, pair: RealPair, recipe: Recipe, members: int) -> None:
        super().__init__(recipe, members)
        self.pair = pair
        self.starts, self.step = pair.starts(recipe.sampling.patch, pair.parts["train"])

    def patch(self, step: int, place: int) -> tuple[Real, Real]:
        """X-ray ``(Z, Y, X)`` and EM, turned to one of the 48 orientations where the patch is a cube."""
        generator, pair, shape = self.generator(step, place), self.pair, self.recipe.sampling.patch
        start = self.starts[generator.integers(len(self.starts))]
        nearby = start + generator.integers(-(self.step // 2), self.step // 2 + 1, (16, 3))
        first, last = pair.parts["train"]
        fits = pair.inside(nearby, shape) & (nearby[:, 0] >= first) & (nearby[:, 0] + shape[0] <= last)
        if fits.any():
            start = nearby[np.argmax(fits)]
        box = Box(_index(start), _index(start + shape))
        xray = normalise(pair.read_xray(box), *self.shaken(*pair.xray_range, generator))
        return self.turned(xray, pair.target(box, pair.scale), generator)


def _kept(read: Callable[[Box], NDArray[Any]], shape: Index3) -> Callable[[Box], Real]:
    """``read`` as float32, what is not finite as 0; from memory where the whole is small."""

    def finite(box: Box) -> Real:
        array = np.asarray(read(box)).astype(np.float32)
        return np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)

    if math.prod(shape) > IN_MEMORY:
        return finite
    whole = np.asarray(read(Box.of(shape)))
    return lambda box: np.nan_to_num(
        whole[box.slices].astype(np.float32), copy=False, nan=0.0, posinf=0.0, neginf=0.0
    )


def _range(
    name: str, read: Callable[[Box], NDArray[Any]], shape: Index3, percentiles: tuple[float, float]
) -> tuple[float, float]:
    try:
        return intensity_range(read, shape, *percentiles)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _level(em: Volume, step: Matrix) -> int:
    """The coarsest level that is, along no axis, coarser than what is wanted (nm along EM's axes, as columns)."""
    wanted = np.linalg.norm(step, axis=1)
    finest = np.maximum(wanted * 1.02, em.voxel_size_nm())
    return max(k for k in range(len(em.levels)) if (em.voxel_size_nm(k) <= finest).all())


def _nm(lengths: Float3, volume: Volume) -> Float3:
    return convert_length(lengths, volume.unit or "nanometer", "nanometer")


def _placed(scale: Float3, translation: Float3) -> Matrix:
    """Voxel to world."""
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = translation
    return matrix


def _corners(shape: tuple[int, ...]) -> Matrix:
    """Indices (8, 3) of the first and last voxels of an array."""
    return np.array(list(itertools.product(*((0, n - 1) for n in shape))), np.float64)


def _index(values: NDArray[np.integer[Any]]) -> Index3:
    z, y, x = (int(n) for n in values)
    return (z, y, x)


def _name(source: str) -> str:
    """What a source is called on a card: no folders, no hosts."""
    file, mark, dataset = source.partition("::")
    return file.replace("\\", "/").rstrip("/").rpartition("/")[2] + mark + dataset
