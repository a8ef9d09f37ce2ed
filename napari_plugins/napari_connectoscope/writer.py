"""Saving image and labels layers as OME-Zarr: with a pyramid, their scale, place and units."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from connectoscope.errors import UserError
from connectoscope.volumes.geometry import canonical_unit
from napari_connectoscope.sources import LayerSnapshot, copy_image, place_in_world, unit_in_world
from napari_connectoscope.threads import one_line

Write = Callable[[str, Any, dict[str, Any]], list[str]]


def refuses_in_words(write: Write) -> Write:
    """Of a ValueError napari thinks that there is no writer, and says nothing: it becomes one line for the user."""

    @functools.wraps(write)
    def checked(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
        try:
            return write(path, data, attributes)
        except ValueError as error:
            raise UserError(
                f"layer '{attributes.get('name', 'layer')}' is not saved: {one_line(error)}"
            ) from error

    return checked


@refuses_in_words
def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """npe2's entry for one image layer; the paths written."""
    return _write(path, data, attributes, labels=False)


@refuses_in_words
def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """npe2's entry for one labels layer; the paths written."""
    return _write(path, data, attributes, labels=True)


def _write(path: str, data: Any, attributes: dict[str, Any], *, labels: bool) -> list[str]:
    array = data[0] if attributes.get("multiscale") else data
    name = str(attributes.get("name", "layer"))
    if attributes.get("rgb"):
        raise UserError(f"layer '{name}' is a colour picture: split it into channels, then save each")
    if not 2 <= len(array.shape) <= 3:
        raise UserError(f"layer '{name}' has {len(array.shape)} axes: save one with z, y, x or y, x")
    unit = unit_in_world(name, attributes)
    scale, translation = place_in_world(name, attributes)
    image = LayerSnapshot(
        name=name,
        array=array,
        leading=(),
        path=None,
        scale=scale,
        translation=translation,
        unit=canonical_unit(unit),
    )
    copy_image(image, Path(path), labels=labels)
    return [path]
