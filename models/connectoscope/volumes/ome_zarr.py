"""Reading OME-Zarr 0.1 to 0.5 (zarr 2 and 3, sharded or not), and plain zarr arrays, local or remote.

Metadata and chunks both go through TensorStore's key-value stores, so a URL needs nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from connectoscope.errors import SeveralVolumes, UserError
from connectoscope.volumes.framing import FileImage, FileLevel, common_unit
from connectoscope.volumes.geometry import canonical_unit
from connectoscope.volumes.marks import UNFINISHED
from connectoscope.volumes.stores import Location, open_array

Json = dict[str, Any]


def read_ome_zarr(location: Location, name: str) -> FileImage:
    """The image at ``location``: a group with OME metadata, or a single zarr array.

    Raises:
        UserError: there is none, or it is damaged.
    """
    node = location.read_json("zarr.json")
    if node is not None:
        metadata, stamp = node
        if metadata.get("node_type") == "array":
            return _plain_array(location, name, "zarr3", metadata, stamp)
        attributes = metadata.get("attributes")
        ome = attributes.get("ome") if isinstance(attributes, dict) else None
        return _group(location, name, "zarr3", attributes or {}, ome or {}, stamp)
    attributes_node = location.read_json(".zattrs")
    array_node = location.read_json(".zarray")
    if array_node is not None:
        return _plain_array(location, name, "zarr", array_node[0], array_node[1])
    if attributes_node is not None:
        return _group(location, name, "zarr", attributes_node[0], attributes_node[0], attributes_node[1])
    if location.read_json(".zgroup") is not None:
        return _group(location, name, "zarr", {}, {}, "")
    if location.remote:
        raise UserError(
            f"{location.text}: there is no zarr metadata, or it may not be read; give the address of an OME-Zarr, "
            "N5 or precomputed volume (other formats must be downloaded first)"
        )
    raise UserError(
        f"{location.text}: this folder holds no volume (no metadata of zarr, N5 or precomputed, no images); choose the "
        "OME-Zarr itself or a file in it"
    )


def _plain_array(location: Location, name: str, driver: str, metadata: Json, stamp: str) -> FileImage:
    array = open_array(location, driver)
    names = metadata.get("dimension_names")
    axes, warnings = _plain_axes(names, len(array.shape), location.text)
    return FileImage(
        source=location.text,
        name=name,
        format="Zarr 3 array" if driver == "zarr3" else "Zarr 2 array",
        axes=axes,
        levels=(FileLevel(array),),
        warnings=warnings,
        metadata=json.dumps(metadata, sort_keys=True),
        stamp=stamp,
    )


def _plain_axes(names: Any, rank: int, label: str) -> tuple[str, tuple[str, ...]]:
    if isinstance(names, list) and len(names) == rank and all(isinstance(n, str) for n in names):
        letters = "".join(_letter(n, None) or "?" for n in names)
        if "?" not in letters and len(set(letters)) == rank:
            return letters, ()
    return guessed_axes(rank, label)


def guessed_axes(rank: int, label: str) -> tuple[str, tuple[str, ...]]:
    """Axes of an array that names none: (z, y, x) or (y, x), said in a warning."""
    if rank not in (2, 3):
        raise UserError(
            f"{label} has {rank} axes and does not name them: convert it to OME-Zarr or OME-TIFF with named axes"
        )
    axes = "zyx"[-rank:]
    return axes, (f"{label} does not name its axes: taken as {', '.join(axes)}",)


def _group(location: Location, name: str, driver: str, attributes: Json, ome: Json, stamp: str) -> FileImage:
    if not isinstance(ome, dict) or not isinstance(attributes, dict):
        raise UserError(f"{location.text}: its OME metadata is damaged; restore it from the original")
    multiscales = ome.get("multiscales")
    if not multiscales:
        return _no_image(location, name, driver, ome)
    try:
        return _multiscale(location, name, driver, attributes, ome, stamp)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UserError(
            f"{location.text}: its OME metadata is damaged ({type(error).__name__}: {error}); restore it from the "
            "original"
        ) from error


def _no_image(location: Location, name: str, driver: str, ome: Json) -> FileImage:
    if ome.get("bioformats2raw.layout"):
        return read_ome_zarr(location.child("0"), name)
    if isinstance(ome.get("labels"), list) and ome["labels"]:
        names = ", ".join(map(str, ome["labels"]))
        raise SeveralVolumes(
            f"{location.text} holds several label volumes; open one of them: {names}",
            ((location.child(str(label)).text, "labels") for label in ome["labels"]),
        )
    if "plate" in ome or "well" in ome:
        raise UserError(f"{location.text} is a plate of many images; open one of the images in it")
    inside: list[str] = []
    if not location.remote:
        key = "zarr.json" if driver == "zarr3" else ".zarray"
        inside = sorted(p.parent.name for p in Path(location.text).glob(f"*/{key}"))
    line = f"{location.text} is a zarr group without an OME image"
    if not inside:
        raise UserError(line)
    raise SeveralVolumes(
        f"{line}; open one of: {', '.join(inside[:12])}", ((location.child(n).text, "array") for n in inside)
    )


def _multiscale(
    location: Location, name: str, driver: str, attributes: Json, ome: Json, stamp: str
) -> FileImage:
    multiscale: Json = ome["multiscales"][0]
    version = str(ome.get("version") or multiscale.get("version") or "0.4")
    warnings = []
    if len(ome["multiscales"]) > 1:
        warnings.append(f"the file holds {len(ome['multiscales'])} images; the first is taken")
    ours = attributes.get("connectoscope")
    if isinstance(ours, dict) and ours.get("finished") is False:
        warnings.append(UNFINISHED)

    datasets = multiscale["datasets"]
    arrays = [open_array(location.child(str(d["path"])), driver) for d in datasets]
    axes, units = _axes(multiscale.get("axes"), len(arrays[0].shape))
    outer = multiscale.get("coordinateTransformations") or []
    levels: list[FileLevel] = []
    spatial = [axes.find(a) for a in "zyx"]
    unit = None
    for array, dataset in zip(arrays, datasets, strict=True):
        inner = dataset.get("coordinateTransformations") or []
        scale, shift = _combined([*inner, *outer], len(axes))
        scale3, unit = common_unit(_pick(scale, spatial, missing=scale[spatial[1]]), _units(units, spatial))
        shift3 = common_unit(_pick(shift, spatial, 0.0), _units(units, spatial))[0]
        # What is said of the whole image places level 0; it says nothing of a coarser level.
        kinds = {t["type"] for t in (inner if levels else [*inner, *outer])}
        levels.append(
            FileLevel(array, scale3 if "scale" in kinds else None, shift3 if "translation" in kinds else None)
        )
    if "z" not in axes and unit is not None:
        warnings.append("the section states no thickness: taken as its y voxel size")
    channels = (ome.get("omero") or {}).get("channels") or []
    return FileImage(
        source=location.text,
        name=name,
        format=f"OME-Zarr {version}",
        axes=axes,
        levels=tuple(levels),
        unit=unit,
        channels=tuple(str(c.get("label") or "") for c in channels),
        warnings=tuple(warnings),
        metadata=json.dumps({k: v for k, v in ome.items() if k != "connectoscope"}, sort_keys=True),
        stamp=stamp,
    )


def _axes(axes: Any, rank: int) -> tuple[str, list[str | None]]:
    """One letter an axis, and the canonical unit of each (None: not stated)."""
    if axes is None:  # before 0.3 every image had all five
        axes = list("tczyx")[-rank:]
    letters, units = "", []
    for axis in axes:
        name, kind = (axis, None) if isinstance(axis, str) else (str(axis["name"]), axis.get("type"))
        letter = _letter(name, kind)
        if letter is None:
            raise ValueError(f"axis '{name}' is none of t, c, z, y, x")
        letters += letter
        unit = None if isinstance(axis, str) else axis.get("unit")
        units.append(canonical_unit(unit) if isinstance(unit, str) else None)
    if len(letters) != rank:
        raise ValueError(f"{len(letters)} axes for arrays of rank {rank}")
    return letters, units


def _letter(name: str, kind: str | None) -> str | None:
    if kind == "channel":
        return "c"
    if kind == "time":
        return "t"
    return name.lower()[:1] if name.lower() in ("t", "c", "z", "y", "x", "time", "channel") else None


def _pick(values: Sequence[float], spatial: Sequence[int], missing: float) -> list[float]:
    return [missing if i < 0 else values[i] for i in spatial]


def _units(units: Sequence[str | None], spatial: Sequence[int]) -> list[str | None]:
    return [units[spatial[1]] if i < 0 else units[i] for i in spatial]


def _combined(transformations: Sequence[Json], rank: int) -> tuple[list[float], list[float]]:
    """Scale and translation of transformations applied one after the other."""
    scale, shift = [1.0] * rank, [0.0] * rank
    for transformation in transformations:
        kind = transformation["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation"):
            raise ValueError(f"transformation '{kind}' is not supported")
        if kind not in transformation:
            raise ValueError(f"transformation '{kind}' without numbers (a 'path' is not supported)")
        values = [float(v) for v in transformation[kind]]
        if len(values) != rank or not all(map(math.isfinite, values)):
            raise ValueError(f"{kind} {values} for {rank} axes")
        if kind == "scale":
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            shift = [a * b for a, b in zip(shift, values, strict=True)]
        else:
            shift = [a + b for a, b in zip(shift, values, strict=True)]
    return scale, shift
