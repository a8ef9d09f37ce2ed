"""Reading N5: a dataset, or a group of levels s0, s1, …; local or remote; axes in the file are x, y, z."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import tensorstore as ts

from connectoscope.errors import SeveralVolumes, UserError
from connectoscope.volumes.framing import FileImage, FileLevel, common_unit
from connectoscope.volumes.geometry import Float3, canonical_unit
from connectoscope.volumes.stores import Location, open_array

KEY = "attributes.json"
_MOST_LEVELS = 32

Json = dict[str, Any]


def read_n5(location: Location, name: str) -> FileImage:
    """The N5 dataset at ``location``, or the pyramid in a group.

    Raises:
        UserError: there is none, or it is damaged.
    """
    node = location.read_json(KEY)
    if node is None:
        raise UserError(f"{location.text} is not an N5 dataset: it has no {KEY}; check the name")
    group, stamp = node
    if "dimensions" in group:
        found = [(location, group)]
        group = {}
    else:
        found = []
        for level in range(_MOST_LEVELS):
            child = location.child(f"s{level}")
            inner = child.read_json(KEY)
            if inner is None or "dimensions" not in inner[0]:
                break
            found.append((child, inner[0]))
        if not found:
            raise _no_volume(location)
    try:
        return _image(location, name, group, found, stamp)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UserError(
            f"{location.text}: its N5 attributes are damaged ({type(error).__name__}: {error}); restore them from the "
            "original"
        ) from error


def _no_volume(location: Location) -> UserError:
    """What a group without a volume of its own holds, where that can be listed."""
    line = f"{location.text} is an N5 group without a volume (s0)"
    if location.remote:
        return UserError(f"{line}; name one, as NAME.n5::/raw")
    root = Path(location.text)
    names = sorted(p.parent.relative_to(root).as_posix() for p in root.glob(f"**/s0/{KEY}"))
    names = [n.removesuffix("/s0") for n in names] or sorted(
        p.parent.relative_to(root).as_posix() for p in root.glob(f"*/{KEY}")
    )
    if not names:
        return UserError(line)
    return SeveralVolumes(
        f"{line}; open one of: {', '.join(names[:12])}", ((f"{root}::/{n}", "") for n in names)
    )


_OWN = (
    "transform",
    "pixelResolution",
    "resolution",
    "downsamplingFactors",
)  # where a level has its voxel size from


def _image(
    location: Location, name: str, group: Json, found: list[tuple[Location, Json]], stamp: str
) -> FileImage:
    rank = len(found[0][1]["dimensions"])
    axes = _axes(found[0][1], group, rank, location.text)
    levels, unit = [], None
    for k, (place, attributes) in enumerate(found):
        array: ts.TensorStore = open_array(place, "n5")
        inherited = {
            key: value for key, value in group.items() if not k or key != "transform"
        }  # that of level 0
        facts = {**inherited, **attributes}
        told = k == 0 or any(key in attributes for key in _OWN)
        scales = group.get("scales")
        if not told and isinstance(scales, list) and len(scales) == len(found):
            facts["downsamplingFactors"], told = scales[k], True  # N5 viewer's other way to tell them
        scale, shift, unit_here = _space(facts, axes)
        if not k:
            unit = unit_here
        elif unit_here != unit or not told:
            scale = shift = None
        levels.append(FileLevel(array[ts.d[:].mark_bounds_implicit[False]], scale, shift))
    return FileImage(
        source=location.text,
        name=name,
        format="N5",
        axes=axes,
        levels=tuple(levels),
        unit=unit,
        channels=tuple(map(str, group.get("channels") or ())),
        metadata=json.dumps([group, *(a for _, a in found)], sort_keys=True),
        stamp=stamp,
    )


def _axes(attributes: Json, group: Json, rank: int, label: str) -> str:
    given = attributes.get("axes", group.get("axes"))
    if isinstance(given, list) and len(given) == rank:
        letters = "".join(str(a).lower()[:1] for a in given)
        if set(letters) <= set("tczyx") and len(set(letters)) == rank:
            return letters
    if rank not in (2, 3):
        raise UserError(
            f"{label} has {rank} axes and does not name them: convert it to OME-Zarr with named axes"
        )
    return "xyz"[:rank]  # the order of the format


def _space(attributes: Json, axes: str) -> tuple[Float3 | None, Float3 | None, str | None]:
    """Voxel size, translation (z, y, x) and unit: as ``transform`` (COSEM), else ``pixelResolution`` or ``resolution``
    (N5 viewer, Paintera), whose coarser levels have ``downsamplingFactors``."""
    transform = attributes.get("transform")
    if isinstance(transform, dict) and "scale" in transform:
        order = "".join(str(a).lower()[:1] for a in transform["axes"])
        units = [canonical_unit(str(u)) for u in transform["units"]]
        known = [units[order.index(a)] if a in order else None for a in "zyx"]
        scale, unit = common_unit(_ordered(transform["scale"], order, 1.0), known)
        shift, _ = common_unit(_ordered(transform.get("translate", [0.0] * len(order)), order, 0.0), known)
        return (scale, shift, unit) if unit else (None, None, None)
    resolution = attributes.get("pixelResolution", attributes.get("resolution"))
    unit = None
    if isinstance(resolution, dict):
        unit = canonical_unit(str(resolution.get("unit", "")))
        resolution = resolution["dimensions"]
    elif isinstance(attributes.get("units"), list):
        unit = canonical_unit(str(attributes["units"][axes.index("x")]))
    elif resolution is not None:
        unit = "nanometer"  # as Paintera takes it
    if not isinstance(resolution, list) or len(resolution) < 2 or unit is None:
        return None, None, None
    order = axes if len(resolution) == len(axes) else "xyz"[: len(resolution)]
    z, y, x = _ordered([float(v) for v in resolution], order, float(resolution[order.index("y")]))
    factors = attributes.get("downsamplingFactors") or [1.0] * len(axes)
    a, b, c = _ordered(factors, axes if len(factors) == len(axes) else "xyz", 1.0)
    offset = attributes.get("offset", attributes.get("translate")) or [0.0] * len(resolution)
    top, left, near = _ordered(offset, order, 0.0)
    # The offset is that of the finest level, whose voxels a coarser one covers.
    shift3 = (top + (a - 1) / 2 * z, left + (b - 1) / 2 * y, near + (c - 1) / 2 * x)
    return (z * a, y * b, x * c), shift3, unit


def _ordered(values: list[Any], order: str, missing: float) -> Float3:
    z, y, x = (float(values[order.index(a)]) if a in order else missing for a in "zyx")
    if not all(map(math.isfinite, (z, y, x))):
        raise ValueError(f"numbers {values}")
    return (z, y, x)
