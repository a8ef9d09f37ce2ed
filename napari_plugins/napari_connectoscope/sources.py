"""A napari layer as the source of a task: its path where the pixels agree, else a copy of it ("spill").

:func:`snapshot` is taken on the interface thread and is all that the slow functions need, so that these run in
a thread.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Layer
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.volumes.geometry import (
    NANOMETRES,
    Box,
    Float3,
    Index3,
    canonical_unit,
    convert_length,
    parse_voxel_size,
)
from connectoscope.words import data_size
from napari_connectoscope.lazy import LazyArray

LAYER_PREFIX = "layer:"
"""A form's source that is a layer in memory: ``layer:NAME``."""

_SAMPLES = 3  # boxes along each axis that are compared
_SAMPLE_SIDE = 32
_CHUNKS = (64, 128, 128)


def layer_facts(layer: Layer) -> dict[str, Any]:
    """What we noted about a layer when we made it; empty for a stranger's."""
    facts = layer.metadata.get("connectoscope", {})
    return facts if isinstance(facts, dict) else {}


def source_of(layer: Layer) -> str | None:
    """The path or URL that a layer was opened from by us; None where that is not known for sure.

    What is made of a layer has its note, too (a projection, a crop), and its pixels can be replaced.
    """
    array = finest(layer)
    shows_file = isinstance(array, LazyArray) and array.is_whole
    return layer_facts(layer).get("source") or None if shows_file else None


def file_facts(layer: Layer) -> dict[str, Any]:
    """What we noted about the file that a layer shows; empty where it shows none."""
    return layer_facts(layer) if source_of(layer) is not None else {}


def is_source(layer: Layer) -> bool:
    """Whether tasks may be asked of it: not our own results, but for EM that was made from X-ray, and copies of images."""
    facts = layer_facts(layer)
    return not facts.get("result") or facts.get("part") in ("em", "image")


def finest(layer: Layer) -> Any:
    """Level 0 of the layer's data."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def length_unit(layer: Layer) -> str | None:
    """The canonical unit of the last three axes, where they differ that of x; None where one is no length."""
    units = [canonical_unit(str(unit)) for unit in layer.units[-3:]]
    return units[-1] if all(units) else None


def unit_in_world(name: str, options: Mapping[str, Any]) -> str:
    """The unit of :func:`place_in_world`: a canonical length, or the one that all axes have (``pixel``).

    Raises:
        UserError: the axes have several, and not all are lengths.
    """
    units = [canonical_unit(str(u)) or str(u) for u in (options.get("units") or ["pixel"])[-3:]]
    if len(set(units)) > 1 and not all(unit in NANOMETRES for unit in units):
        raise UserError(f"layer '{name}' has several units ({', '.join(sorted(set(units)))}): give it one")
    return units[-1]


def unit_factors(units: Sequence[Any]) -> NDArray[Any]:
    """From the units of the last three axes to that of x: 1 where they are the same, or not all are lengths."""
    names = [canonical_unit(str(unit)) or "" for unit in units[-3:]]
    if not all(names):
        return np.ones(3)
    return np.array(last3([NANOMETRES[name] / NANOMETRES[names[-1]] for name in names], 1.0))


def last3(values: Any, missing: float) -> tuple[float, float, float]:
    numbers = [float(v) for v in values][-3:]
    z, y, x = [missing] * (3 - len(numbers)) + numbers
    return (z, y, x)


def place_in_world(name: str, options: Mapping[str, Any]) -> tuple[Float3, Float3]:
    """Voxel size and position of voxel 0 (z, y, x) of a layer with these options of napari's: ``scale``, ``translate``, ….

    Lengths in several units are given in that of x.

    Raises:
        UserError: it is turned or sheared, or mirrored, which volumes are not.
    """
    scale, translate = last3(options.get("scale", ()), 1.0), last3(options.get("translate", ()), 0.0)
    affine = np.atleast_2d(np.asarray(options.get("affine", np.eye(4)), float))
    linear, shift = affine[:-1, :-1], affine[:-1, -1]
    turn = np.atleast_2d(np.asarray(options.get("rotate", np.eye(3)), float))
    shear = np.asarray(options.get("shear", ()), float)
    shear = shear - np.eye(len(shear)) if shear.ndim == 2 else shear
    factors = np.diag(linear)
    upright = np.allclose(turn, np.eye(len(turn))) and np.allclose(shear, 0)
    mirrored = min(*scale, *factors) <= 0
    if not upright or mirrored or not np.allclose(linear, np.diag(factors)):
        raise UserError(
            f"layer '{name}' is turned, sheared or mirrored; tasks and files know voxel size and place alone: resample it first"
        )
    factor, more = last3(factors, 1.0), last3(shift, 0.0)
    units = unit_factors(options.get("units") or ())
    z, y, x = (float(s * f * u) for s, f, u in zip(scale, factor, units, strict=True))
    dz, dy, dx = (float((t * f + m) * u) for t, f, m, u in zip(translate, factor, more, units, strict=True))
    return (z, y, x), (dz, dy, dx)


def check_unmoved(layer: Layer) -> None:
    """Raises UserError where a layer of a file was moved since: tasks read the file, and their results lie where it does."""
    facts = file_facts(layer)
    place, unit = facts.get("place"), facts.get("unit")
    if place is None or unit is None:
        return
    try:
        here = place_in_world(layer.name, layer.as_layer_data_tuple()[1])
    except UserError:
        here = None
    size = NANOMETRES[unit] / NANOMETRES[length_unit(layer) or unit]  # of the file's unit, in the layer's
    scale, origin = (np.array(values) * size for values in place)
    if here is None or not (
        np.allclose(here[0], scale, atol=0) and (np.abs(here[1] - origin) <= 1e-3 * scale).all()
    ):
        raise UserError(
            f"layer '{layer.name}' was moved, resized or turned since its file was opened, and tasks read the file:"
            " reset its transform, or open the file again"
        )


def visible_box(viewer: ViewerModel, layer: Layer, *, depth: int | None = None) -> Box:
    """What of ``layer`` is in view, in voxels of its level 0 (z, y, x), clipped to it; its size can be 0.

    Axes that are not displayed are taken whole, or ``depth`` voxels around the current position. In 3D:
    everything.
    """
    shape = [1] * (3 - layer.ndim) + [int(n) for n in finest(layer).shape[-3:]]
    if viewer.dims.ndisplay == 3:
        return Box.of(tuple(shape))
    first, last = _view_in_voxels(viewer, layer)
    start, stop = [0, 0, 0], list(shape)
    for axis in range(max(0, 3 - layer.ndim), 3):
        if viewer.dims.ndim - 3 + axis in viewer.dims.displayed:
            low, high = math.floor(first[axis - 3] + 0.5), math.ceil(last[axis - 3] + 0.5)
        elif depth is not None:
            low = round((first[axis - 3] + last[axis - 3]) / 2) - depth // 2
            low = max(0, min(low, shape[axis] - depth))  # near the ends: the same depth, moved inwards
            high = low + depth
        else:
            continue
        start[axis] = min(max(low, 0), shape[axis])
        stop[axis] = max(start[axis], min(high, shape[axis]))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _view_in_voxels(viewer: ViewerModel, layer: Layer) -> tuple[NDArray[Any], NDArray[Any]]:
    """The canvas (2D) in indices of a layer's level 0: least and largest, however the layer was moved or turned."""
    dims, camera = viewer.dims, viewer.scene.camera
    centre, half = np.array(dims.point, float), np.zeros(dims.ndim)
    centre[list(dims.displayed)] = camera.center[-2:]
    half[list(dims.displayed)] = np.array(viewer.canvas.size) / camera.zoom / 2
    sides = itertools.product(*((c - h, c + h) if h else (c,) for c, h in zip(centre, half, strict=True)))
    ratios = viewer_to_layer(viewer, layer)
    corners = np.array([layer.world_to_data(np.array(corner[-layer.ndim :]) * ratios) for corner in sides])
    return corners.min(axis=0), corners.max(axis=0)


def in_view(viewer: ViewerModel, layer: Layer) -> bool:
    """Whether anything of ``layer`` (3D) is shown: in 2D, its section and its pixels are within what is displayed."""
    if visible_box(viewer, layer).size == 0:
        return False
    if viewer.dims.ndisplay == 3:
        return True
    first, last = _view_in_voxels(viewer, layer)
    middle, shape = (first + last) / 2, finest(layer).shape
    hidden = [axis for axis in (-3, -2, -1) if viewer.dims.ndim + axis not in viewer.dims.displayed]
    return all(-1 <= middle[axis] <= shape[axis] for axis in hidden)


def look_at(viewer: ViewerModel, position: NDArray[Any]) -> None:
    """Move to a place of the world (z, y, x in the viewer's units), keeping the zoom; leading axes (t, c) stay."""
    dims = viewer.dims
    at = np.array(dims.point, float)
    at[-3:] = position[-dims.ndim :]
    dims.set_point(range(dims.ndim), at)
    shown = at[list(dims.displayed)]  # the camera's axes are those of the canvas: a view may be rolled
    viewer.scene.camera.center = (0.0, *shown) if dims.ndisplay == 2 else tuple(shown)


def fly_to_place(viewer: ViewerModel, centre: NDArray[Any], size: NDArray[Any], fills: float) -> None:
    """Show a place of the world.

    Args:
        centre, size: z, y, x in the viewer's units.
        fills: Share of the canvas that it takes.
    """
    look_at(viewer, centre)
    spans = np.zeros(viewer.dims.ndim)
    spans[-3:] = size[-viewer.dims.ndim :]
    shown = np.maximum(spans[list(viewer.dims.displayed)], 1e-9)
    viewer.scene.camera.zoom = fills * min(n / s for n, s in zip(viewer.canvas.size, shown, strict=True))


def check_inside(box: Box, name: str, shape: Index3) -> None:
    """Raises UserError when a box is not inside the layer of that name and shape."""
    if not Box.of(shape).contains(box):
        raise UserError(f"box {box} is not inside layer '{name}', which is {Box.of(shape)}")


def check_held(layer: Layer, values: Mapping[str, Any]) -> None:
    """Raises UserError for a level, channel or time point that the layer's file does not have."""
    facts, name = file_facts(layer), f"'{layer.name}'"
    level, channel, time = (values.get(key) for key in ("level", "channel", "time"))
    if facts.get("channels") is None:  # not our own, or opened as something else
        return
    levels, channels, times = len(layer.data) if layer.multiscale else 1, facts["channels"], facts["times"]
    if isinstance(level, int) and level >= levels:
        raise UserError(f"{name} has no level {level}; its levels are 0 to {levels - 1}")
    held = (None, *channels, *map(str, range(max(len(channels), 1))))
    if channel not in held:
        there = f"it has {', '.join(channels)}" if channels else "it has none: leave Channel empty"
        raise UserError(f"{name} has no channel '{channel}'; {there}")
    if isinstance(time, int) and time >= times:
        raise UserError(f"{name} has no time point {time}; it has {times} (0 to {times - 1})")


def viewer_to_layer(viewer: ViewerModel, layer: Layer) -> list[float]:
    """Factors from the viewer's world units to the layer's own."""
    units = viewer.layers.units
    if units is None:
        return [1.0] * layer.ndim
    return [float((1 * u).to(v).magnitude) for u, v in zip(units[-layer.ndim :], layer.units, strict=True)]


@dataclass(frozen=True)
class LayerSnapshot:
    """A layer's image at one moment. ``array``: level 0, axes (..., z, y, x); ``leading`` fixes the others."""

    name: str
    array: Any
    leading: tuple[int, ...]
    path: str | None
    scale: Float3
    translation: Float3
    unit: str | None

    @property
    def shape(self) -> Index3:
        z, y, x = [1] * (3 - len(self.array.shape)) + [int(n) for n in self.array.shape[-3:]]
        return (z, y, x)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def read(self, box: Box) -> np.ndarray[Any, Any]:
        """(z, y, x)"""
        key = (*self.leading, *box.slices[3 - min(3, len(self.array.shape)) :])
        return np.asarray(self.array[key]).reshape(box.shape)

    def nbytes(self, box: Box | None = None) -> int:
        return (box.size if box else math.prod(self.shape)) * self.dtype.itemsize


def snapshot(viewer: ViewerModel, layer: Layer, voxel_size: str | None = None) -> LayerSnapshot:
    """What a task needs to know of a layer.

    Raises:
        UserError: the layer has no length unit (or is flat) and ``voxel_size`` is not given, it is turned, or it has
            nothing where the viewer stands.
    """
    array = finest(layer)
    unit = length_unit(layer) if layer.ndim >= 3 else None
    scale, translation = place_in_world(layer.name, layer.as_layer_data_tuple()[1])
    if voxel_size:
        (scale, unit), old_scale, old_unit = parse_voxel_size(voxel_size), scale, unit
        if old_unit is not None:
            translation = convert_length(translation, old_unit, unit)
        else:  # in voxels of the old scale: the only meaning that a length without unit has
            moved = [t / o * s for t, o, s in zip(translation, old_scale, scale, strict=True)]
            translation = (moved[0], moved[1], moved[2])
    if unit is None:
        raise UserError(
            f"layer '{layer.name}' does not state its voxel size: give it as z,y,x with unit,"
            " for example 40,4,4nm"
        )
    leading = _leading(viewer, layer)
    return LayerSnapshot(layer.name, array, leading, layer.source.path, scale, translation, unit)


def _leading(viewer: ViewerModel, layer: Layer) -> tuple[int, ...]:
    """Where a layer's axes before z, y, x (time, say) stand: its own indices, for its series may begin elsewhere.

    Raises:
        UserError: nothing of it is shown there.
    """
    count = max(layer.ndim - 3, 0)
    point = np.array(viewer.dims.point[-layer.ndim :]) * viewer_to_layer(viewer, layer)
    leading = tuple(int(i) for i in np.round(layer.world_to_data(point)[:count]))
    if not all(0 <= i < n for i, n in zip(leading, finest(layer).shape, strict=False)):
        raise UserError(f"'{layer.name}' has nothing at this time point: go to one that it has")
    return leading


def place_by(viewer: ViewerModel, layer: Layer, voxel_size: str) -> None:
    """Put a layer, and those of its file that lie with it, where a task will take it to be that is given ``voxel_size``.

    Results come in that size: they would lie beside an image that is still in pixels. What was in view stays in view.

    Raises:
        UserError: as :func:`snapshot`.
    """
    (scale, unit), facts = parse_voxel_size(voxel_size), file_facts(layer)
    if facts.get("place") is None:
        origin = snapshot(viewer, layer, voxel_size).translation
    else:  # as the file will be opened
        z, y, x = (t / o * s for t, o, s in zip(facts["place"][1], facts["place"][0], scale, strict=True))
        origin = (z, y, x)
    if _lies_at(layer, scale, origin, unit):
        return
    fellows = [other for other in viewer.layers if other is not layer and _lies_with(other, layer)]
    with _same_view(viewer, layer):
        for one in (layer, *fellows):
            _put(one, scale, origin, unit)
            if (said := file_facts(one)).get("place") is not None:
                said |= {"unit": unit, "place": (scale, origin), "voxel_size": voxel_size}
                said["warnings"] = [w for w in said.get("warnings", ()) if "--voxel-size" not in w]


def _put(layer: Layer, scale: Float3, origin: Float3, unit: str) -> None:
    """Leading axes (t, c) stay as they are."""
    n = min(layer.ndim, 3)
    layer.affine = np.eye(layer.ndim + 1)  # it is part of scale and origin
    layer.units = (*layer.units[:-n], *[unit] * n)
    layer.scale = (*layer.scale[:-n], *scale[-n:])
    layer.translate = (*layer.translate[:-n], *origin[-n:])


def _lies_at(layer: Layer, scale: Float3, origin: Float3, unit: str) -> bool:
    n = min(layer.ndim, 3)
    here = np.array(place_in_world(layer.name, layer.as_layer_data_tuple()[1]))
    return length_unit(layer) == unit and np.allclose(here[:, -n:], np.array((scale, origin))[:, -n:], atol=0)


def _lies_with(layer: Layer, other: Layer) -> bool:
    """Whether both are of one file (its channels, say) and at the same place."""
    one, two = (source_of(la) or la.source.path for la in (layer, other))
    if one is None or one != two or [*layer.units[-3:]] != [*other.units[-3:]]:
        return False
    try:
        here, there = (place_in_world(la.name, la.as_layer_data_tuple()[1]) for la in (layer, other))
    except UserError:
        return False
    return bool(np.allclose(here, there))


@contextlib.contextmanager
def _same_view(viewer: ViewerModel, layer: Layer) -> Iterator[None]:
    """Whatever happens to the layer's place, the same voxels are looked at."""
    dims, camera = viewer.dims, viewer.scene.camera
    across = max(dims.displayed[-1] - dims.ndim, -layer.ndim)  # the axis from left to right

    def pixel() -> float:
        return float(layer.scale[across]) / viewer_to_layer(viewer, layer)[across]

    before, at = pixel(), np.array(dims.point, float)
    at[list(dims.displayed)] = camera.center[-dims.ndisplay :]
    voxel = layer.world_to_data(at[-layer.ndim :] * viewer_to_layer(viewer, layer))
    yield
    at[-layer.ndim :] = np.array(layer.data_to_world(voxel)) / viewer_to_layer(viewer, layer)
    look_at(viewer, at[-3:])
    camera.zoom *= before / pixel()


def agreeing_source(image: LayerSnapshot) -> dict[str, str] | None:
    """Source, channel and voxel size of the file that the layer shows, else None. Slow: reads both."""
    from connectoscope.volumes import open_volume

    if not image.path or len(image.leading) > 1:
        return None
    size = ",".join(repr(n) for n in image.scale) + str(image.unit)
    try:
        volume = open_volume(image.path, voxel_size=size)
        channels = range(len(volume.channels)) if volume.channel is not None else (None,)
        for channel in channels:
            if channel is not None and channel != volume.channel:
                volume = open_volume(image.path, voxel_size=size, channel=channel)
            if _same_place(volume, image) and _same_pixels(volume, image):
                found = {"source": volume.source, "voxel_size": size}
                return found if channel is None else {**found, "channel": str(channel)}
    except UserError:  # napari reads more formats than we do: those are copied
        return None
    return None


def _same_place(volume: Any, image: LayerSnapshot) -> bool:
    if volume.times > 1 or volume.shape != image.shape or volume.dtype != image.dtype or image.unit is None:
        return False
    ours = convert_length(volume.levels[0].translation, volume.unit, image.unit)
    return all(abs(a - b) <= 1e-3 * s for a, b, s in zip(ours, image.translation, image.scale, strict=True))


def _same_pixels(volume: Any, image: LayerSnapshot, offset: Index3 = (0, 0, 0)) -> bool:
    """Equal in small boxes spread evenly over the volume, whose voxel 0 is the image's voxel ``offset``."""
    starts = [
        sorted({round(i * (max(n - _SAMPLE_SIDE, 0)) / (_SAMPLES - 1)) for i in range(_SAMPLES)})
        for n in volume.shape
    ]
    whole = Box.of(volume.shape)
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                corner = Box((z, y, x), (z + _SAMPLE_SIDE, y + _SAMPLE_SIDE, x + _SAMPLE_SIDE))
                box = corner.intersection(whole)
                if not np.array_equal(volume.read(box), image.read(box.shifted(offset))):
                    return False
    return True


def copy_image(
    image: LayerSnapshot,
    path: Path,
    *,
    box: Box | None = None,
    labels: bool = False,
    pyramid: bool = True,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Copy a layer, or a box of it, to an OME-Zarr at ``path``, with its voxel size and place. Slow.

    Args:
        labels: The pyramid keeps the most frequent value instead of the mean.
        progress: Told the pieces done and their total; may raise to stop.

    Raises:
        UserError: not enough room, a box outside, pixels that are no numbers, or a place that is taken.
    """
    from connectoscope.volumes import ImageSpec, create_image, pyramid_factors, set_attributes
    from connectoscope.volumes.conversion import fill_pyramid

    box = box or Box.of(image.shape)
    check_inside(box, image.name, image.shape)
    if image.dtype.kind not in "uifb":
        raise UserError(f"layer '{image.name}' holds {image.dtype}: convert it to integers or floats first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise UserError(f"cannot write in {path.parent} ({error.strerror}): choose another place") from None
    if image.nbytes(box) > free:
        raise UserError(
            f"layer '{image.name}' needs {data_size(image.nbytes(box))} of disk and {data_size(free)} are free"
            f" in {path.parent}: choose a box or another destination"
        )
    z, y, x = (t + s * a for t, s, a in zip(image.translation, image.scale, box.start, strict=True))
    dtype = np.dtype(np.uint8) if image.dtype.kind == "b" else image.dtype
    spec = ImageSpec(
        shape=box.shape,
        dtype=dtype,
        scale=image.scale,
        translation=(z, y, x),
        unit=image.unit,
        chunks=_CHUNKS,
        factors=pyramid_factors(box.shape, image.scale) if pyramid else ((1, 1, 1),),
        name=image.name,
        is_labels=labels,
        attributes={"connectoscope": {"finished": False}},
    )
    stores = create_image(path, spec, overwrite=overwrite)
    fill_pyramid(
        path,
        stores,
        spec,
        lambda lead, part: image.read(part.shifted(box.start)).astype(dtype, copy=False),
        source_chunks=_CHUNKS,
        progress=progress,
    )
    set_attributes(path, finished=True)


def spill(
    image: LayerSnapshot, box: Box | None, path: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Copy a layer into a job folder; a copy of the same pixels that is there already is kept. Slow.

    Raises:
        UserError: as :func:`copy_image`.
    """
    from connectoscope.volumes import open_volume, read_attributes

    if path.exists() and read_attributes(path).get("finished"):
        there, part = open_volume(path), box or Box.of(image.shape)
        if there.shape == part.shape and _same_pixels(there, image, part.start):
            return
    copy_image(image, path, box=box, pyramid=False, overwrite=True, progress=progress)
