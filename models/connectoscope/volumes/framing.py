"""From what a file holds, any axes, to a :class:`Volume`: one channel, one time, axes z, y, x, one unit.

Every reader ends here, so the rules of docs/contracts.md, "Volumes and grids", stand once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import tensorstore as ts

from connectoscope.errors import ColourImage, UserError
from connectoscope.volumes.geometry import (
    NANOMETRES,
    Float3,
    Index3,
    convert_length,
    parse_voxel_size,
    sizes_text,
    unit_symbol,
)
from connectoscope.volumes.volume import Level, Volume


@dataclass(frozen=True)
class FileLevel:
    """A level as it lies in the file.

    Attributes:
        array: All axes of the file.
        scale: Voxel size (z, y, x); None: not stated.
        translation: World position (z, y, x) of the centre of voxel 0; None: not stated.
    """

    array: ts.TensorStore
    scale: Float3 | None = None
    translation: Float3 | None = None


@dataclass(frozen=True)
class FileImage:
    """An image as it lies in the file, before channel and time are chosen.

    Attributes:
        axes: One letter an axis: t, c, z, y, x, or s for the colour samples of a pixel.
        unit: Canonical unit of scale and translation; None: unknown.
        metadata: All metadata that was read, as text; its hash is part of the identity.
    """

    source: str
    name: str
    format: str
    axes: str
    levels: tuple[FileLevel, ...]
    unit: str | None = None
    channels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    metadata: str = ""
    stamp: str = ""

    @property
    def label(self) -> str:
        return self.source or self.name

    def length(self, axis: str) -> int | None:
        index = self.axes.find(axis)
        return None if index < 0 else int(self.levels[0].array.shape[index])


def common_unit(values: Sequence[float], units: Sequence[str | None]) -> tuple[Float3, str | None]:
    """Lengths (z, y, x) in units of their own, all in the last one's unit; None when any unit is unknown."""
    z, y, x = values
    if any(u is None or u not in NANOMETRES for u in units):
        return (z, y, x), None
    to = str(units[-1])
    factors = [1.0 if u == to else NANOMETRES[str(u)] / NANOMETRES[to] for u in units]
    return (z * factors[0], y * factors[1], x * factors[2]), to


def frame(image: FileImage, *, channel: str | int | None, time: int | None, voxel_size: str | None) -> Volume:
    """The :class:`Volume` of ``image`` with ``channel`` and ``time`` chosen.

    Raises:
        UserError: colour, an empty or non-numeric image, an unknown channel or time.
    """
    warnings = list(image.warnings)
    _check_pixels(image)
    image = _samples_as_channels(image, channel)
    names = _channel_names(image)
    chosen_channel = _choose_channel(image, names, channel, warnings)
    times = image.length("t") or 1
    chosen_time = _choose_time(image, times, time, warnings)

    scales, translations, unit = _world(image, voxel_size, warnings)
    levels = []
    for level, scale, translation in zip(image.levels, scales, translations, strict=True):
        array = _canonical(level.array, image.axes, chosen_channel or 0, chosen_time or 0)
        levels.append(Level(array, scale, translation, _read_chunks(array)))
    for coarser in levels[1:]:
        if any(c > f for c, f in zip(coarser.shape, levels[0].shape, strict=True)):
            raise UserError(
                f"{image.label}: its levels are not ordered from fine to coarse; repair its metadata"
            )
    return Volume(
        source=image.source,
        name=image.name,
        format=image.format,
        levels=tuple(levels),
        unit=unit,
        axes=image.axes,
        channels=names,
        channel=chosen_channel,
        times=times,
        warnings=tuple(warnings),
        time=chosen_time,
        metadata_hash=hashlib.sha256(image.metadata.encode()).hexdigest(),
        stamp=image.stamp,
    )


def _check_pixels(image: FileImage) -> None:
    if "y" not in image.axes or "x" not in image.axes:
        raise UserError(f"{image.label} has axes '{image.axes}': a volume needs at least y and x")
    if len(set(image.axes)) != len(image.axes):
        raise UserError(
            f"{image.label} has axes '{image.axes}', one of them twice: write it again with other names"
        )
    for level in image.levels:
        if len(level.array.shape) != len(image.axes):
            raise UserError(
                f"{image.label} is damaged: an array has {len(level.array.shape)} axes, its metadata name "
                f"{len(image.axes)} ('{image.axes}')"
            )
        lead = [i for i, axis in enumerate(image.axes) if axis not in "zyx"]
        if any(level.array.shape[i] != image.levels[0].array.shape[i] for i in lead):
            raise UserError(
                f"{image.label} is damaged: its levels have different numbers of channels or times"
            )
        if 0 in level.array.shape:
            shape = sizes_text(level.array.shape)
            raise UserError(f"{image.label} is empty ({shape} voxels): there is nothing to open")
    dtype = image.levels[0].array.dtype
    if dtype != ts.bool and np.dtype(dtype.numpy_dtype).kind not in "uif":
        raise UserError(
            f"{image.label} holds {dtype.name} values: only real numbers can be opened; convert it to an integer "
            "or float type"
        )


def _samples_as_channels(image: FileImage, channel: str | int | None) -> FileImage:
    samples = image.length("s")
    if samples is None:
        return image
    if "c" in image.axes:
        raise UserError(
            f"{image.label} has colour channels ({samples} samples a pixel): convert it to grayscale"
        )
    names = ("red", "green", "blue", "alpha")[:samples] if samples in (3, 4) else ()
    image = FileImage(**{**vars(image), "axes": image.axes.replace("s", "c"), "channels": names})
    if channel is None and samples > 1:
        raise ColourImage(
            f"{image.label} is a colour image ({samples} samples a pixel): convert it to grayscale, or pick one of "
            "them, for example --channel 0",
            [(str(number), name) for number, name in enumerate(_channel_names(image))],
        )
    return image


def _channel_names(image: FileImage) -> tuple[str, ...]:
    count = image.length("c")
    if count is None:
        return ()
    given = image.channels[:count]
    return tuple((given[i] if i < len(given) else "") or f"channel {i}" for i in range(count))


def _choose_channel(
    image: FileImage, names: tuple[str, ...], channel: str | int | None, warnings: list[str]
) -> int | None:
    if not names:
        if channel not in (None, 0, "0"):
            raise UserError(f"{image.label} has no channels: leave out --channel")
        return None
    if channel is None:
        if len(names) > 1:
            warnings.append(
                f"the volume has channels {_listed(names)}; '{names[0]}' is taken (choose with --channel)"
            )
        return 0
    if isinstance(channel, str):
        if channel in names:
            return names.index(channel)
        if channel.isdecimal():
            channel = int(channel)
    if isinstance(channel, int) and 0 <= channel < len(names):
        return channel
    raise UserError(
        f"{image.label} has no channel '{channel}'; its channels are {_listed(names)} (0 to {len(names) - 1})"
    )


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{n}'" for n in names[:most]) + more


def _choose_time(image: FileImage, times: int, time: int | None, warnings: list[str]) -> int | None:
    if time is not None and not 0 <= time < times:
        raise UserError(f"{image.label} has no time point {time}; it has {times} (0 to {times - 1})")
    if "t" not in image.axes:
        return None
    if time is None and times > 1:
        warnings.append(f"the volume has {times} time points; the first is taken (choose with --time)")
    return time or 0


def _canonical(array: ts.TensorStore, axes: str, channel: int, time: int) -> ts.TensorStore:
    """Axes (z, y, x), origin 0, with one channel and time; a missing z becomes an axis of length 1."""
    chosen = tuple({"c": channel, "t": time}.get(axis, slice(None)) for axis in axes)
    array = array[chosen]
    left = [axis for axis in axes if axis in "zyx"]
    if "z" not in left:
        array, left = array[ts.newaxis, ...], ["z", *left]
    array = array.transpose([left.index(axis) for axis in "zyx"])
    array = array[ts.d[:].mark_bounds_implicit[False]]
    return ts.cast(array, ts.uint8) if array.dtype == ts.bool else array


def _read_chunks(array: ts.TensorStore) -> Index3:
    known = array.chunk_layout.read_chunk.shape or (None, None, None)
    defaults = (64, 256, 256) if not any(known) else array.shape
    z, y, x = (max(min(int(k or d), int(n)), 1) for k, d, n in zip(known, defaults, array.shape, strict=True))
    return (z, y, x)


def _world(
    image: FileImage, voxel_size: str | None, warnings: list[str]
) -> tuple[list[Float3], list[Float3], str | None]:
    """Scale and translation of every level, and their unit."""
    unit = image.unit
    stated = [_usable(level.scale) for level in image.levels]
    first = stated[0]
    if first is None:
        unit = None
        if image.levels[0].scale is not None:
            warnings.append("the voxel size in the file is not positive: taken as unknown")
    base: Float3 = first or (1.0, 1.0, 1.0)
    given = None if voxel_size is None else parse_voxel_size(voxel_size)
    places = [level.translation for level in image.levels]
    if first is None:
        places = [_in_voxels(place, image.unit, given) for place in places]
    scales, translations, filled = [], [], False
    origin = places[0] or (0.0, 0.0, 0.0)
    for level, place, scale, factors in zip(image.levels, places, stated, _shape_factors(image), strict=True):
        if scale is None or first is None:
            scale = _times(base, factors)
        translation = place
        if translation is None or not all(map(math.isfinite, translation)):
            placed = level.translation is not None and all(map(math.isfinite, level.translation))
            factor = _over(scale, base)
            z, y, x = (o + (f - 1) / 2 * b for o, f, b in zip(origin, factor, base, strict=True))
            translation = (z, y, x)
            filled = filled or (max(factor) > 1 and not placed)
        scales.append(scale)
        translations.append(translation)
    if filled:
        warnings.append(
            "the coarser levels state no translation: taken as centred on the voxels that they cover"
        )

    if given is not None:
        if unit is not None and not np.allclose(convert_length(base, unit, given[1]), given[0], rtol=1e-3):
            warnings.append(
                f"the file states voxels of {sizes_text(base)} {unit_symbol(unit)}; {sizes_text(given[0])} "
                f"{unit_symbol(given[1])} are used, as given, and the place that it states is scaled alike"
            )
        new, unit = given
    elif unit is None:
        new = (1.0, 1.0, 1.0)  # relative to level 0
        warnings.append("the voxel size is unknown (give it with --voxel-size)")
    else:
        return scales, translations, unit
    stretch = _over(new, base)
    return [_times(s, stretch) for s in scales], [_times(t, stretch) for t in translations], unit


def _in_voxels(place: Float3 | None, unit: str | None, given: tuple[Float3, str] | None) -> Float3 | None:
    """A stated place in voxels, where the file has a unit but only the user knows the size; None where nobody does."""
    if unit is None:
        return place
    if place is None or given is None:
        return None
    size, its = given
    return _over(convert_length(place, unit, its), size)


def _usable(scale: Float3 | None) -> Float3 | None:
    return scale if scale is not None and all(math.isfinite(s) and s > 0 for s in scale) else None


def _shape_factors(image: FileImage) -> list[Float3]:
    """How much coarser each level is than the finest, by the shapes of one after another."""
    shapes = [level.array.shape for level in image.levels]
    found: list[Float3] = [(1.0, 1.0, 1.0)]
    for fine, coarse in pairwise(shapes):
        spatial = [image.axes.find(axis) for axis in "zyx"]
        z, y, x = (1.0 if i < 0 else float(coarser_by(fine[i], coarse[i])) for i in spatial)
        found.append(_times(found[-1], (z, y, x)))
    return found


def coarser_by(size: int, coarse: int) -> int:
    """Whole voxels in one of the next level: sizes that do not divide are cut or filled up, voxels are not stretched."""
    power = 1
    while size / power - coarse >= 1:
        power *= 2
    return power if abs(size / power - coarse) < 1 else max(round(size / coarse), 1)


def _times(a: Float3, b: Float3) -> Float3:
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])


def _over(a: Float3, b: Float3) -> Float3:
    return (a[0] / b[0], a[1] / b[1], a[2] / b[2])
