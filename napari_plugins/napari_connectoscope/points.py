"""Points as napari layers: the CSV of ``detect`` (``id,z,y,x,unit,radius,score``, world coordinates), both ways."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Points
from napari.layers.points._points_constants import PointsProjectionMode
from numpy.typing import NDArray

from connectoscope.detection.points import HEADER
from connectoscope.errors import UserError
from connectoscope.paths import part_of
from connectoscope.volumes.geometry import NANOMETRES, canonical_unit
from napari_connectoscope.layers import LayerData, colour_of, title_of
from napari_connectoscope.sources import layer_facts, length_unit, place_in_world, unit_factors, unit_in_world
from napari_connectoscope.table import Table, read_table
from napari_connectoscope.writer import refuses_in_words

_PLACE = frozenset({"z", "y", "x", "unit"})
_SPREAD = 100  # points without a radius or a volume: this fraction of their spread


def is_points(path: str) -> bool:
    """Whether a CSV is one of ours: its header has a place, a unit and a radius."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return {*_PLACE, "radius"} <= set(header)


def points_layers(path: str, name: str | None = None) -> list[LayerData]:
    """The points of a CSV as layer data: in world coordinates and their own unit, as large as they are.

    Args:
        path: A CSV with the columns z, y, x and unit; all others but ``id`` become features of the points.
        name: Name of the layer; default: the file's.

    Raises:
        UserError: it cannot be read, or it is no table of points.
    """
    table = read_table(Path(path))
    column = {title: number for number, title in enumerate(table.columns)}
    if not set(column) >= _PLACE:
        raise UserError(f"{path} is not a table of points: it needs the columns z, y, x and unit")
    try:
        place = [[float(row[column[axis]]) for axis in "zyx"] for row in table.rows]
        radius = _radii(table, column)
        units = {str(row[column["unit"]]) for row in table.rows}
    except (ValueError, IndexError):
        raise UserError(
            f"{path} is not a table of points: a position, radius or volume in it is not a number"
        ) from None
    if len(units) > 1:
        raise UserError(f"{path} mixes units ({', '.join(sorted(units))}): convert all rows to one")
    unit = next(iter(units), "nanometer")
    data = np.array(place, dtype=float).reshape(-1, 3)
    if radius is None:
        radius = [float(np.ptp(data, axis=0).max()) / _SPREAD or 1.0] * len(data) if len(data) else []
    scale = float(np.median(radius)) if radius else 1.0  # a step of the slider, never finer than an image's
    scale = scale if scale > 0 else 1.0
    features = {
        title: [row[number] for row in table.rows]
        for title, number in column.items()
        if title not in _PLACE and title != "id"
    }
    if "radius" in features:
        features["radius"] = np.array(radius, dtype=float)
    size = 2 * np.array(radius, dtype=float) / scale
    stem = name or Path(path).stem
    options = {
        "name": title_of(stem),
        "ndim": 3,
        "units": (canonical_unit(unit) or unit,) * 3,
        "axis_labels": ("z", "y", "x"),
        "scale": (scale,) * 3,
        "size": size[0] if len(set(size)) == 1 else size,  # one size is that of new points, too
        "features": features,
        "feature_defaults": {title: _default(title, values) for title, values in features.items()},
        "face_color": "transparent",
        "border_color": colour_of("cells"),
        "border_width": 0.12,
        "opacity": 1.0,
        "canvas_size_limits": (7, 10_000),  # pixels: found again when zoomed out
        "projection_mode": PointsProjectionMode.RESCALE_SPHERICAL,
        "metadata": {"connectoscope": {"result": path, "source": path, "unit": canonical_unit(unit)}},
    }
    return [(data / scale, options, "points")]


def _default(title: str, values: Sequence[Any]) -> Any:
    """What a point has that is added by hand: of its radius tells its size alone."""
    if title == "score":
        return 1
    if any(isinstance(value, str) for value in values):
        return ""
    return 0 if all(isinstance(value, int) for value in values) and len(values) else math.nan


def _radii(table: Table, column: Mapping[str, int]) -> list[float] | None:
    """As stated, else of balls as large as the objects; None: neither is known."""
    if "radius" in column:
        return [float(row[column["radius"]]) for row in table.rows]
    if "volume_nm3" not in column:
        return None
    nanometres = [NANOMETRES.get(canonical_unit(str(row[column["unit"]])) or "", 1.0) for row in table.rows]
    volumes = [max(float(row[column["volume_nm3"]]), 0.0) for row in table.rows]
    return [(0.75 * v / math.pi) ** (1 / 3) / nm for v, nm in zip(volumes, nanometres, strict=True)]


def fit_to_viewer(viewer: ViewerModel, layer: Points) -> None:
    """Make points that are about to be added agree with the images under them, and seen as balls are: on every plane
    that cuts them.

    Three traps of napari: units are compared raw where one layer has none; the finest scale of all layers is the
    step of the slider; and points thicker than a plane need a margin of the slice, which images ignore.
    A point smaller than the step between two planes is enlarged to it, else it fell between.
    """
    images = [other for other in viewer.layers if isinstance(other, Image) and other.ndim >= 3]
    if images:
        unit = length_unit(images[0])
        here = length_unit(layer)
        if here is not None and unit is not None and here != unit:
            factor = NANOMETRES[here] / NANOMETRES[unit]
            layer.scale = layer.scale * factor
            layer.units = (unit,) * 3
            if "radius" in layer.features:
                defaults = layer.feature_defaults
                layer.features = layer.features.assign(radius=layer.features["radius"] * factor)
                layer.feature_defaults = defaults
        step = max(images[0].scale[-3:] * unit_factors(images[0].units))
        if step > layer.scale[0]:
            _rescale(layer, step)
        smallest = layer_facts(layer)["smallest"] = 1.02 * step
        layer.size = np.maximum(layer.size, smallest / layer.scale[0])
    if not len(layer.data):
        return
    layer.current_size = float(np.median(layer.size))
    thick = float(layer.size.max() * layer.scale[0] / 2)
    first = max(viewer.dims.ndim, 3) - 3
    for side in ("margin_left", "margin_right"):
        now = (*getattr(viewer.dims, side), 0.0, 0.0, 0.0)[: first + 3]
        setattr(viewer.dims, side, (*now[:first], *(max(m, thick) for m in now[first:])))


def _rescale(layer: Points, scale: float) -> None:
    """The same points in steps of ``scale``."""
    factor = float(layer.scale[0]) / scale
    size = layer.size * factor
    layer.data = layer.data * factor
    layer.size = size
    layer.scale = (scale,) * 3


@refuses_in_words
def write_points(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """npe2's entry for one points layer: a CSV as ``detect`` writes it, in raster order; the paths written.

    Radius and score come from the layer's features, else from the points' sizes and as 1. Points of ours that were
    resized or added by hand are as large as they are seen.

    Raises:
        UserError: the points are not in 3D, their layer is turned, a radius or score is not a number, or the file cannot
            be written.
    """
    name = str(attributes.get("name", "layer"))
    place = np.asarray(data, dtype=float)
    if place.ndim != 2 or place.shape[1] != 3:
        raise UserError(f"layer '{name}' does not hold points in z, y, x")
    unit = unit_in_world(name, attributes)
    scale, origin = place_in_world(name, attributes)
    place = place * scale + origin
    features = attributes.get("features", {})
    size = np.broadcast_to(np.asarray(attributes.get("size", 1.0), float), len(place)) * scale[-1]
    radius = _feature(name, features, "radius", size / 2)
    facts = attributes.get("metadata", {}).get("connectoscope", {})
    made = np.maximum(2 * radius, facts.get("smallest", 0.0))
    changed = ~np.isclose(size, made) if facts else np.isnan(radius)
    radius = np.where(changed, size / 2, radius)
    score = _feature(name, features, "score", np.ones(len(place)))
    order = np.lexsort(place.T[::-1])
    part = part_of(Path(path))
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            for number, i in enumerate(order, 1):
                numbers = (f"{value:.10g}" for value in (*place[i], radius[i], score[i]))
                z, y, x, r, s = numbers
                writer.writerow((number, z, y, x, unit, r, s))
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from None
    return [path]


def _feature(name: str, features: Any, title: str, missing: NDArray[Any]) -> NDArray[Any]:
    if title not in features:
        return missing
    try:
        return np.asarray(features[title], dtype=float)
    except (ValueError, TypeError):
        raise UserError(f"layer '{name}' has a {title} that is not a number: correct its features") from None
