"""Patches to be labelled as layers: one of frames, and one of labels for each patch that is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Vectors
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from connectoscope.adaptation.patches import Patch, PatchFile
from connectoscope.volumes.geometry import NANOMETRES, Float3, canonical_unit
from napari_connectoscope.layers import colour_of, title_of
from napari_connectoscope.sources import fly_to_place, layer_facts, source_of

WAITING, DONE, CHOSEN = "#ff9d2e", "#3ddc84", "#ffffff"  # frames of patches, told apart by all eyes
_FILLS = 0.7  # of the canvas, by the patch that is flown to
_LINE = 0.012  # of the patch's side: width of its frame


def frames_layer(file: PatchFile) -> Vectors:
    """The patches of a volume as frames: four lines for each plane of each.

    Lines, for napari 0.9 crashes in OpenGL where a Shapes layer was removed and another one is added.
    """
    side = max(file.patches[0].voxels.shape[1:])
    width = max(0.5, _LINE * side)
    lines, names = [], []
    for patch in file.patches:
        (z0, y0, x0), (z1, y1, x1) = patch.voxels.start, patch.voxels.stop
        y0, x0, y1, x1 = y0 - 0.5, x0 - 0.5, y1 - 0.5, x1 - 0.5  # outer faces
        high, wide = y1 - y0, x1 - x0 + width  # across the corners, too
        for z in range(z0, z1):
            lines += [[(z, y, x0 - width / 2), (0, 0, wide)] for y in (y0, y1)]
            lines += [[(z, y0, x), (0, high, 0)] for x in (x0, x1)]
        names += [patch.id] * 4 * (z1 - z0)
    layer = Vectors(
        np.array(lines, float),
        name="Patches",
        vector_style="line",
        edge_color=WAITING,
        edge_width=width,
        features={"patch": names},
        opacity=0.9,
        scale=_scale(file),
        translate=_origin(file),
        units=_units(file),
        axis_labels=("z", "y", "x"),
        metadata={"connectoscope": {"patches": True}},
    )
    return layer


def colour_frames(layer: Vectors, done: set[str], chosen: str) -> None:
    """Green what is done, white what is being labelled."""
    colours = {name: DONE if name in done else WAITING for name in layer.features["patch"]}
    colours[chosen] = CHOSEN
    layer.edge_color = [colours[name] for name in layer.features["patch"]]


def labels_layer(file: PatchFile, patch: Patch, output: str, labels: NDArray[Any]) -> Labels:
    """The labels of a patch where it lies; painted in the colour of the output, instances in colours of their own."""
    start = np.array(patch.voxels.start)
    options: dict[str, Any] = {}
    if not file.instances:
        colours = {None: colour_of(output), 0: "transparent", 1: colour_of(output)}
        options["colormap"] = DirectLabelColormap(color_dict=colours)
    layer = Labels(
        labels,
        name=f"{patch.id} · {title_of('cells' if file.instances else output).lower()}",
        opacity=0.45,
        scale=_scale(file),
        translate=np.array(_origin(file)) + start * _scale(file),
        units=_units(file),
        axis_labels=("z", "y", "x"),
        metadata={"connectoscope": {"patch": patch.id}},
        **options,
    )
    layer.brush_size = 5
    return layer


def shows_source(viewer: ViewerModel, file: PatchFile) -> bool:
    """Whether the volume of the patches is in the viewer; of a layer in memory nobody can tell."""
    images = [la for la in viewer.layers if isinstance(la, Image) and not layer_facts(la).get("result")]
    return any(source_of(layer) in (file.source.path, None) for layer in images)


def fly_to_patch(viewer: ViewerModel, file: PatchFile, patch: Patch) -> None:
    """The middle plane of a patch, which fills most of the canvas."""
    if viewer.dims.ndisplay == 3:
        viewer.dims.ndisplay = 2
    box, scale, origin = patch.voxels, np.array(_scale(file)), np.array(_origin(file))
    middle = np.array([(a + b) // 2 for a, b in zip(box.start, box.stop, strict=True)])
    centre = origin + scale * [middle[0], *(np.array(box.start[1:]) + box.stop[1:])[:2] / 2 - 0.5]
    factor = _to_viewer(viewer, file)
    fly_to_place(viewer, centre * factor, np.array(box.shape) * scale * factor, _FILLS)


def plane_of(layer: Layer, viewer: ViewerModel) -> int:
    """The plane of a labels layer that the viewer is at; may lie outside of it."""
    return round(float(layer.world_to_data(viewer.dims.point[-layer.ndim :])[0]))


def _to_viewer(viewer: ViewerModel, file: PatchFile) -> float:
    """Factor from the file's unit to the viewer's world."""
    units = viewer.layers.units
    here = canonical_unit(str(units[-1])) if units is not None else None
    there = canonical_unit(file.source.unit) if file.source.unit else None
    return NANOMETRES[there] / NANOMETRES[here] if here is not None and there is not None else 1.0


def _scale(file: PatchFile) -> Float3:
    return file.source.voxel_size or (1.0, 1.0, 1.0)


def _units(file: PatchFile) -> tuple[str, str, str]:
    return (file.source.unit or "pixel",) * 3


def _origin(file: PatchFile) -> Float3:
    """World position of the centre of voxel 0."""
    patch = file.patches[0]
    if patch.world is None:
        return (0.0, 0.0, 0.0)
    starts = zip(patch.world["start"], patch.voxels.start, _scale(file), strict=True)
    z, y, x = (face - (index - 0.5) * size for face, index, size in starts)
    return (z, y, x)
