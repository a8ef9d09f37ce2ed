"""Reading Neuroglancer precomputed volumes, sharded or not, local or remote; lengths in nanometres."""

from __future__ import annotations

import json
import math
from typing import Any

import tensorstore as ts

from connectoscope.errors import UserError
from connectoscope.volumes.framing import FileImage, FileLevel
from connectoscope.volumes.geometry import Float3
from connectoscope.volumes.stores import Location, first_line, open_array

KEY = "info"
Json = dict[str, Any]


def read_precomputed(location: Location, name: str) -> FileImage:
    """The image or segmentation at ``location``.

    A voxel's place is the one of its index: ``voxel_offset * resolution`` is the centre of the finest voxel 0, and
    coarser levels cover the same space.

    Raises:
        UserError: there is none, or it is damaged.
    """
    node = location.read_json(KEY)
    if node is None:
        raise UserError(f"{location.text} is not a precomputed volume: it has no file {KEY}; check the name")
    info, stamp = node
    kind = info.get("@type", "neuroglancer_multiscale_volume")
    if kind != "neuroglancer_multiscale_volume":
        raise UserError(f"{location.text} holds {kind}, not a volume: give the address of its images")
    try:
        return _image(location, name, info, stamp)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        raise UserError(
            f"{location.text}: its info file is damaged ({type(error).__name__}: {first_line(error)}); restore it from "
            "the original"
        ) from error


def _image(location: Location, name: str, info: Json, stamp: str) -> FileImage:
    scales = info["scales"]
    if not scales:
        raise ValueError("no scales")
    finest = _zyx(scales[0]["resolution"])
    levels = []
    for index, scale in enumerate(scales):
        size = _zyx(scale["resolution"])
        offset = _zyx(scale.get("voxel_offset", (0, 0, 0)))
        z, y, x = ((o + 0.5) * s - 0.5 * f for o, s, f in zip(offset, size, finest, strict=True))
        array = open_array(location, "neuroglancer_precomputed", scale_index=index)[ts.d[:].translate_to[0]]
        levels.append(FileLevel(array, size, (z, y, x)))
    return FileImage(
        source=location.text,
        name=name,
        format=f"Neuroglancer precomputed {info.get('type', 'image')}",
        axes="xyzc",
        levels=tuple(levels),
        unit="nanometer",
        metadata=json.dumps(info, sort_keys=True),
        stamp=stamp,
    )


def _zyx(values: Any) -> Float3:
    x, y, z = (float(v) for v in values)
    if not all(map(math.isfinite, (x, y, z))):
        raise ValueError(f"numbers {values}")
    return (z, y, x)
