"""Volumes: opening any format, lazily; pyramids; writing OME-Zarr. No torch here.

Names are loaded on first use, so that ``connectoscope.volumes.geometry`` costs no heavy import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectoscope.volumes.marks import read_marks
    from connectoscope.volumes.ome_zarr_write import (
        ImageSpec,
        add_labels_group_entry,
        create_image,
        open_image_for_writing,
        read_attributes,
        set_attributes,
    )
    from connectoscope.volumes.opening import open_volume
    from connectoscope.volumes.pyramid import downsample, pyramid_factors
    from connectoscope.volumes.samples import sample_names
    from connectoscope.volumes.volume import Level, Volume

_HOMES = {
    "ImageSpec": "ome_zarr_write",
    "add_labels_group_entry": "ome_zarr_write",
    "create_image": "ome_zarr_write",
    "open_image_for_writing": "ome_zarr_write",
    "read_attributes": "ome_zarr_write",
    "read_marks": "marks",
    "set_attributes": "ome_zarr_write",
    "open_volume": "opening",
    "downsample": "pyramid",
    "pyramid_factors": "pyramid",
    "sample_names": "samples",
    "Level": "volume",
    "Volume": "volume",
}

__all__ = [
    "ImageSpec",
    "Level",
    "Volume",
    "add_labels_group_entry",
    "create_image",
    "downsample",
    "open_image_for_writing",
    "open_volume",
    "pyramid_factors",
    "read_attributes",
    "read_marks",
    "sample_names",
    "set_attributes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
