"""The model grid: the voxels that a network sees, a level of the source or a resampling of one.

Grid voxel j covers source voxels [j f, (j + 1) f) of one level (f: rational factor per axis), so
``scale = source scale * f`` and ``translation = source translation + (f - 1)/2 * source scale``
(translations are of the centre of voxel 0). Beyond its borders the grid continues by symmetric reflection::

    ... 2 1 0 | 0 1 2 3 | 3 2 1 ...

also where it is smaller than what is asked for; the whole-volume reference is defined with the same
padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.resample import Taps, resample_axis, resampled_length, taps
from connectoscope.errors import UserError
from connectoscope.volumes.geometry import Box, Float3, Index3, sizes_text

if TYPE_CHECKING:
    from connectoscope.volumes import Volume

SAME = 0.25  # an axis whose voxel size differs by up to this share is taken as it is
TOO_COARSE, TOO_FINE = 2.0, 1 / 32  # voxel size over the model's, beyond which nothing useful can come
READ_LIMIT = 48 * 2**20  # source voxels held at once while resampling

Factor3 = tuple[Fraction, Fraction, Fraction]
ONE = Fraction(1)

T = TypeVar("T")


@dataclass(frozen=True)
class Grid:
    """Level ``level`` of ``volume``, resampled by ``factor`` (grid voxel over source voxel, z y x)."""

    volume: Volume
    level: int = 0
    factor: Factor3 = (ONE, ONE, ONE)

    @cached_property
    def shape(self) -> Index3:
        n = self.volume.levels[self.level].shape
        return _three(lambda a: resampled_length(n[a], self.factor[a]))

    @cached_property
    def scale(self) -> Float3:
        """Voxel size in ``volume.unit``."""
        s = self.volume.levels[self.level].scale
        return _three(lambda a: s[a] * float(self.factor[a]))

    @cached_property
    def translation(self) -> Float3:
        """World position of the centre of voxel 0, in ``volume.unit``."""
        source = self.volume.levels[self.level]
        return _three(lambda a: source.translation[a] + float((self.factor[a] - 1) / 2) * source.scale[a])

    def read(self, box: Box) -> NDArray[np.float32]:
        """Intensities of ``box`` (grid voxels, may reach or lie outside), (z, y, x) float32.

        What is not finite in the source stays so.
        """
        index, inside = self._inside(box)
        array = self._read_inside(inside)
        for a in range(3):
            if inside.start[a] != box.start[a] or inside.stop[a] != box.stop[a]:
                array = np.take(array, index[a] - inside.start[a], axis=a)
        return array

    def skipped_in(self, box: Box) -> list[Box]:
        """The corrupt chunks (voxels of the source level) that :meth:`read` of ``box`` took as 0."""
        rows = self._taps(self._inside(box)[1])
        source = Box(_three(lambda a: rows[a].start), _three(lambda a: rows[a].stop))
        return self.volume.skipped_in(source, self.level)

    def gaps(self, box: Box) -> list[Box]:
        """The same in grid voxels."""
        return [self.box_from_level(chunk, self.level) for chunk in self.skipped_in(box)]

    def _inside(self, box: Box) -> tuple[list[NDArray[np.int64]], Box]:
        """For each axis the indices inside the grid that ``box`` shows, and the box that holds them."""
        index = [reflected(box.start[a], box.stop[a], self.shape[a]) for a in range(3)]
        return index, Box(_three(lambda a: int(index[a].min())), _three(lambda a: int(index[a].max()) + 1))

    def _taps(self, box: Box) -> list[Taps]:
        """What each voxel of ``box`` (inside the grid) is made of, axis by axis."""
        n = self.volume.levels[self.level].shape
        return [taps(box.start[a], box.stop[a], self.factor[a], n[a]) for a in range(3)]

    def _read_inside(self, box: Box) -> NDArray[np.float32]:
        if self.factor == (ONE, ONE, ONE):
            return _float32(self.volume.read(box, self.level))
        rows = self._taps(box)
        source = Box(_three(lambda a: rows[a].start), _three(lambda a: rows[a].stop))
        if source.size > READ_LIMIT and box.shape[0] > 1:
            middle = (box.start[0] + box.stop[0]) // 2
            low = Box(box.start, (middle, *box.stop[1:]))
            high = Box((middle, *box.start[1:]), box.stop)
            return np.concatenate([self._read_inside(low), self._read_inside(high)])
        array = _float32(self.volume.read(source, self.level))
        for a in range(3):
            array = resample_axis(array, a, rows[a], source.start[a])
        return array

    def box_from_level(self, box: Box, level: int) -> Box:
        """Smallest grid box that covers ``box``, given in voxels of ``level`` of the source.

        Raises:
            UserError: when the level does not exist or the box reaches outside it.
        """
        whole = Box.of(self.volume.level(level).shape)
        if not whole.contains(box):
            raise UserError(f"box {box} reaches outside the volume, which is {whole} at level {level}")
        if level == self.level:
            start = _three(lambda a: math.floor(box.start[a] / self.factor[a]))
            stop = _three(lambda a: math.ceil(box.stop[a] / self.factor[a]))
        else:
            source = self.volume.levels[level]
            start, stop = _through_world(box, source.scale, source.translation, self.scale, self.translation)
        start = _three(lambda a: min(max(start[a], 0), self.shape[a] - 1))
        return Box(start, _three(lambda a: min(max(stop[a], start[a] + 1), self.shape[a])))

    def box_in_level0(self, box: Box) -> Box:
        """Smallest box of level 0 of the source that covers ``box`` (grid voxels)."""
        finest = self.volume.levels[0]
        if self.level == 0:
            start = _three(lambda a: math.floor(box.start[a] * self.factor[a]))
            stop = _three(lambda a: math.ceil(box.stop[a] * self.factor[a]))
        else:
            start, stop = _through_world(box, self.scale, self.translation, finest.scale, finest.translation)
        return Box(start, stop).intersection(Box.of(finest.shape))

    def note(self, wanted: Float3) -> str | None:
        """One line for people when the network sees another voxel size than ``wanted`` (nm), else None."""
        own = self.volume.voxel_size_nm(self.level)
        seen = _three(lambda a: own[a] * float(self.factor[a]))
        if self.factor != (ONE, ONE, ONE):
            return f"resampled from {sizes_text(own)} nm to {sizes_text(seen)} nm for the model"
        if any(abs(seen[a] / wanted[a] - 1) > 0.01 for a in range(3)):
            return f"voxel size {sizes_text(seen)} nm is taken as it is; the model was trained at {sizes_text(wanted)} nm"
        return None


def choose_grid(volume: Volume, voxel_size: Float3, *, planes: bool = False) -> Grid:
    """The grid on which a model of ``voxel_size`` (nm, z y x) sees ``volume``.

    The level nearest to the model that is nowhere coarser than 1.25 times its voxel size (else the
    finest); axes within 25 % are taken as they are, others are resampled by a rational factor.

    Args:
        planes: The model sees single planes: z is taken as it is, whatever it is.

    Raises:
        UserError: voxel size unknown, more than twice the model's, or finer than 1/32 of it.
    """
    sizes = [volume.voxel_size_nm(level) for level in range(len(volume.levels))]
    axes = (1, 2) if planes else (0, 1, 2)
    if any(sizes[0][a] > TOO_COARSE * voxel_size[a] for a in axes):
        raise UserError(
            f"{volume.name} has voxels of {sizes_text(sizes[0])} nm, more than twice the model's "
            f"{sizes_text(voxel_size)} nm: use a finer volume or another model, or correct the size with --voxel-size"
        )

    def distance(level: int) -> tuple[float, float]:
        return sum(abs(math.log(sizes[level][a] / voxel_size[a])) for a in axes), sizes[level][0]

    fine = [k for k, s in enumerate(sizes) if all(s[a] <= (1 + SAME) * voxel_size[a] for a in axes)]
    level = min(fine or [0], key=distance)
    size = sizes[level]
    if any(size[a] < TOO_FINE * voxel_size[a] for a in axes):
        raise UserError(
            f"{volume.name} has voxels of {sizes_text(size)} nm, finer than 1/32 of the model's "
            f"{sizes_text(voxel_size)} nm: convert it to a coarser volume first, or correct the size with --voxel-size"
        )
    return Grid(volume, level, _three(lambda a: _factor(voxel_size[a] / size[a]) if a in axes else ONE))


def _factor(ratio: float) -> Fraction:
    return ONE if abs(1 / ratio - 1) <= SAME + 1e-9 else Fraction(ratio).limit_denominator(16)


def reflected(start: int, stop: int, length: int) -> NDArray[np.int64]:
    """Indices inside [0, length) that symmetric reflection shows at positions ``start`` to ``stop``."""
    index = np.arange(start, stop, dtype=np.int64) % (2 * length)
    return np.where(index >= length, 2 * length - 1 - index, index)


def _through_world(
    box: Box, scale: Float3, translation: Float3, to_scale: Float3, to_translation: Float3
) -> tuple[Index3, Index3]:
    def face(a: int, index: int) -> float:  # a voxel's face lies half a voxel before its centre
        return (translation[a] + (index - 0.5) * scale[a] - to_translation[a]) / to_scale[a] + 0.5

    slack = 1e-6  # faces that coincide stay so in spite of rounding
    start = _three(lambda a: math.floor(face(a, box.start[a]) + slack))
    return start, _three(lambda a: math.ceil(face(a, box.stop[a]) - slack))


def _three(of: Callable[[int], T]) -> tuple[T, T, T]:
    return (of(0), of(1), of(2))


def _float32(array: NDArray[np.generic]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity and is counted as not finite
        return np.asarray(array).astype(np.float32)
