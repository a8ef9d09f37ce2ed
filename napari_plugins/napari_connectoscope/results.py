"""Results of jobs as napari layers: they open while they grow, and their blocks appear as they are written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer, Points
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer

from connectoscope.segmentation.targets import output_of
from connectoscope.segmentation.trust import is_reconstruction
from connectoscope.volumes import open_volume, read_marks
from connectoscope.volumes.endings import short_name
from napari_connectoscope.cascade_map import is_cascade_map, map_options
from napari_connectoscope.layers import (
    LayerData,
    contrast_of,
    layer_data,
    make_layer,
    place_of,
    probability_colormap,
    title_of,
    volume_facts,
)
from napari_connectoscope.lazy import LivePyramid
from napari_connectoscope.points import fit_to_viewer, points_layers
from napari_connectoscope.sources import layer_facts
from napari_connectoscope.threads import background
from napari_connectoscope.trust import reconstruction_layers

Found = tuple[Layer, LivePyramid | None]

REFRESH_SECONDS = 0.5
_shown: WeakKeyDictionary[Layer, LivePyramid] = WeakKeyDictionary()
_refreshed: WeakKeyDictionary[Layer, float] = WeakKeyDictionary()


def add_result_in_background(
    viewer: ViewerModel,
    event: Mapping[str, Any],
    *,
    owner: QObject,
    targets: Sequence[str] | None = None,
    added: Callable[[list[Layer]], None] = lambda layers: None,
    failed: Callable[[str], None],
) -> None:
    """The layers of a ``result`` event; the same ones when it comes again, nothing for tables and plots.

    All that takes long is done in a thread; the layers are added one at a time after it.

    Args:
        event: ``kind``, ``path``, ``name``; for images ``channels``.
        targets: Outputs of interest; the layers of others begin hidden. None: all are shown.
        owner: Nothing is added once it is gone.
        added: Called with the layers.
        failed: Called with one line for the user.
    """
    layers: list[Layer] = []

    def add_next(waiting: list[Found], earlier: list[Layer]) -> None:
        if not isalive(owner):
            return
        if not waiting:
            _replace(viewer, earlier, layers)
            added(layers)
            return
        layers.append(_add(viewer, *waiting[0]))
        QTimer.singleShot(
            0, lambda: add_next(waiting[1:], earlier)
        )  # napari takes 0.1 s each: events in between

    def prepared(found: list[Found]) -> None:
        present, earlier = _present(viewer, event, found)  # it may have been told twice
        if present:
            added(present)
        else:
            add_next(found, earlier)

    background(owner, lambda: _prepare(event, targets), prepared, failed)


def _present(
    viewer: ViewerModel, event: Mapping[str, Any], found: Sequence[Found]
) -> tuple[list[Layer], list[Layer]]:
    """The layers of a result that are there already, up to date; and those of an earlier run that lay at its path."""
    if not found:
        return [], []
    path, run = str(event["path"]), layer_facts(found[0][0])["run"]
    there = [layer for layer in viewer.layers if layer_facts(layer).get("result") == path]
    present = [layer for layer in there if layer_facts(layer).get("run") == run]
    for layer in present:
        if layer in _shown:
            _shown[layer].live = _is_live(path)
            refresh_result(layer)
    earlier = [layer for layer in there if layer not in present]
    for layer in earlier:
        layer.name += " (replaced)"  # its name is the new one's
    return present, earlier


def _replace(viewer: ViewerModel, earlier: Sequence[Layer], layers: Sequence[Layer]) -> None:
    """Layers that were added take the place of an earlier run's, whose files have gone."""
    earlier = [layer for layer in earlier if layer in viewer.layers]
    layers = [layer for layer in layers if layer in viewer.layers]
    if not earlier or not layers:
        return
    was_active = viewer.layers.selection.active in earlier
    viewer.layers.move_multiple([viewer.layers.index(la) for la in layers], viewer.layers.index(earlier[0]))
    for layer in earlier:  # last: the window shows a reconstruction as long as there is a layer of one
        viewer.layers.remove(layer)
    if was_active:
        viewer.layers.selection.active = layers[0]


def _prepare(event: Mapping[str, Any], targets: Sequence[str] | None) -> list[Found]:
    """The layers of a result, which no viewer has yet, with a note of the run that made it."""
    found = _read(event, targets)
    run = _run_of(str(event["path"]), *found[0]) if found else None
    for layer, _ in found:
        layer_facts(layer)["run"] = run
    return found


def _run_of(path: str, layer: Layer, pyramid: LivePyramid | None) -> list[Any]:
    """What stays the same while a run writes, also when it is resumed, but not when another run replaces its result."""
    if pyramid is None:  # points, which are written at once
        return [Path(path).stat().st_mtime_ns]
    marks = read_marks(path)
    asked = [marks.get(name) for name in ("request", "model", "signature")]
    # A layer in memory is copied to the same place whatever its box: the request alone tells too little.
    levels = [(level.shape, level.chunk_layout.read_chunk.shape) for level in pyramid.levels]
    return [*asked, [*layer.scale], [*layer.translate], levels]


def _read(event: Mapping[str, Any], targets: Sequence[str] | None) -> list[Found]:
    kind, path = event["kind"], str(event["path"])
    name = str(event.get("name") or Path(path).name)
    if kind == "image":
        data, pyramids = probability_layers(path, targets)
        return [(make_layer(one), pyramid) for one, pyramid in zip(data, pyramids, strict=True)]
    if kind == "labels":
        one, pyramid = label_layers(path, name)
        return [(make_layer(one), pyramid)]
    if kind == "points":
        return [(make_layer(one), None) for one in points_layers(path, name)]
    return []


def _add(viewer: ViewerModel, layer: Layer, pyramid: LivePyramid | None) -> Layer:
    if pyramid is not None:
        _shown[layer] = pyramid
    active = viewer.layers.selection.active
    if isinstance(layer, Points):
        fit_to_viewer(viewer, layer)
    _tell_apart(viewer, layer)
    viewer.add_layer(layer)
    if is_cascade_map(str(layer_facts(layer).get("result", ""))):  # below what was found, above the images
        images = [i for i, other in enumerate(viewer.layers) if isinstance(other, Image)]
        viewer.layers.move(len(viewer.layers) - 1, max(images, default=-1) + 1)
    if active is not None:  # or what arrives by itself became the source of the form that is being filled in
        viewer.layers.selection.active = active
    return layer


def _tell_apart(viewer: ViewerModel, layer: Layer) -> None:
    """Name the result as well, where another one has a layer of this name."""
    result = Path(str(layer_facts(layer)["result"]))
    others = (la for la in viewer.layers if layer_facts(la).get("result") not in (None, str(result)))
    if any(la.name == layer.name for la in others):
        whole = next((p for p in (result, *result.parents) if p.suffix == ".zarr"), result)
        layer.name += f" · {short_name(str(whole)).removesuffix('.csv')}"


def _is_live(path: str) -> bool:
    """Whether the result says of itself that it is unfinished."""
    return read_marks(path).get("finished") is False


def probability_layers(
    path: str, targets: Sequence[str] | None = None
) -> tuple[list[LayerData], list[LivePyramid]]:
    """The outputs of an image result in their own colours, and the pyramids behind the layers.

    Args:
        targets: Those of interest; the others begin hidden, and affinities are left out.
    """
    if is_reconstruction(path):
        return reconstruction_layers(path)
    first = open_volume(path)
    names = first.channels or (first.name,)
    converted = not first.channels or (read_marks(path).get("signature") or {}).get("task") == "convert"
    part = "image" if converted else ""  # as it is
    live = _is_live(path)
    wanted = set(map(output_of, targets or ()))
    # What neurons are made of is not looked at, and each layer costs a tenth of a second.
    left_out = {n for n in names if n.startswith("affinity_")} - wanted if wanted else set()
    layers: list[LayerData] = []
    pyramids = []
    for number, name in enumerate(names):
        if name in left_out:
            continue
        volume = first if not first.channels or number == first.channel else open_volume(path, channel=number)
        data, pyramid = layer_data(volume, live=live)
        options = {
            "name": name if converted else f"{title_of(name)} · probability",
            "multiscale": isinstance(data, list),
            "rgb": False,
            "contrast_limits": (0, 255) if volume.dtype == np.uint8 else contrast_of(volume),
            **(
                {"colormap": probability_colormap(name, number), "blending": "additive"}
                if first.channels
                else {"colormap": "gray"}
            ),
            "visible": not wanted or name in wanted,
            "metadata": {"connectoscope": volume_facts(volume, result=path, channel_name=name, part=part)},
            **place_of(volume),
        }
        layers.append((data, options, "image"))
        pyramids.append(pyramid)
    return layers, pyramids


def label_layers(path: str, name: str) -> tuple[LayerData, LivePyramid]:
    """A labels result, and the pyramid behind its layer."""
    volume = open_volume(path)
    data, pyramid = layer_data(volume, live=_is_live(path))
    options = {
        "name": title_of(name),
        "multiscale": isinstance(data, list),
        "opacity": 0.6,
        "metadata": {"connectoscope": volume_facts(volume, result=path, channel_name=name)},
        **place_of(volume),
        **(map_options() if is_cascade_map(path) else {}),
    }
    return (data, options, "labels"), pyramid


def refresh_result(layer: Layer) -> None:
    """Show what is new in a growing result that :func:`add_result_in_background` has added: at most twice a second."""
    if not layer.visible:
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


def finish_results(viewer: ViewerModel, destination: str) -> None:
    """A job has ended: its layers show what is stored, and once more everything."""
    for layer in viewer.layers:
        result = layer_facts(layer).get("result")
        if layer in _shown and result and Path(result).is_relative_to(destination):
            live = Path(result).exists() and _is_live(result)
            _shown[layer].live = live
            layer.refresh(extent=False)
