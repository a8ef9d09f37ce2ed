"""Points as napari layers: the CSV of ``detect`` (``id,z,y,x,unit,radius,score``, world coordinates), both ways."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Points
from napari.layers.points._points_constants import PointsProjectionMode

from connectoscope.detection.points import HEADER
from connectoscope.errors import UserError
from connectoscope.volumes.geometry import NANOMETRES, canonical_unit
from napari_connectoscope.layers import LayerData, colour_of, title_of
from napari_connectoscope.sources import length_unit, place_in_world
from napari_connectoscope.table import Table, read_table

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
        raise UserError(f"{path} is no table of points: it needs the columns z, y, x and unit")
    try:
        place = [[float(row[column[axis]]) for axis in "zyx"] for row in table.rows]
        radius = _radii(table, column)
        units = {str(row[column["unit"]]) for row in table.rows}
    except (ValueError, IndexError):
        raise UserError(
            f"{path} is no table of points: a place, radius or volume in it is no number"
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
    stem = name or Path(path).stem
    options = {
        "name": title_of(stem),
        "ndim": 3,
        "units": (canonical_unit(unit) or unit,) * 3,
        "axis_labels": ("z", "y", "x"),
        "scale": (scale,) * 3,
        "size": 2 * np.array(radius, dtype=float) / scale,
        "features": features,
        "face_color": "transparent",
        "border_color": colour_of("cells"),
        "border_width": 0.12,
        "opacity": 1.0,
        "canvas_size_limits": (7, 10_000),  # pixels: found again when zoomed out
        "projection_mode": PointsProjectionMode.RESCALE_SPHERICAL,
        "metadata": {"connectoscope": {"result": path, "source": path, "unit": canonical_unit(unit)}},
    }
    return [(data / scale, options, "points")]


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
                layer.features = layer.features.assign(radius=layer.features["radius"] * factor)
        step = max(images[0].scale[-3:])
        if step > layer.scale[0]:
            _rescale(layer, step)
        layer.size = np.maximum(layer.size, 1.02 * step / layer.scale[0])
    if not len(layer.data):
        return
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


def write_points(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """npe2's entry for one points layer: a CSV as ``detect`` writes it, in raster order; the paths written.

    Radius and score come from the layer's features, else from the points' sizes and as 1.

    Raises:
        UserError: the points are not in 3D, their layer is turned, or the file cannot be written.
    """
    name = str(attributes.get("name", "layer"))
    place = np.asarray(data, dtype=float)
    if place.ndim != 2 or place.shape[1] != 3:
        raise UserError(f"layer '{name}' is not of points in z, y, x")
    units = {str(unit) for unit in attributes.get("units") or ["pixel"]}
    if len(units) > 1:
        raise UserError(f"layer '{name}' has several units ({', '.join(sorted(units))}): give it one")
    scale, origin = place_in_world(name, attributes)
    place = place * scale + origin
    features = attributes.get("features", {})
    size = np.broadcast_to(attributes.get("size", 1.0), len(place)) * scale[-1]
    radius = np.asarray(features["radius"] if "radius" in features else size / 2, dtype=float)
    score = np.asarray(features["score"] if "score" in features else np.ones(len(place)), dtype=float)
    unit = units.pop()
    order = np.lexsort(place.T[::-1])
    part = Path(f"{path}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            for number, i in enumerate(order, 1):
                numbers = (f"{value:.10g}" for value in (*place[i], radius[i], score[i]))
                z, y, x, r, s = numbers
                writer.writerow((number, z, y, x, canonical_unit(unit) or unit, r, s))
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from None
    return [path]
