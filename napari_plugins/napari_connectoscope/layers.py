"""Volumes and results as napari layers that know their place, unit, colours and source.

Every layer we make notes in ``metadata["connectoscope"]`` what reopens it (``source``, ``channel``, ``time``,
``voxel_size``), its ``unit``, and for results ``result`` (the folder it lies in) and ``channel_name``.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points
from napari.utils import Colormap
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer

from connectoscope.errors import UserError
from connectoscope.volumes import Volume, open_volume, read_attributes
from connectoscope.volumes.geometry import Box
from napari_connectoscope.lazy import LivePyramid
from napari_connectoscope.sources import finest, layer_facts, visible_box
from napari_connectoscope.threads import background

LayerData = tuple[Any, dict[str, Any], str]

COLOURS = {
    "synapses": "#ff4fd8",
    "mitochondria": "#3ddc84",
    "boundary": "#ffb02e",
    "membranes": "#ffb02e",
    "neurons": "#5aa9ff",
}
_OTHER_COLOURS = ("#5aa9ff", "#ff6b5a", "#b48cff", "#2ee6e6", "#e6e62e")
TITLES = {"boundary": "Membranes"}

REFRESH_SECONDS = 0.5
_SAMPLED_VOXELS = 1 << 22
_shown: WeakKeyDictionary[Layer, tuple[ref[ViewerModel], LivePyramid]] = WeakKeyDictionary()
_refreshed: WeakKeyDictionary[Layer, float] = WeakKeyDictionary()


def colour_of(name: str, number: int = 0) -> str:
    """The colour of an output or target, the same everywhere."""
    return COLOURS.get(name, _OTHER_COLOURS[number % len(_OTHER_COLOURS)])


def title_of(name: str) -> str:
    """An output's or target's name for people."""
    return TITLES.get(name, name.replace("_", " ").capitalize())


def probability_colormap(name: str, number: int = 0) -> Colormap:
    """Black to the output's colour, for additive layers of uint8 probabilities."""
    return Colormap(["black", colour_of(name, number)], name=f"connectoscope {name}")


def contrast_of(volume: Volume) -> tuple[float, float]:
    """Contrast limits: percentiles 0.5 and 99.5 of a sample of the finest level. Slow: for a thread.

    A coarser level is an average: its extremes are nearer together, and full resolution would look burnt out.
    """
    whole = Box.of(volume.shape)
    boxes = [whole] if whole.size <= _SAMPLED_VOXELS else _spread(whole.shape)
    sample = np.concatenate([volume.read(box).ravel() for box in boxes])
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return (0.0, 1.0)
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5)))
    return (low, high) if high > low else (low, low + 1)


def _spread(shape: tuple[int, int, int]) -> list[Box]:
    """The centre of a level and the centres of its eight octants, 64 voxels a side or less."""
    centres = [
        (0.5, 0.5, 0.5),
        *((z, y, x) for z in (0.25, 0.75) for y in (0.25, 0.75) for x in (0.25, 0.75)),
    ]
    boxes = []
    for centre in centres:
        start = [max(0, round(n * c) - 32) for n, c in zip(shape, centre, strict=True)]
        stop = [min(n, a + 64) for n, a in zip(shape, start, strict=True)]
        boxes.append(Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))
    return boxes


def _place(volume: Volume) -> dict[str, Any]:
    """Scale, translation and units of a layer on this volume."""
    finest = volume.levels[0]
    return {
        "scale": finest.scale,
        "translate": finest.translation,
        "units": (volume.unit or "pixel",) * 3,
        "axis_labels": ("z", "y", "x"),
    }


def _facts(volume: Volume, **more: Any) -> dict[str, Any]:
    """The note on a layer; ``voxel_size`` only where the file has none of its own and it was given."""
    return {
        "source": volume.source,
        "name": volume.name,
        "channel": str(volume.channel) if volume.channel is not None and len(volume.channels) > 1 else None,
        "time": volume.time if volume.times > 1 else None,
        "unit": volume.unit,
        "warnings": list(volume.warnings),
        **more,
    }


def _data(volume: Volume, *, live: bool = False) -> tuple[Any, LivePyramid]:
    """What the layer shows (a list of levels where there are several) and the pyramid behind it."""
    pyramid = LivePyramid([level.array for level in volume.levels], live=live)
    arrays = pyramid.arrays()
    return (arrays if len(arrays) > 1 else arrays[0]), pyramid


def volume_layers(
    volume: Volume,
    *,
    contrast: tuple[float, float] | None = None,
    labels: bool = False,
    voxel_size: str | None = None,
) -> list[LayerData]:
    """A volume as layer data for napari: lazy, multiscale, at its place in the world.

    Args:
        contrast: Contrast limits; without them a sample is read (:func:`contrast_of`).
        labels: The voxels are object numbers.
        voxel_size: What the volume was opened with, so that it can be opened again.
    """
    data, _ = _data(volume)
    name = volume.name
    facts = _facts(volume, voxel_size=voxel_size)
    if facts["channel"] is not None:
        name += f" · {volume.channels[volume.channel or 0]}"
    common = {
        "name": name,
        "metadata": {"connectoscope": facts},
        "multiscale": isinstance(data, list),
        **_place(volume),
    }
    if labels and volume.dtype.kind in "ui":
        return [(data, {**common, "opacity": 0.6}, "labels")]
    limits = contrast if contrast is not None else contrast_of(volume)
    return [(data, {**common, "contrast_limits": limits, "colormap": "gray", "rgb": False}, "image")]


def make_layer(data: LayerData) -> Layer:
    """A layer from layer data."""
    kinds = {"image": Image, "labels": Labels, "points": Points}
    return kinds[data[2]](data[0], **data[1])


def add_volume(
    viewer: ViewerModel,
    volume: Volume,
    *,
    contrast: tuple[float, float] | None = None,
    labels: bool = False,
    voxel_size: str | None = None,
) -> Layer:
    """Show a volume; see :func:`volume_layers`. Reads unless ``contrast`` is given: :func:`open_in_background`."""
    layer = make_layer(volume_layers(volume, contrast=contrast, labels=labels, voxel_size=voxel_size)[0])
    _add_source(viewer, layer)
    return layer


def _add_source(viewer: ViewerModel, layer: Layer) -> None:
    """Add a volume's layer; the first one is shown at its middle section."""
    first = not viewer.layers
    viewer.add_layer(layer)
    if not first:
        return
    middle = layer.data_to_world([n // 2 for n in finest(layer).shape])
    for axis in viewer.dims.not_displayed:
        viewer.dims.set_point(axis, middle[axis])


def open_in_background(
    viewer: ViewerModel,
    source: Any,
    *,
    owner: QObject | None = None,
    opened: Callable[[Layer, Volume], None] | None = None,
    failed: Callable[[str], None],
    **choices: Any,
) -> None:
    """Open a volume and read its statistics in a thread, then add its layer.

    Args:
        owner: Nothing is added once it is gone.
        opened: Called with the layer and its volume.
        failed: Called with one line for the user.
        choices: ``channel``, ``time``, ``voxel_size`` of ``open_volume``.
    """

    def read() -> tuple[Volume, Layer]:
        volume = open_volume(source, **choices)
        (data,) = volume_layers(volume, labels=is_labels(volume.source), voxel_size=choices.get("voxel_size"))
        return volume, make_layer(data)

    def add(answer: tuple[Volume, Layer]) -> None:
        volume, layer = answer
        _add_source(viewer, layer)
        if opened is not None:
            opened(layer, volume)
        background(None, _warm_up, lambda _: None)

    background(owner, read, add, failed)


@functools.cache
def _warm_up() -> None:
    """In a thread: the imports (pandas, scikit-image) that napari's first Labels layer costs, a second or so."""
    Labels(np.zeros((1, 1, 1), dtype=np.uint8))


def is_labels(source: str) -> bool:
    """Whether a local OME-Zarr says of itself that it holds labels (``image-label`` in its metadata)."""
    for name in ("zarr.json", ".zattrs"):
        try:
            attributes = json.loads((Path(source) / name).read_text())
        except (OSError, ValueError):
            continue
        attributes = attributes.get("attributes", attributes)
        return "image-label" in attributes or "image-label" in attributes.get("ome", {})
    return False


# -- results -------------------------------------------------------------------------------------------
def add_result(
    viewer: ViewerModel, event: Mapping[str, Any], *, targets: Sequence[str] | None = None
) -> list[Layer]:
    """The layers of a ``result`` event; the same ones when it comes again, nothing for tables and plots.

    Args:
        event: ``kind``, ``path``, ``name``; for images ``channels``.
        targets: Outputs of interest; the layers of others begin hidden. None: all are shown.
    """
    present = _present(viewer, event)
    return present or [_add(viewer, *one) for one in _prepare(event, targets)]


def add_result_in_background(
    viewer: ViewerModel,
    event: Mapping[str, Any],
    *,
    owner: QObject,
    targets: Sequence[str] | None = None,
    added: Callable[[list[Layer]], None] = lambda layers: None,
    failed: Callable[[str], None],
) -> None:
    """:func:`add_result` with all that takes long in a thread, and one layer at a time after it.

    Args:
        owner: Nothing is added once it is gone.
        added: Called with the layers.
        failed: Called with one line for the user.
    """
    layers: list[Layer] = []

    def add_next(waiting: list[tuple[Layer, LivePyramid | None]]) -> None:
        if not isalive(owner):
            return
        if not waiting:
            added(layers)
            return
        layers.append(_add(viewer, *waiting[0]))
        QTimer.singleShot(0, lambda: add_next(waiting[1:]))  # napari takes 0.1 s for each: events in between

    def prepared(found: list[tuple[Layer, LivePyramid | None]]) -> None:
        present = _present(viewer, event)  # it may have been told twice
        if present:
            added(present)
        else:
            add_next(found)

    background(owner, lambda: _prepare(event, targets), prepared, failed)


def _present(viewer: ViewerModel, event: Mapping[str, Any]) -> list[Layer]:
    """The layers of a result that are there already, up to date."""
    path = str(event["path"])
    present = [layer for layer in viewer.layers if layer_facts(layer).get("result") == path]
    for layer in present:
        if layer in _shown:
            _shown[layer][1].live = _is_live(path)
            refresh_result(layer)
    return present


def _prepare(
    event: Mapping[str, Any], targets: Sequence[str] | None
) -> list[tuple[Layer, LivePyramid | None]]:
    """Layers that no viewer has yet, and the pyramids behind them."""
    kind, path = event["kind"], str(event["path"])
    name = str(event.get("name") or Path(path).name)
    if kind == "image":
        data, pyramids = probability_layers(path, targets)
        return [(make_layer(one), pyramid) for one, pyramid in zip(data, pyramids, strict=True)]
    if kind == "labels":
        one, pyramid = label_layers(path, name)
        return [(make_layer(one), pyramid)]
    if kind == "points":
        return [(_points(path, name), None)]
    return []


def _add(viewer: ViewerModel, layer: Layer, pyramid: LivePyramid | None) -> Layer:
    if pyramid is not None:
        _shown[layer] = (ref(viewer), pyramid)
    active = viewer.layers.selection.active
    viewer.add_layer(layer)
    if active is not None:
        viewer.layers.selection.active = active  # the source stays chosen
    return layer


def _is_live(path: str) -> bool:
    """Whether the result says of itself that it is unfinished."""
    return read_attributes(path).get("finished") is False


def probability_layers(
    path: str, targets: Sequence[str] | None = None
) -> tuple[list[LayerData], list[LivePyramid]]:
    """Every output of an image result in its own colour, and the pyramids behind the layers."""
    first = open_volume(path)
    names = first.channels or (first.name,)
    live = _is_live(path)
    wanted = {"boundary" if target == "membranes" else target for target in targets or ()}
    layers: list[LayerData] = []
    pyramids = []
    for number, name in enumerate(names):
        volume = first if not first.channels or number == first.channel else open_volume(path, channel=number)
        data, pyramid = _data(volume, live=live)
        options = {
            "name": f"{title_of(name)} · probability",
            "multiscale": isinstance(data, list),
            "rgb": False,
            "contrast_limits": (0, 255) if volume.dtype == np.uint8 else contrast_of(volume),
            **(
                {"colormap": probability_colormap(name, number), "blending": "additive"}
                if first.channels
                else {"colormap": "gray"}  # an image as it is, from convert
            ),
            "visible": not wanted or name in wanted,
            "metadata": {"connectoscope": _facts(volume, result=path, channel_name=name)},
            **_place(volume),
        }
        layers.append((data, options, "image"))
        pyramids.append(pyramid)
    return layers, pyramids


def label_layers(path: str, name: str) -> tuple[LayerData, LivePyramid]:
    """A labels result, and the pyramid behind its layer."""
    volume = open_volume(path)
    data, pyramid = _data(volume, live=_is_live(path))
    options = {
        "name": title_of(name),
        "multiscale": isinstance(data, list),
        "opacity": 0.6,
        "metadata": {"connectoscope": _facts(volume, result=path, channel_name=name)},
        **_place(volume),
    }
    return (data, options, "labels"), pyramid


def _points(path: str, name: str) -> Points:
    from napari_connectoscope.table import read_table

    table = read_table(Path(path))
    if not {"z", "y", "x", "unit"} <= set(table.columns):
        raise UserError(f"{path} is no table of points: it needs the columns z, y, x and unit")
    columns = [table.columns.index(axis) for axis in ("z", "y", "x")]
    unit = str(table.rows[0][table.columns.index("unit")]) if table.rows else "nanometer"
    return Points(
        np.array([[row[c] for c in columns] for row in table.rows], dtype=float).reshape(-1, 3),
        name=name,
        units=(unit,) * 3,
        face_color="transparent",
        border_color=colour_of("neurons"),
        size=100.0,
        metadata={"connectoscope": {"result": path, "source": path, "unit": unit}},
    )


def refresh_result(layer: Layer, box: Box | None = None) -> None:
    """Show what is new in a growing result: at most twice a second, and only what is in view.

    Args:
        layer: From :func:`add_result`.
        box: What was written, in voxels of the result's level 0; None: unknown.
    """
    if not layer.visible or (box is not None and not _in_view(layer, box)):
        return
    now, last = time.monotonic(), _refreshed.get(layer, -1.0)
    if now < last:  # one is on its way
        return
    wait = last + REFRESH_SECONDS - now
    if wait <= 0:
        _refreshed[layer] = now
        layer.refresh(extent=False)
        return
    _refreshed[layer] = now + wait
    waiting = ref(layer)

    def later() -> None:
        if (there := waiting()) is not None:
            there.refresh(extent=False)

    QTimer.singleShot(round(wait * 1000), later)


def _in_view(layer: Layer, box: Box) -> bool:
    viewer = _shown[layer][0]() if layer in _shown else None
    return viewer is None or visible_box(viewer, layer, depth=1).intersection(box).size > 0


def finish_results(viewer: ViewerModel, destination: str) -> None:
    """A job has ended: its layers show what is stored, and once more everything."""
    for layer in viewer.layers:
        result = layer_facts(layer).get("result")
        if layer in _shown and result and Path(result).is_relative_to(destination):
            live = Path(result).exists() and _is_live(result)
            _shown[layer][1].live = live
            layer.refresh(extent=False)
