"""Volumes and results as napari layers that know their place, unit, colours and source.

Every layer we make notes in ``metadata["connectoscope"]`` what reopens it (``source``, ``channel``, ``time``,
``voxel_size``), its ``unit`` and ``place``, and for results ``result`` (the folder it lies in) and ``channel_name``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points
from napari.utils import Colormap
from qtpy.QtCore import QObject

from connectoscope.errors import SeveralVolumes, UserError
from connectoscope.segmentation.targets import shown
from connectoscope.volumes import Volume, open_volume
from connectoscope.volumes.corrupt import told_of_skipped
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.volumes.stores import Location, is_url
from napari_connectoscope.cascade_map import is_cascade_map, map_options
from napari_connectoscope.lazy import LivePyramid
from napari_connectoscope.sources import finest, fly_to_place, in_view, viewer_to_layer
from napari_connectoscope.threads import background

LayerData = tuple[Any, dict[str, Any], str]

COLOURS = {
    "synapses": "#ff4fd8",
    "mitochondria": "#3ddc84",
    "boundary": "#ffb02e",
    "membranes": "#ffb02e",
    "neurons": "#5aa9ff",
    "cells": "#ffe14d",
}
_OTHER_COLOURS = ("#5aa9ff", "#ff6b5a", "#b48cff", "#2ee6e6", "#e6e62e")

_FILLS = 0.9  # of the canvas, by a layer that is flown to
_SAMPLED_VOXELS = 1 << 22
_SAMPLED_BOX = (32, 128, 128)


def colour_of(name: str, number: int = 0) -> str:
    """The colour of an output or target, the same everywhere."""
    return COLOURS.get(name, _OTHER_COLOURS[number % len(_OTHER_COLOURS)])


def title_of(name: str) -> str:
    """An output's or target's name for people."""
    return shown(name).replace("_", " ").capitalize()


def probability_colormap(name: str, number: int = 0) -> Colormap:
    """Black to the output's colour, for additive layers of uint8 probabilities."""
    return Colormap(["black", colour_of(name, number)], name=f"connectoscope {name}")


def contrast_of(volume: Volume) -> tuple[float, float]:
    """Contrast limits: percentiles 0.5 and 99.5 of a sample of the finest level. Slow: for a thread.

    A coarser level is an average: its extremes are nearer together, and full resolution would look burnt out. Corrupt
    chunks that the volume skips are left out.
    """
    whole = Box.of(volume.shape)
    boxes = [whole] if whole.size <= _SAMPLED_VOXELS else _spread(whole.shape, volume.levels[0].chunks)
    with ThreadPoolExecutor(len(boxes)) as pool:  # of a slow server all at once
        sample = np.concatenate(list(pool.map(volume.read_sound, boxes)))
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return (0.0, 1.0)
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5)))
    return (low, high) if high > low else (low, low + 1)


def _spread(shape: Index3, chunks: Index3) -> list[Box]:
    """In the chunks at the centre of a level and at those of its eight octants, one part each."""
    centres = [
        (0.5, 0.5, 0.5),
        *((z, y, x) for z in (0.25, 0.75) for y in (0.25, 0.75) for x in (0.25, 0.75)),
    ]
    boxes = []
    for centre in centres:
        start, stop = [], []
        for n, chunk, side, c in zip(shape, chunks, _SAMPLED_BOX, centre, strict=True):
            at = min(round(n * c), n - 1)
            first = at // chunk * chunk
            start.append(max(first, at - side // 2))
            stop.append(min(first + chunk, at + side // 2, n))
        boxes.append(Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))
    return boxes


def place_of(volume: Volume) -> dict[str, Any]:
    """Scale, translation and units of a layer on this volume."""
    finest = volume.levels[0]
    return {
        "scale": finest.scale,
        "translate": finest.translation,
        "units": (volume.unit or "pixel",) * 3,
        "axis_labels": ("z", "y", "x"),
    }


def volume_facts(volume: Volume, **more: Any) -> dict[str, Any]:
    """The note on a layer; ``voxel_size`` only where the file has none of its own and it was given."""
    return {
        "source": volume.source,
        "name": volume.name,
        "channel": str(volume.channel) if volume.channel is not None and len(volume.channels) > 1 else None,
        "time": volume.time if volume.times > 1 else None,
        "channels": volume.channels,
        "times": volume.times,
        "unit": volume.unit,
        "place": (volume.levels[0].scale, volume.levels[0].translation),
        "warnings": list(volume.warnings),
        **more,
    }


def layer_data(volume: Volume, *, live: bool = False) -> tuple[Any, LivePyramid]:
    """What the layer shows (a list of levels where there are several) and the pyramid behind it."""
    pyramid = LivePyramid([level.array for level in volume.levels], live=live)
    arrays = pyramid.arrays()
    return (arrays if len(arrays) > 1 else arrays[0]), pyramid


def volume_layers(volume: Volume, *, labels: bool = False, voxel_size: str | None = None) -> list[LayerData]:
    """A volume as layer data for napari: lazy, multiscale, at its place in the world.

    A sample of an image is read for its contrast limits (:func:`contrast_of`).

    Args:
        labels: The voxels are object numbers.
        voxel_size: What the volume was opened with, so that it can be opened again.
    """
    data, _ = layer_data(volume)
    name = volume.name
    facts = volume_facts(volume, voxel_size=voxel_size)
    if facts["channel"] is not None:
        name += f" · {volume.channels[volume.channel or 0]}"
    if facts["time"] is not None:
        name += f" · time {volume.time}"
    common = {
        "name": name,
        "metadata": {"connectoscope": facts},
        "multiscale": isinstance(data, list),
        **place_of(volume),
    }
    if labels and volume.dtype.kind in "ui":
        colours = map_options() if is_cascade_map(volume.source) else {"opacity": 0.6}
        return [(data, {**common, **colours}, "labels")]
    sampled = volume.skipping_corrupt()
    contrast = contrast_of(sampled)
    if corrupt := sampled.skipped_in(Box.of(volume.shape)):
        facts["warnings"].append(told_of_skipped([str(chunk) for chunk in corrupt]))
    return [(data, {**common, "contrast_limits": contrast, "colormap": "gray", "rgb": False}, "image")]


def make_layer(data: LayerData) -> Layer:
    """A layer from layer data."""
    kinds = {"image": Image, "labels": Labels, "points": Points}
    return kinds[data[2]](data[0], **data[1])


def add_source(viewer: ViewerModel, layer: Layer) -> None:
    """Add a volume's layer; the first one, and one that lies elsewhere, is shown at its middle section."""
    first = not viewer.layers
    viewer.add_layer(layer)
    if first:
        middle = layer.data_to_world([n // 2 for n in finest(layer).shape])
        for axis in viewer.dims.not_displayed:
            viewer.dims.set_point(axis, middle[axis])
    elif layer.ndim >= 3 and not in_view(viewer, layer):
        low, high = layer.extent.world[:, -3:] / viewer_to_layer(viewer, layer)[-3:]
        fly_to_place(viewer, (low + high) / 2, high - low, _FILLS)


def open_in_background(
    viewer: ViewerModel,
    source: Any,
    *,
    owner: QObject | None = None,
    opened: Callable[[Layer, Volume], None] | None = None,
    failed: Callable[[str], None],
    several: Callable[[SeveralVolumes], None] | None = None,
    **choices: Any,
) -> None:
    """Open a volume and read its statistics in a thread, then add its layer.

    Args:
        owner: Nothing is added once it is gone.
        opened: Called with the layer and its volume.
        failed: Called with one line for the user.
        several: Called instead where one of several volumes must be chosen; None: that is a failure.
        choices: ``channel``, ``time``, ``voxel_size`` of ``open_volume``.
    """

    ask = several or (lambda error: failed(str(error)))

    def read() -> tuple[Volume, Layer] | SeveralVolumes:
        try:
            volume = open_volume(source, **choices)
        except SeveralVolumes as error:
            return error
        labels = volume.dtype == np.uint64 or is_labels(volume.source)  # no microscope counts that far
        ((data, options, kind),) = volume_layers(volume, labels=labels, voxel_size=choices.get("voxel_size"))
        volume = replace(volume, warnings=tuple(options["metadata"]["connectoscope"]["warnings"]))
        # Hidden until it stands at its section: napari would read the first one, and of a server that takes long.
        return volume, make_layer((data, {**options, "visible": False}, kind))

    def add(answer: tuple[Volume, Layer] | SeveralVolumes) -> None:
        if isinstance(answer, SeveralVolumes):
            ask(answer)
            return
        volume, layer = answer
        add_source(viewer, layer)
        layer.visible = True
        if opened is not None:
            opened(layer, volume)
        background(None, warm_up, lambda _: None)

    background(owner, read, add, failed)


@functools.cache
def warm_up() -> None:
    """In a thread: the imports (pandas, scikit-image) that napari's first Labels layer costs, a second or so, which would
    hold the interface up while a job runs.
    """
    Labels(np.zeros((1, 1, 1), dtype=np.uint8))


def is_labels(source: str) -> bool:
    """Whether an OME-Zarr or precomputed volume says of itself that it holds labels. Asks a server where it is remote."""
    for name in ("zarr.json", ".zattrs", "info"):
        attributes = _read_json(source, name)
        if attributes is None:
            continue
        if name == "info":
            return bool(attributes.get("type") == "segmentation")
        attributes = attributes.get("attributes", attributes)
        return "image-label" in attributes or "image-label" in attributes.get("ome", {})
    return False


def _read_json(source: str, name: str) -> dict[str, Any] | None:
    if is_url(source):
        try:
            answer = Location.of(source).read_json(name)
        except UserError:
            return None
        return None if answer is None else answer[0]
    try:
        attributes = json.loads((Path(source) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return attributes if isinstance(attributes, dict) else None
